"""GET and POST /prices. With ?preview=true a price is not set: the answer is what it would change."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.costs import decimal_text
from costwatch.api.once import IDEMPOTENCY_KEY, once
from costwatch.api.parameters import END, START, flag, period_of
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.scope import OrganizationView
from costwatch.domain.exchange import currency_named
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.in_use import MissingRate, SkuUse, skus_used
from costwatch.pricing.models import Meter, Price
from costwatch.pricing.prices import PriceRange, hour_named, set_price
from costwatch.pricing.rates import Sku, sku_named
from costwatch.reports.repricing import PricePreview, preview_of_price

PREVIEW = OpenApiParameter(
    "preview", bool, description="true: nothing is set, and the answer says what it would change."
)


class PriceSerializer(serializers.Serializer[Price]):
    """A price row: what the unit costs, from an hour on, until an hour."""

    id = serializers.IntegerField()
    amount = serializers.CharField(help_text="a decimal")
    per = serializers.CharField(help_text="the unit, such as 1,000,000 tokens")
    currency = serializers.CharField()
    valid_from = serializers.DateTimeField(allow_null=True, help_text="null: always was")
    valid_until = serializers.DateTimeField(allow_null=True, help_text="null: from then on")
    book = serializers.CharField()
    kind = serializers.CharField(help_text="list or contracted")
    source = serializers.CharField()  # type: ignore[assignment]  # a field of that name
    approved_by = serializers.CharField(allow_null=True)

    def to_representation(self, price: Price) -> dict[str, Any]:
        return {
            "id": price.pk,
            "amount": f"{price.unit_price.normalize():f}",
            "per": price.unit_label,
            "currency": price.currency,
            "valid_from": price.valid_from.isoformat() if price.valid_from else None,
            "valid_until": price.valid_until.isoformat() if price.valid_until else None,
            "book": price.book.name,
            "kind": price.book.kind,
            "source": price.source,
            "approved_by": price.approved_by.email if price.approved_by else None,
        }


class MissingRateSerializer(serializers.Serializer[MissingRate]):
    """Days without a rate are among those from the first to the last."""

    base = serializers.CharField(help_text="the price's currency")
    quote = serializers.CharField(help_text="the organization's")
    first = serializers.DateField(help_text="a UTC day")
    last = serializers.DateField()


class SkuUseSerializer(serializers.Serializer[Any]):
    """What was used of a SKU at one price; unknown is not free: what has no price is in no cost."""

    provider = serializers.CharField(allow_null=True)
    model = serializers.CharField(allow_null=True)
    service_tier = serializers.CharField(allow_null=True, help_text="null: standard")
    device_type = serializers.CharField(allow_null=True)
    meter = serializers.ChoiceField(Meter.choices)
    state = serializers.CharField(help_text="known, free or unknown")
    calls = serializers.IntegerField()
    quantity = serializers.CharField(help_text="tokens, or a decimal of device-seconds")
    cost = serializers.CharField(
        allow_null=True, help_text="a decimal in the organization's currency; null: not known"
    )
    currency = serializers.CharField(help_text="of cost")
    price_cost = serializers.CharField(
        allow_null=True, help_text="a decimal in the price's currency; null: there is no price"
    )
    price = PriceSerializer(allow_null=True)
    missing_exchange_rate = MissingRateSerializer(
        allow_null=True, help_text="what the cost of a priced use is not known for want of"
    )

    def to_representation(self, use: SkuUse) -> dict[str, Any]:
        sku = use.sku
        is_time, missing = sku.meter == Meter.DEVICE_NS, use.missing_rate
        return {
            "provider": sku.provider or None,
            "model": sku.model or None,
            "service_tier": sku.service_tier or None,
            "device_type": sku.device_type or None,
            "meter": sku.meter,
            "state": use.state.value,
            "calls": use.calls,
            "quantity": decimal_text(use.quantity, 9) if is_time else str(use.quantity),
            "cost": f"{use.cost:f}" if use.is_known else None,
            "currency": self.context["currency"],
            "price_cost": None if use.price is None else f"{use.price_cost:f}",
            "price": None if use.price is None else PriceSerializer(use.price).data,
            "missing_exchange_rate": missing and MissingRateSerializer(missing).data,
        }


class NewPriceSerializer(serializers.Serializer[Any]):
    """A contracted price: of a provider's tokens (provider, model, meter) or of one's own devices (device_type)."""

    provider = serializers.CharField(max_length=255, default="", allow_blank=True)
    model = serializers.CharField(max_length=255, default="", allow_blank=True)
    meter = serializers.ChoiceField(
        [meter for meter in Meter.choices if meter[0] != Meter.DEVICE_NS], required=False
    )
    service_tier = serializers.CharField(max_length=64, default="", allow_blank=True)
    device_type = serializers.CharField(max_length=255, default="", allow_blank=True)
    amount = serializers.DecimalField(
        24, 12, min_value=Decimal(0), help_text="per 1,000,000 tokens, or per device-hour; 0: free"
    )
    currency = serializers.CharField(
        max_length=3,
        required=False,
        help_text="without it the organization's; of another one costs need exchange rates",
    )
    valid_from = serializers.CharField(
        max_length=40, default="", allow_blank=True, help_text="a UTC hour; empty: always was"
    )
    valid_until = serializers.CharField(
        max_length=40, default="", allow_blank=True, help_text="excluded; empty: the next price"
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            attrs["sku"] = sku_named(**{name: attrs.get(name, "") for name in _NAMED})
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        return attrs

    def validate_currency(self, value: str) -> str:
        try:
            return currency_named(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def to_internal_value(self, data: Any) -> Any:
        found = super().to_internal_value(data)
        for edge in ("valid_from", "valid_until"):
            try:
                found[edge] = hour_named(found[edge]) if found[edge] else None
            except ValueError as error:
                raise serializers.ValidationError({edge: [str(error)]}) from None
        start, end = found["valid_from"], found["valid_until"]
        if start and end and end <= start:
            raise serializers.ValidationError(
                {"valid_until": ["expected an hour after valid_from"]}
            )
        return found


_NAMED = ("provider", "model", "meter", "service_tier", "device_type")


class RepricedSerializer(serializers.Serializer[Any]):
    month = serializers.CharField()
    is_closed = serializers.BooleanField(help_text="the difference becomes an adjustment")
    team = serializers.CharField(allow_null=True, help_text="null: unattributed")
    cost_before = serializers.CharField()
    cost_after = serializers.CharField()
    unpriced_calls_before = serializers.IntegerField()
    unpriced_calls_after = serializers.IntegerField()


class PricePreviewSerializer(serializers.Serializer[PricePreview]):
    currency = serializers.CharField()
    difference = serializers.CharField(help_text="a decimal")
    warning = serializers.CharField(allow_null=True)
    results = RepricedSerializer(many=True)

    def to_representation(self, preview: PricePreview) -> dict[str, Any]:
        return {
            "currency": preview.currency,
            "difference": f"{preview.difference:f}",
            "warning": preview.warning or None,
            "results": [
                {
                    "month": month.month,
                    "is_closed": month.is_closed,
                    "team": None if row.team_id is None else row.team,
                    "cost_before": f"{row.before:f}",
                    "cost_after": f"{row.after:f}",
                    "unpriced_calls_before": row.unpriced_calls_before,
                    "unpriced_calls_after": row.unpriced_calls_after,
                }
                for month in preview.months
                for row in month.teams
            ],
        }


class PricesView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="prices_list",
        summary="What was used of each SKU, and at which price",
        parameters=[START, END],
        responses=inline_serializer("PricesPage", {"results": SkuUseSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        uses = skus_used(self.organization, period_of(request, self.organization))
        context = {"currency": self.organization.currency}
        return Response({"results": SkuUseSerializer(uses, many=True, context=context).data})

    @extend_schema(
        summary="Set a contracted price",
        description="It takes the place of what was contracted in its hours, and re-costs all months that are not closed.",
        parameters=[PREVIEW, IDEMPOTENCY_KEY],
        request=NewPriceSerializer,
        responses={201: PriceSerializer, 200: PricePreviewSerializer},
    )
    @once
    def post(self, request: Request) -> Response:
        asked = _asked(self, request)
        if flag(request, "preview"):
            preview = preview_of_price(self.organization, *asked)
            return Response(PricePreviewSerializer(preview).data)
        made = set_price(self.organization, *asked, source="API", approved_by=self.user)
        return Response(PriceSerializer(made).data, status.HTTP_201_CREATED)


def _asked(view: OrganizationView, request: Request) -> tuple[Sku, UnitPrice, PriceRange]:
    asked = NewPriceSerializer(data=request.data)
    asked.is_valid(raise_exception=True)
    said = asked.validated_data
    currency = said.get("currency") or view.organization.currency
    period = PriceRange(said["valid_from"], said["valid_until"])
    return said["sku"], UnitPrice(said["amount"], said["sku"].unit_quantity, currency), period
