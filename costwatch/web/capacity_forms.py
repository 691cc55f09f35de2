"""What people say about pools of their own devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms

from costwatch.accounts.models import Organization, Team
from costwatch.domain.device_price import Bought, Rented
from costwatch.domain.idle import Policy
from costwatch.pricing.models import Pool
from costwatch.pricing.pools import DEFAULT, Held, expect_policy
from costwatch.web.price_forms import CurrencyField, UtcHourField

POLICIES = {
    Policy.PLATFORM: "the platform: nobody's team",
    Policy.PROPORTIONAL: "teams by their use of the hour",
    Policy.RESERVED: "teams by what they reserved and did not use",
    Policy.PEAK: "teams by their busiest hour of the month",
}


def _from_hour() -> UtcHourField:
    hint = {"placeholder": "2026-11-23T09:00; empty: always"}
    return UtcHourField(label="From the hour, in UTC", widget=forms.TextInput(attrs=hint))


class PolicyForm(forms.Form):
    """Who carries a pool's rest from an hour on. A team's percent is in the field percent_ID."""

    pool = forms.ModelChoiceField(
        Pool.objects.none(), required=False, label="Pool", empty_label=DEFAULT
    )
    policy = forms.ChoiceField(
        choices=[(one.value, text) for one, text in POLICIES.items()], label="Carried by"
    )
    valid_from = _from_hour()

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pool = self.fields["pool"]
        assert isinstance(pool, forms.ModelChoiceField)
        pool.queryset = Pool.objects.filter(organization=organization).order_by("name")
        self.teams = list(organization.teams.order_by("name"))
        for team in self.teams:
            self.fields[f"percent_{team.pk}"] = forms.IntegerField(
                required=False, min_value=1, max_value=100, label=f"Reserved by {team.name}, %"
            )

    @property
    def percents(self) -> Mapping[Team, int]:
        said = {team: self.cleaned_data.get(f"percent_{team.pk}") for team in self.teams}
        return {team: percent for team, percent in said.items() if percent}

    @property
    def held(self) -> Held:
        percents = {team.pk: percent for team, percent in self.percents.items()}
        return Held(Policy(self.cleaned_data["policy"]), percents)

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        if not self.errors:
            try:
                expect_policy(found["valid_from"], Policy(found["policy"]), self.percents)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
        return found


class PoolForm(forms.Form):
    """Which devices are a pool: patterns of * and ?."""

    name = forms.CharField(max_length=100, label="Pool")
    device_type = forms.CharField(
        max_length=255,
        required=False,
        label="Type of device",
        widget=forms.TextInput(attrs={"placeholder": "*H100*; empty: any"}),
    )
    device_id = forms.CharField(
        max_length=255,
        required=False,
        label="Device",
        widget=forms.TextInput(attrs={"placeholder": "GPU-7f…; empty: any"}),
    )
    valid_from = _from_hour()


class DevicePriceForm(forms.Form):
    """What a type of device costs by the hour, from how one came by it."""

    device_type = forms.CharField(max_length=255, label="Type of device, as telemetry says")
    commitment = forms.ChoiceField(
        choices=[
            ("on_demand", "rented on demand"),
            ("reserved", "rented, reserved"),
            ("bought", "bought"),
        ],
        label="How one came by it",
    )
    hourly_price = forms.DecimalField(
        required=False, min_value=0, max_digits=20, decimal_places=8, label="Rented: an hour"
    )
    purchase_price = forms.DecimalField(
        required=False, min_value=0, max_digits=14, decimal_places=2, label="Bought: purchase price"
    )
    residual_value = forms.DecimalField(
        required=False,
        min_value=0,
        max_digits=14,
        decimal_places=2,
        label="Bought: worth at the end",
    )
    lifetime_months = forms.IntegerField(
        required=False, min_value=1, max_value=240, label="Bought: lifetime in months"
    )
    watts = forms.IntegerField(
        required=False, min_value=0, max_value=100_000, label="Bought: power in watts"
    )
    kwh_price = forms.DecimalField(
        required=False, min_value=0, max_digits=10, decimal_places=6, label="Bought: price of a kWh"
    )
    currency = CurrencyField()
    valid_from = _from_hour()

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_currency = currency
        self.fields["currency"].widget.attrs["placeholder"] = currency

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        needed = _BOUGHT if found.get("commitment") == "bought" else ("hourly_price",)
        for name in needed:
            if name not in self.errors and found.get(name) is None:
                self.add_error(name, "Needed for this; 0 where it costs nothing.")
        if not self.errors:
            try:
                found["terms"] = self._terms(found)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
        return found

    def _terms(self, said: Mapping[str, Any]) -> Rented | Bought:
        currency = said["currency"] or self.own_currency
        if said["commitment"] == "bought":
            return Bought(
                said["purchase_price"],
                said["residual_value"],
                said["lifetime_months"],
                said["watts"],
                said["kwh_price"],
                currency,
            )
        return Rented(said["hourly_price"], said["commitment"] == "reserved", currency)


_BOUGHT = ("purchase_price", "residual_value", "lifetime_months", "watts", "kwh_price")
