"""GET and POST /budgets; GET, PATCH and DELETE /budgets/ID"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field, inline_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.models import Team
from costwatch.api.fields import TeamField, of_organization
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.scope import OrganizationView
from costwatch.attribution.models import Source
from costwatch.budgets.evaluate import BudgetState, state_of
from costwatch.budgets.models import (
    LAST_START_DAY,
    MOST_ADDRESSES,
    MOST_THRESHOLDS,
    Budget,
    default_thresholds,
)
from costwatch.budgets.standings import Enforcement, enforcement_of
from costwatch.domain.forecast import Forecast


class ForecastSerializer(serializers.Serializer[Forecast]):
    """At the end of the period; with a probability of about 80 % between low and high."""

    expected = serializers.CharField(help_text="a decimal")
    low = serializers.CharField()
    high = serializers.CharField()

    def to_representation(self, instance: Forecast) -> dict[str, str]:
        return {name: f"{getattr(instance, name):f}" for name in ("expected", "low", "high")}


class EnforcementSerializer(serializers.Serializer[Enforcement]):
    """The numbers that the next decision would be made on (POST /budget-decisions). Amounts are decimals."""

    spent = serializers.CharField()
    held = serializers.CharField(help_text="for calls under way, or not in spent yet")
    as_of = serializers.DateTimeField(help_text="when spent was added up")
    degrade_above = serializers.CharField(allow_null=True)
    deny_above = serializers.CharField(allow_null=True)

    def to_representation(self, instance: Enforcement) -> dict[str, Any]:
        return instance.told()


class StateSerializer(serializers.Serializer[BudgetState]):
    """Where a budget stands: the very numbers that its alerts are decided on."""

    start = serializers.DateTimeField(source="period.start")
    end = serializers.DateTimeField(source="period.end")
    spent = serializers.SerializerMethodField(help_text="a decimal, without what has no price")
    fraction = serializers.DecimalField(20, 4, help_text="of the amount; above 1: overspent")
    forecast = ForecastSerializer(allow_null=True, help_text="null: too few days are known")
    crossed = serializers.ListField(child=serializers.IntegerField(), help_text="thresholds")
    enforcement = EnforcementSerializer(allow_null=True, help_text="null: no decision asks it")
    unpriced_calls = serializers.IntegerField()

    def get_spent(self, state: BudgetState) -> str:
        return f"{state.spent:f}"


class BudgetSerializer(serializers.ModelSerializer[Budget]):
    team = TeamField(
        slug_field="slug",
        queryset=Team.objects.none(),
        allow_null=True,
        default=None,
        help_text="slug, with the teams below it; null: the whole organization",
    )
    amount = serializers.DecimalField(
        20, 6, help_text="a period, in the organization's currency, above zero"
    )
    thresholds = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=1000),
        min_length=1,
        max_length=MOST_THRESHOLDS,
        default=default_thresholds,
        help_text="per cent; each is told once a period, of several crossed at once the highest",
    )
    forecast_thresholds = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=1000),
        max_length=MOST_THRESHOLDS,
        default=list,
        help_text="per cent, of what the period is expected to cost at its end",
    )
    # DRF's own `source` of a field is a path; here it is a column.
    source = serializers.PrimaryKeyRelatedField(  # type: ignore[assignment]
        queryset=Source.objects.none(), allow_null=True, default=None, help_text="id; null: all"
    )
    start_day = serializers.IntegerField(
        min_value=1,
        max_value=28,
        default=1,
        help_text="of a week 1 (Monday) to 7, of a month or a quarter 1 to 28",
    )
    degrade_at = serializers.IntegerField(
        min_value=1,
        max_value=1000,
        allow_null=True,
        default=None,
        help_text="per cent of the amount from which on calls that ask are degraded; null: never",
    )
    deny_at = serializers.IntegerField(
        min_value=1,
        max_value=1000,
        allow_null=True,
        default=None,
        help_text="the same, denied",
    )
    addresses = serializers.ListField(
        child=serializers.EmailField(max_length=254),
        max_length=MOST_ADDRESSES,
        default=list,
        help_text="who gets the mail; empty: owners and finance",
    )
    state = serializers.SerializerMethodField()

    class Meta:
        model = Budget
        fields = (
            "id",
            "name",
            "team",
            "feature",
            "model",
            "provider",
            "source",
            "amount",
            "currency",
            "period",
            "start_day",
            "thresholds",
            "forecast_thresholds",
            "degrade_at",
            "deny_at",
            "addresses",
            "active",
            "created_at",
            "state",
        )
        read_only_fields = ("id", "currency", "created_at")

    def get_fields(self) -> dict[str, Any]:
        return of_organization(super().get_fields(), self.context)

    @extend_schema_field(StateSerializer)
    def get_state(self, budget: Budget) -> Any:
        now = timezone.now()
        state = StateSerializer(state_of(budget, now)).data
        enforcement = enforcement_of(budget, now)
        told = EnforcementSerializer(enforcement).data if enforcement else None
        return {**state, "enforcement": told}

    def validate_amount(self, amount: Any) -> Any:
        if amount <= 0:
            raise serializers.ValidationError(f"{amount}: expected an amount above zero")
        return amount

    def validate_thresholds(self, thresholds: list[int]) -> list[int]:
        return sorted(set(thresholds))

    def validate_forecast_thresholds(self, thresholds: list[int]) -> list[int]:
        return sorted(set(thresholds))

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        before = self.instance
        period = attrs.get("period", before.period if before else Budget.PeriodKind.MONTH)
        start_day = attrs.get("start_day", before.start_day if before else 1)
        if start_day > (last := LAST_START_DAY[period]):
            raise serializers.ValidationError(
                {"start_day": f"of a {period} expected 1 to {last}, found {start_day}"}
            )
        degrade_at = attrs.get("degrade_at", before.degrade_at if before else None)
        deny_at = attrs.get("deny_at", before.deny_at if before else None)
        if degrade_at is not None and deny_at is not None and degrade_at >= deny_at:
            raise serializers.ValidationError(
                {"degrade_at": f"expected less than deny_at, {deny_at}; found {degrade_at}"}
            )
        return attrs


class BudgetsView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="budgets_list",
        summary="All budgets, and where each stands in its period",
        responses=inline_serializer("BudgetsPage", {"results": BudgetSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        found = Budget.objects.filter(organization=self.organization)
        rows = BudgetSerializer(found.select_related("team", "organization"), many=True).data
        return Response({"results": rows})

    @extend_schema(
        summary="Make a budget", request=BudgetSerializer, responses={201: BudgetSerializer}
    )
    def post(self, request: Request) -> Response:
        serializer = BudgetSerializer(
            data=request.data, context={"organization": self.organization}
        )
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            budget = serializer.save(
                organization=self.organization, currency=self.organization.currency
            )
            self.record("budget.created", budget, _written(serializer, request.data))
        return Response(serializer.data, status=status.HTTP_201_CREATED)


class BudgetView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(summary="One budget", responses=BudgetSerializer)
    def get(self, request: Request, budget_id: int) -> Response:
        return Response(BudgetSerializer(self._budget(budget_id)).data)

    @extend_schema(summary="Change a budget", request=BudgetSerializer, responses=BudgetSerializer)
    def patch(self, request: Request, budget_id: int) -> Response:
        serializer = BudgetSerializer(
            self._budget(budget_id),
            data=request.data,
            partial=True,
            context={"organization": self.organization},
        )
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            budget = serializer.save()
            self.record("budget.changed", budget, _written(serializer, request.data))
        return Response(serializer.data)

    @extend_schema(summary="Delete a budget with its alerts", responses={204: None})
    def delete(self, request: Request, budget_id: int) -> Response:
        budget = self._budget(budget_id)
        with transaction.atomic():
            self.record("budget.deleted", budget, {"amount": f"{budget.amount.normalize():f}"})
            budget.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _budget(self, budget_id: int) -> Budget:
        found = Budget.objects.filter(organization=self.organization)
        return get_object_or_404(found.select_related("team", "organization"), pk=budget_id)


def _written(serializer: BudgetSerializer, sent: Any) -> dict[str, Any]:
    """Of what was sent what is saved, as it was understood, for the audit log."""
    mine = ("id", "currency", "created_at", "state")
    return {
        name: value for name, value in serializer.data.items() if name in sent and name not in mine
    }
