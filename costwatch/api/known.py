"""ETag: what a caller has already is not sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from django.http import HttpResponse, HttpResponseBase
from django.utils.http import parse_etags
from rest_framework.request import Request

R = TypeVar("R", bound=HttpResponseBase)


def unless_known(request: Request, version: str, answer: Callable[[], R]) -> R | HttpResponse:
    """304 where If-None-Match names this version, else the answer with its ETag.

    version   what changes whenever the answer does.
    """
    etag = f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'
    named = [
        one.removeprefix("W/") for one in parse_etags(request.headers.get("If-None-Match", ""))
    ]
    response = HttpResponse(status=304) if etag in named else answer()
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    return response
