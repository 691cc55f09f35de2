"""What a person needs to start sending: ingest keys; and API tokens to read with."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from costwatch.accounts.keys import recorded, revoke
from costwatch.accounts.models import ApiToken, IngestKey, Secret
from costwatch.web.forms import IngestKeyForm, KeyChangeForm, SecretForm
from costwatch.web.scope import Scope, record, show
from costwatch.web.sending import otlp_doors

_IN_FORCE_FIRST = (F("revoked_at").desc(nulls_first=True), "-created_at")
_TOKEN_IDS = "token_%s"  # both forms of the page have a name


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    return _index(request, scope)


@never_cache  # the answer holds a secret
@require_POST
def create_key(request: HttpRequest, scope: Scope) -> HttpResponse:
    form = IngestKeyForm(request.POST, organization=scope.organization)
    if not form.is_valid():
        return _index(request, scope, status=400, key_form=form)
    with transaction.atomic():
        key, secret = IngestKey.issue(organization=scope.organization, **form.cleaned_data)
        record(scope, "ingest_key.created", key, **recorded(key))
    return _index(request, scope, new_key=key, secret=secret)


@require_http_methods(["GET", "POST"])
def change_key(request: HttpRequest, scope: Scope, key_id: int) -> HttpResponse:
    key = get_object_or_404(IngestKey, organization=scope.organization, pk=key_id)
    before = recorded(key)
    form = KeyChangeForm(request.POST or None, instance=key, organization=scope.organization)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            now = recorded(form.save())
            changes = {name: value for name, value in now.items() if before[name] != value}
            record(scope, "ingest_key.changed", key, **changes)
        messages.success(request, f"Saved. “{key.name}” sends by it from its next request on.")
        return redirect("settings")
    status = 400 if form.errors else 200
    return show(request, scope, "web/settings/key.html", status, form=form, name=before["name"])


@never_cache
@require_POST
def create_token(request: HttpRequest, scope: Scope) -> HttpResponse:
    form = SecretForm(request.POST, auto_id=_TOKEN_IDS)
    if not form.is_valid():
        return _index(request, scope, status=400, token_form=form)
    token, secret = ApiToken.issue(
        organization=scope.organization, user=scope.user, **form.cleaned_data
    )
    record(scope, "api_token.created", token)
    return _index(request, scope, new_token=token, secret=secret)


@require_POST
def revoke_key(_request: HttpRequest, scope: Scope, key_id: int) -> HttpResponse:
    return _revoke(scope, get_object_or_404(IngestKey, organization=scope.organization, pk=key_id))


@require_POST
def revoke_token(_request: HttpRequest, scope: Scope, token_id: int) -> HttpResponse:
    return _revoke(scope, get_object_or_404(ApiToken, organization=scope.organization, pk=token_id))


def _revoke(scope: Scope, secret: Secret) -> HttpResponse:
    with transaction.atomic():
        if revoke(secret):
            kind = "ingest_key" if isinstance(secret, IngestKey) else "api_token"
            record(scope, f"{kind}.revoked", secret)
    return redirect("settings")


def _index(request: HttpRequest, scope: Scope, status: int = 200, **more: Any) -> HttpResponse:
    context: dict[str, Any] = {
        "keys": IngestKey.objects.filter(organization=scope.organization)
        .select_related("team")
        .order_by(*_IN_FORCE_FIRST),
        "tokens": ApiToken.objects.filter(organization=scope.organization)
        .select_related("user")
        .order_by(*_IN_FORCE_FIRST),
        "key_form": IngestKeyForm(organization=scope.organization),
        "token_form": SecretForm(auto_id=_TOKEN_IDS),
        "otlp": otlp_doors(request),
        "api_url": f"{settings.COSTWATCH_URL}/api/v1/",
    }
    return show(request, scope, "web/settings/index.html", status, **(context | more))
