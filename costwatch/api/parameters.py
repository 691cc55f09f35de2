"""What a caller may ask with, read strictly: a typing error is an answer, never a guess."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import TypeVar

from django.db.models import Q
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from costwatch.accounts.models import Organization, Team
from costwatch.accounts.teams import team_subtree
from costwatch.domain.periods import Period, month_of
from costwatch.reports.periods import moment_asked, month_asked

T = TypeVar("T")

START = OpenApiParameter(
    "start",
    str,
    description="First moment: a date in the organization's time zone (2026-11-01), or a time with its zone "
    "(2026-11-01T09:00:00Z). Without one: the first day of this month.",
)
END = OpenApiParameter(
    "end",
    str,
    description="Moment after the last, as start; a date's own day is not in it any more. Without one: the end of "
    "start's month.",
)
UNATTRIBUTED = OpenApiParameter(
    "unattributed",
    str,
    enum=["true", "false"],
    description="true: what nobody pays, beside what the team pays if there is one.",
)
TEAM = OpenApiParameter(
    "team", str, description="Slug or id of a team; what the teams below it used is in it."
)


def period_of(request: Request, organization: Organization) -> Period:
    """The period from `start` and `end`; this month without them. Raises ValidationError."""
    zone = organization.time_zone
    this_month = month_of(timezone.now(), zone)
    start = _moment(request, "start", zone) or this_month.start
    end = _moment(request, "end", zone) or month_of(start, zone).end
    if start >= end:
        raise ValidationError(
            {"end": [f"{end.isoformat()} is not after the start, {start.isoformat()}"]}
        )
    return Period(start, end)


def _moment(request: Request, name: str, time_zone: str) -> datetime | None:
    text = request.query_params.get(name, "").strip()
    if not text:
        return None
    return _or_invalid(name, lambda: moment_asked(text, time_zone))


def month_from(request: Request, organization: Organization) -> Period:
    """The month that `month` names; this one without it."""
    name = request.query_params.get("month", "")
    if not name:
        return month_of(timezone.now(), organization.time_zone)
    return _or_invalid("month", lambda: month_asked(name, organization.time_zone))


def _or_invalid(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        raise ValidationError({name: [str(error)]}) from None


def whole_number(request: Request, name: str, default: int, most: int) -> int:
    """From 1 to `most`."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    # Python reads no number of thousands of digits, so their count is looked at first.
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not digits or not 1 <= int(text) <= most:
        raise ValidationError({name: [f"{text!r}: expected a whole number from 1 to {most}"]})
    return int(text)


def one_of(request: Request, name: str, choices: Collection[str], default: str) -> str:
    text = request.query_params.get(name, "") or default
    if text not in choices:
        raise ValidationError({name: [f"{text!r}: expected one of {', '.join(choices)}"]})
    return text


def flag(request: Request, name: str) -> bool:
    return one_of(request, name, ("true", "false"), "false") == "true"


def several_of(request: Request, name: str, choices: Sequence[str]) -> list[str]:
    """The comma-separated words, each once; none without them."""
    words = [word.strip() for word in request.query_params.get(name, "").split(",") if word.strip()]
    for word in words:
        if word not in choices:
            raise ValidationError(
                {name: [f"{word!r}: expected some of {', '.join(choices)}, separated by commas"]}
            )
    return list(dict.fromkeys(words))


def team_ids_from(request: Request, organization: Organization) -> frozenset[int] | None:
    """The team that `team` names, by slug or id, with all teams below it; None without it."""
    text = request.query_params.get("team", "")
    if not text:
        return None
    return team_subtree(team_named(text, organization))


def team_named(text: str, organization: Organization) -> Team:
    """By slug or id. Raises ValidationError."""
    named = Q(slug=text)
    if text.isascii() and text.isdigit() and len(text) < 19:
        named |= Q(pk=int(text))
    team = organization.teams.filter(named).order_by("pk").first()
    if team is None:
        raise ValidationError(
            {"team": [f"{text!r}: expected the slug or id of a team of {organization}"]}
        )
    return team
