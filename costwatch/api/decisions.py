"""POST /budget-decisions; POST /budget-decisions/ID/settle and …/release: asked by what makes calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle, UserRateThrottle
from rest_framework.views import APIView

from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.api.authentication import IngestKeyAuthentication
from costwatch.api.fields import TeamField, of_organization
from costwatch.api.permissions import IsMember
from costwatch.api.scope import OrganizationView
from costwatch.attribution.admission import Rate, Rates
from costwatch.attribution.models import Source
from costwatch.budgets import decisions
from costwatch.budgets.decisions import HOLD_SECONDS, MOST_HOLD_SECONDS, Conflict, Question
from costwatch.budgets.reservation_models import Reservation

_PER_SECOND = 1_000  # of one key, at one process
_LONGEST_KEY = 255
_rates = Rates()


class Settled(APIException):
    status_code = status.HTTP_409_CONFLICT


class MayAsk(IsMember):
    """A member, or whoever has a key of the organization."""

    message = "asking needs an ingest key or a token of a member"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, IngestKey) or super().has_permission(request, view)


class PerKey(BaseThrottle):
    """A gateway asks for each of its calls; a person does not."""

    def __init__(self) -> None:
        self._wait_seconds: float | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, IngestKey):
            people = UserRateThrottle()
            is_allowed: bool = people.allow_request(request, view)
            self._wait_seconds = None if is_allowed else people.wait()
            return is_allowed
        self._wait_seconds = _rates.admit(
            request.auth.pk, Rate(_PER_SECOND, None), time.monotonic()
        )
        return not self._wait_seconds

    def wait(self) -> float | None:
        return self._wait_seconds


class CostField(serializers.DecimalField):
    """A decimal as text: a JSON number would come as a binary fraction, which money is never made of."""

    def __init__(self, **options: Any) -> None:
        super().__init__(36, 18, min_value=Decimal(0), **options)

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str):
            raise serializers.ValidationError('expected a decimal as text, such as "0.0125"')
        return super().to_internal_value(data)


class QuestionSerializer(serializers.Serializer[Any]):
    """A call that is about to be made."""

    team = TeamField(
        slug_field="slug",
        queryset=Team.objects.none(),
        allow_null=True,
        default=None,
        help_text="slug of who pays; without it the key's",
    )
    feature = serializers.CharField(max_length=255, default="", allow_blank=True)
    model = serializers.CharField(max_length=255, default="", allow_blank=True)
    provider = serializers.CharField(max_length=255, default="", allow_blank=True)
    source = serializers.PrimaryKeyRelatedField(  # type: ignore[assignment]  # a field of that name
        queryset=Source.objects.none(), allow_null=True, default=None, help_text="id"
    )
    estimated_cost = CostField(
        allow_null=True,
        default=None,
        help_text='in the organization\'s currency, such as "0.0125". null: not known. "0": it costs nothing',
    )
    hold_seconds = serializers.IntegerField(
        min_value=1,
        max_value=MOST_HOLD_SECONDS,
        default=HOLD_SECONDS,
        help_text="after which it is not held any more, if nobody settles it",
    )

    def get_fields(self) -> dict[str, Any]:
        return of_organization(super().get_fields(), self.context)

    def question(self, key: IngestKey | None) -> Question:
        said = dict(self.validated_data)
        source = said.pop("source")
        if said["team"] is None and key is not None:
            said["team"] = key.team
        return Question(source_id=source.pk if source else None, **said)


class JudgedSerializer(serializers.Serializer[Any]):
    """One budget's word, with the numbers that it was decided on. Amounts are decimals."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    decision = serializers.ChoiceField(["allow", "degrade", "deny"])
    currency = serializers.CharField()
    amount = serializers.CharField()
    spent = serializers.CharField(help_text="as the ledger has it, without what has no price")
    held = serializers.CharField(help_text="for calls that are under way, or not in spent yet")
    unpriced_calls = serializers.IntegerField()
    degrade_above = serializers.CharField(allow_null=True)
    deny_above = serializers.CharField(allow_null=True)
    as_of = serializers.DateTimeField(help_text="when spent was added up")
    age_seconds = serializers.FloatField(help_text="of spent")
    period_end = serializers.DateTimeField()


class DecisionSerializer(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(["allow", "degrade", "deny"])
    id = serializers.UUIDField(allow_null=True, help_text="to settle or release; null: denied")
    expires_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    budgets = JudgedSerializer(many=True)


class SettlementSerializer(serializers.Serializer[Any]):
    cost = CostField(help_text="what the call cost, in the organization's currency")
    response_id = serializers.CharField(
        max_length=255,
        default="",
        allow_blank=True,
        help_text="the provider's: the hold ends as soon as the ledger has that call; without it after ten minutes",
    )


_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A text of your own, such as a UUID. Sent again with the same question, what was allowed is answered as "
    "before and held once; with another question it is refused with 409. What was denied is decided anew.",
)
_STATE = inline_serializer(
    "ReservationState",
    {"id": serializers.UUIDField(), "state": serializers.CharField()},
)


class _AskedView(OrganizationView):
    """Asked with a key, or as other resources are."""

    authentication_classes = [IngestKeyAuthentication, *APIView.authentication_classes]
    permission_classes: list[type[BasePermission]] = [MayAsk]
    throttle_classes = [PerKey]

    @property
    def organization(self) -> Organization:
        key = self.request.auth
        return key.organization if isinstance(key, IngestKey) else super().organization


class DecisionsView(_AskedView):
    @extend_schema(
        summary="Ask whether a call may be made",
        description="Answers allow, degrade (use something cheaper) or deny, by the strictest enforced budget that the call "
        "would be a part of, always with 200. What is allowed or degraded is held of each of these budgets until it is "
        "settled and in the ledger, released, or its time is over.",
        parameters=[_KEY],
        request=QuestionSerializer,
        responses={200: DecisionSerializer, 409: None},
    )
    def post(self, request: Request) -> Response:
        serializer = QuestionSerializer(
            data=request.data, context={"organization": self.organization}
        )
        serializer.is_valid(raise_exception=True)
        key = request.headers.get("Idempotency-Key") or None
        if key is not None and (len(key) > _LONGEST_KEY or not key.isprintable()):
            raise ValidationError(
                {"Idempotency-Key": [f"expected up to {_LONGEST_KEY} printable characters"]}
            )
        ingest_key = request.auth if isinstance(request.auth, IngestKey) else None
        question = serializer.question(ingest_key)
        try:
            return Response(decisions.decide(self.organization, question, timezone.now(), key))
        except Conflict as error:
            raise Settled(str(error)) from None


class _ReservationView(_AskedView):
    def _after(self, change: Callable[[], Reservation]) -> Response:
        try:
            reservation = change()
        except Reservation.DoesNotExist:
            raise Http404 from None
        except Conflict as error:
            raise Settled(str(error)) from None
        return Response({"id": str(reservation.pk), "state": reservation.state})


class SettleView(_ReservationView):
    @extend_schema(
        summary="Say what an allowed call cost",
        description="The same again changes nothing.",
        request=SettlementSerializer,
        responses={200: _STATE, 409: None},
    )
    def post(self, request: Request, reservation_id: UUID) -> Response:
        said = SettlementSerializer(data=request.data)
        said.is_valid(raise_exception=True)
        now, data = timezone.now(), said.validated_data
        return self._after(
            lambda: decisions.settle(
                self.organization, reservation_id, data["cost"], data["response_id"], now
            )
        )


class ReleaseView(_ReservationView):
    @extend_schema(
        summary="Say that an allowed call was not made, or failed before it cost anything",
        description="The same again changes nothing.",
        request=None,
        responses={200: _STATE, 409: None},
    )
    def post(self, request: Request, reservation_id: UUID) -> Response:
        return self._after(
            lambda: decisions.release(self.organization, reservation_id, timezone.now())
        )
