"""GET and POST /exchange-rates. With ?preview=true none is set: the answer is what they would change."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.models import Organization
from costwatch.api.once import IDEMPOTENCY_KEY, once
from costwatch.api.parameters import END, START, flag, period_of, whole_number
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.prices import PREVIEW, PricePreviewSerializer
from costwatch.api.scope import OrganizationView
from costwatch.domain.exchange import currency_named
from costwatch.pricing.exchange import rows_of
from costwatch.pricing.exchange_rates import (
    MOST_AT_ONCE,
    DayRate,
    expect_base,
    expect_quote,
    set_rates,
)
from costwatch.pricing.models import ExchangeRate
from costwatch.pricing.rate_files import rate_named
from costwatch.reports.repricing import preview_of_rates

MOST = 1000
_MOST_PAGES = 100_000
_LONGEST = 40


class ExchangeRateSerializer(serializers.Serializer[Any]):
    """What one unit of base is in quote, from a UTC day on until the next rate, or until it is too old."""

    date = serializers.DateField()
    base = serializers.CharField(help_text="a price's currency")
    quote = serializers.CharField(help_text="the organization's")
    rate = serializers.CharField(help_text="a decimal")
    source = serializers.CharField()  # type: ignore[assignment]  # a field of that name
    approved_by = serializers.CharField(allow_null=True)
    entered_at = serializers.DateTimeField(help_text="or corrected")

    def to_representation(self, row: ExchangeRate) -> dict[str, Any]:
        return {
            "date": row.date.isoformat(),
            "base": row.base,
            "quote": row.quote,
            "rate": f"{row.rate.normalize():f}",
            "source": row.source,
            "approved_by": row.approved_by.email if row.approved_by else None,
            "entered_at": row.entered_at.isoformat(),
        }


class RateField(serializers.CharField):
    """A decimal as text: a JSON number would come as a binary fraction, which money is never made of."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError('expected a decimal as text, such as "0.9217"')
        return super().to_internal_value(data)


class NewRateSerializer(serializers.Serializer[Any]):
    """One unit of base is so many of the organization's currency. Rates are not turned around: 1/x is not exact."""

    date = serializers.DateField(help_text="the UTC day from which it holds")
    base = serializers.CharField(max_length=3, help_text="a price's currency")
    quote = serializers.CharField(
        max_length=3, required=False, help_text="the organization's currency, which is the default"
    )
    rate = RateField(max_length=_LONGEST, help_text="a decimal as text, above zero")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        organization: Organization = self.context["organization"]
        try:
            expect_quote(organization, currency_named(attrs.get("quote", organization.currency)))
            rate = DayRate(attrs["date"], attrs["base"], rate_named(attrs["rate"]))
            expect_base(organization, rate.base)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        return {"rate": rate}


class ExchangeRatesView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="exchange_rates_list",
        summary="Exchange rates that may hold in a period, by currency and day",
        parameters=[
            START,
            END,
            OpenApiParameter("limit", int, description=f"1 to {MOST}; 100 without it."),
            OpenApiParameter("page", int, description="1 without it."),
        ],
        responses=inline_serializer(
            "ExchangeRatesPage",
            {
                "results": ExchangeRateSerializer(many=True),
                "count": serializers.IntegerField(help_text="on all pages"),
                "next_page": serializers.IntegerField(
                    allow_null=True, help_text="null: that was all"
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        period = period_of(request, self.organization)
        found = rows_of(self.organization, period).select_related("approved_by")
        limit = whole_number(request, "limit", default=100, most=MOST)
        number = whole_number(request, "page", default=1, most=_MOST_PAGES)
        page = Paginator(found, limit).get_page(number)
        is_there = number == page.number
        rows = ExchangeRateSerializer(page if is_there else found.none(), many=True).data
        more = is_there and page.has_next()
        return Response(
            {
                "results": rows,
                "count": page.paginator.count,
                "next_page": number + 1 if more else None,
            }
        )

    @extend_schema(
        summary="Set exchange rates, all or none",
        description="A rate of a day that has one takes its place, and re-costs all months that are not closed; closed "
        f"ones get adjustments. Up to {MOST_AT_ONCE:,} at once.",
        parameters=[PREVIEW, IDEMPOTENCY_KEY],
        request=NewRateSerializer(many=True),
        responses={
            201: inline_serializer(
                "EnteredRates",
                {name: serializers.IntegerField() for name in ("new", "corrected", "unchanged")},
            ),
            200: PricePreviewSerializer,
        },
    )
    @once
    def post(self, request: Request) -> Response:
        asked = NewRateSerializer(
            data=request.data,
            many=True,
            allow_empty=False,
            max_length=MOST_AT_ONCE,  # type: ignore[call-arg]  # the stubs know it of lists alone
            context={"organization": self.organization},
        )
        asked.is_valid(raise_exception=True)
        rates = [one["rate"] for one in asked.validated_data]
        try:
            if flag(request, "preview"):
                preview = preview_of_rates(self.organization, rates)
                return Response(PricePreviewSerializer(preview).data)
            entered = set_rates(self.organization, rates, source="API", approved_by=self.user)
        except ValueError as error:
            raise ValidationError({"non_field_errors": [str(error)]}) from None
        said = {name: getattr(entered, name) for name in ("new", "corrected", "unchanged")}
        return Response(said, status.HTTP_201_CREATED)
