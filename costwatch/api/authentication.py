"""Authorization: Bearer cwt_…, and cwk_… where a resource takes the keys that telemetry is sent with."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from costwatch.accounts.models import ApiToken, IngestKey, User

_USED_EVERY = timedelta(
    minutes=1
)  # how exactly last_used_at is kept; more often costs a write a request


class IngestKeyAuthentication(BaseAuthentication):
    """What sends telemetry for an organization, in nobody's name. For resources that say so, before tokens."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, IngestKey] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip().startswith(IngestKey.PREFIX):
            return None
        key = (
            IngestKey.objects.select_related("organization", "team")
            .filter(secret_hash=IngestKey.hash_of(secret.strip()), revoked_at=None)
            .first()
        )
        if key is None:
            raise AuthenticationFailed("the ingest key is unknown or revoked")
        return AnonymousUser(), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="costwatch API"'


class ApiTokenAuthentication(BaseAuthentication):
    """In the name of the token's person, in the token's organization."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None  # perhaps a session
        token = _token(secret.strip())
        _touch(token)
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="costwatch API"'


def _token(secret: str) -> ApiToken:
    token = (
        ApiToken.objects.select_related("user")
        .filter(secret_hash=ApiToken.hash_of(secret), user__is_active=True)
        .first()
    )
    if token is None:
        raise AuthenticationFailed(
            "unknown token; expected Authorization: Bearer cwt_…, made on Settings or by: costwatch create_token"
        )
    if token.revoked_at is not None:
        raise AuthenticationFailed(
            f"token {token} was revoked on {token.revoked_at:%Y-%m-%d}; make a new one on Settings"
        )
    return token


def _touch(token: ApiToken) -> None:
    now = timezone.now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - _USED_EVERY)
    ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
