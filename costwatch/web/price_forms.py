"""What people say about prices."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms

from costwatch.accounts.models import Organization
from costwatch.domain.exchange import currency_named
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.models import Meter
from costwatch.pricing.prices import PriceRange, hour_named
from costwatch.pricing.rates import Sku, sku_named
from costwatch.reports.periods import within_reach


class UtcHourField(forms.CharField):
    """A whole hour of UTC, as text; None without one."""

    def __init__(self, **said: Any) -> None:
        super().__init__(required=False, max_length=40, **said)

    def clean(self, value: Any) -> datetime | None:
        text = super().clean(value)
        try:
            moment = hour_named(text) if text else None
            if moment:
                within_reach(moment, text)
            return moment
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class CurrencyField(forms.CharField):
    """A currency's code; empty: the organization's."""

    def __init__(self) -> None:
        super().__init__(
            required=False,
            max_length=3,
            label="Currency",
            help_text="Empty: the organization's. Prices in another one need exchange rates.",
        )

    def clean(self, value: Any) -> str:
        text = super().clean(value)
        try:
            return currency_named(text) if text else ""
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


_NAMED = ("provider", "model", "meter", "service_tier", "device_type")


class PriceForm(forms.Form):
    """A contracted price of a SKU; hours are UTC's, as those of all prices."""

    provider = forms.CharField(max_length=255, required=False, label="Provider, as telemetry says")
    model = forms.CharField(max_length=255, required=False, label="Model")
    meter = forms.ChoiceField(
        choices=[("", "device time")]
        + [(m, m.replace("_", " ")) for m in Meter.values if m != Meter.DEVICE_NS],
        required=False,
        label="What is counted",
    )
    service_tier = forms.CharField(
        max_length=64, required=False, label="Service tier", help_text="Empty: standard."
    )
    device_type = forms.CharField(
        max_length=255,
        required=False,
        label="Type of device",
        help_text="Of one's own machines, instead of provider and model.",
    )
    amount = forms.DecimalField(
        max_digits=24,
        decimal_places=12,
        min_value=0,
        label="Price",
        help_text="For 1,000,000 tokens, or for a device-hour. 0 is free.",
    )
    currency = CurrencyField()
    valid_from = UtcHourField(
        label="From",
        help_text="A day or a whole hour in UTC: 2026-11-23 or 2026-11-23T09:00. Empty: always was.",
    )
    valid_until = UtcHourField(
        label="Until, excluded",
        help_text="Empty: until the next price that is set already, or for good.",
    )

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.organization = organization
        self.fields["currency"].widget.attrs["placeholder"] = organization.currency

    def clean(self) -> dict[str, Any]:
        said: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                said["sku"] = sku_named(**{name: said[name] for name in _NAMED})
            except ValueError:
                raise forms.ValidationError(
                    "Name either provider, model and what is counted, or a type of device."
                ) from None
        start, end = said.get("valid_from"), said.get("valid_until")
        if start and end and end <= start:
            self.add_error("valid_until", "Expected an hour after the first one.")
        return said

    @property
    def sku(self) -> Sku:
        sku: Sku = self.cleaned_data["sku"]
        return sku

    @property
    def price(self) -> UnitPrice:
        said = self.cleaned_data
        currency = said["currency"] or self.organization.currency
        return UnitPrice(said["amount"], self.sku.unit_quantity, currency)

    @property
    def period(self) -> PriceRange:
        return PriceRange(self.cleaned_data["valid_from"], self.cleaned_data["valid_until"])
