"""Idempotency-Key: a write that is sent again with the same key is answered as it was, and not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.models import Answer
from costwatch.api.scope import OrganizationView

KEPT = timedelta(days=1)
_LONGEST = 255

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A text of your own, such as a UUID. Sent again with the same request within a day, the write is not "
    "done again and answered as before; with another request it is refused.",
)


class KeyUsedOtherwise(APIException):
    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_detail = "this Idempotency-Key was sent with another request; use a new one for each"


def once(write: Callable[..., Response]) -> Callable[..., Response]:
    """Around a view's post, patch or delete. Only answers of success are kept: what was refused may be tried again."""

    @wraps(write)
    def kept(view: OrganizationView, request: Request, **ids: Any) -> Response:
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            return write(view, request, **ids)
        if len(key) > _LONGEST or not key.isprintable():
            raise ValidationError(
                {"Idempotency-Key": [f"expected up to {_LONGEST} printable characters"]}
            )
        with transaction.atomic():
            return _answer(view, request, key, lambda: write(view, request, **ids))

    return kept


def _answer(
    view: OrganizationView, request: Request, key: str, write: Callable[[], Response]
) -> Response:
    whose = Answer.objects.filter(organization=view.organization, user=view.user)
    whose.filter(at__lt=timezone.now() - KEPT).delete()
    asked = _asked(request)
    # A second one that comes at once waits here until the first has been answered.
    kept, is_new = whose.get_or_create(
        organization=view.organization,
        user=view.user,
        key=key,
        defaults={"asked": asked, "status": 0},
    )
    if is_new:
        return _written(kept, write())
    if kept.asked != asked:
        raise KeyUsedOtherwise
    return Response(kept.body, kept.status, headers={"Idempotency-Replayed": "true"})


def _written(kept: Answer, response: Response) -> Response:
    if not status.is_success(response.status_code):
        kept.delete()
        return response
    kept.status = response.status_code
    kept.body = json.loads(JSONRenderer().render(response.data) or "null")
    kept.save()
    return response


def _asked(request: Request) -> str:
    body = json.dumps(request.data, sort_keys=True)
    asked = f"{request.method} {request.get_full_path()}\n{body}"
    return hashlib.sha256(asked.encode()).hexdigest()
