"""Exchange rates from a file, or typed as its lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from costwatch.accounts.models import Organization
from costwatch.pricing.exchange_rates import DayRate
from costwatch.pricing.rate_files import BadFile, as_text, rates_in

_MOST_BYTES = 4 * 1024 * 1024


class RatesForm(forms.Form):
    """A file, or text. What a file says is shown as text, so that it can be sent again as it was previewed."""

    file = forms.FileField(
        required=False,
        label="CSV file",
        help_text="With the columns date,base,quote,rate; or Date and a column for each pair, such as USD/EUR.",
        widget=forms.FileInput(attrs={"accept": ".csv,text/csv"}),
    )
    text = forms.CharField(
        required=False,
        strip=False,
        max_length=1_000_000,
        label="Or its lines",
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "false", "class": "mono"}),
    )

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.organization = organization
        example = f"date,base,quote,rate\n2026-11-23,USD,{organization.currency},0.9217"
        self.fields["text"].widget.attrs["placeholder"] = example

    def clean_file(self) -> str:
        """The file's text; empty without one."""
        file = self.cleaned_data["file"]
        if not file:
            return ""
        if file.size > _MOST_BYTES:
            raise forms.ValidationError(
                f"{file.size:,} bytes: expected up to {_MOST_BYTES:,}; send the newer days alone"
            )
        try:
            return str(file.read().decode("utf-8"))
        except UnicodeDecodeError:
            raise forms.ValidationError("Expected text in UTF-8, as CSV files are.") from None

    def clean(self) -> dict[str, Any]:
        said: dict[str, Any] = super().clean() or {}
        if self.errors:
            return said
        name = "file" if said["file"] else "text"
        try:
            said["rates"] = rates_in(self.organization, said[name])
        except BadFile as error:
            self.add_error(name, forms.ValidationError(error.said))
        return said

    @property
    def rates(self) -> Sequence[DayRate]:
        rates: Sequence[DayRate] = self.cleaned_data["rates"]
        return rates

    @property
    def as_text(self) -> str:
        return as_text(self.organization, self.rates)
