"""What a person may type, and what is said when it can't be."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator, validate_email
from django.utils import timezone

from costwatch.accounts.keys import MOST_KEYS, in_force
from costwatch.accounts.models import MOST_CONTENT_DAYS, IngestKey, Organization, Team
from costwatch.attribution.models import AssignmentRule, Source
from costwatch.attribution.rules import MOST_PRIORITY, MOST_RULES, check_hour
from costwatch.budgets.models import Budget, default_thresholds
from costwatch.domain.periods import Period, day_of
from costwatch.reports.periods import within_reach

_WORD_SHOWN = 40  # characters of a word that can't be used; the rest would fill the page


def _within_reach(day: date) -> None:
    try:
        within_reach(day, day.isoformat())
    except ValueError as error:
        raise forms.ValidationError(str(error)) from None


class SecretForm(forms.Form):
    """Of an API token: what to call it."""

    name = forms.CharField(
        max_length=200,
        label="Name",
        widget=forms.TextInput(attrs={"placeholder": "who or what uses it"}),
        error_messages={"required": "Say who or what will use it, such as: billing export."},
    )


class IngestKeyForm(SecretForm):
    """Of an ingest key: what to call it, and who pays for what it sends without a team."""

    team = forms.ModelChoiceField(
        Team.objects.none(), required=False, label="Team that pays by default", empty_label="none"
    )
    environment = forms.CharField(
        max_length=64,
        required=False,
        label="Environment",
        widget=forms.TextInput(attrs={"placeholder": "production"}),
    )

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.organization = organization
        team = self.fields["team"]
        assert isinstance(team, forms.ModelChoiceField)
        team.queryset = organization.teams.all()

    def clean(self) -> dict[str, Any]:
        if in_force(self.organization) >= MOST_KEYS:
            raise forms.ValidationError(
                f"{MOST_KEYS} keys are in force, which is the most; revoke one that is no longer used."
            )
        return super().clean() or {}


class CallsForm(forms.Form):
    """Which calls to list. Without dates: the last seven days."""

    team = forms.ModelChoiceField(
        Team.objects.none(), required=False, label="Team", empty_label="everybody"
    )
    payer = forms.ChoiceField(
        choices=(("", "anybody or nobody"), ("unattributed", "nobody: unattributed")),
        required=False,
        label="Who pays",
    )
    model = forms.CharField(
        required=False,
        label="Model",
        max_length=255,
        widget=forms.TextInput(attrs={"placeholder": "any"}),
    )
    feature = forms.CharField(
        required=False,
        label="Feature",
        max_length=255,
        widget=forms.TextInput(attrs={"placeholder": "any"}),
    )
    start = forms.DateField(
        required=False,
        label="From",
        widget=forms.DateInput(attrs={"type": "date"}),
        validators=[_within_reach],
    )
    end = forms.DateField(
        required=False,
        label="Until, included",
        widget=forms.DateInput(attrs={"type": "date"}),
        validators=[_within_reach],
    )

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.time_zone = organization.time_zone
        team = self.fields["team"]
        assert isinstance(team, forms.ModelChoiceField)
        team.queryset = organization.teams.all()

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        start, end = cleaned.get("start"), cleaned.get("end")
        if start and end and end < start:
            self.add_error("end", f"{end:%-d %B %Y} is before {start:%-d %B %Y}.")
        return cleaned

    @property
    def period(self) -> Period:
        """The days asked for, the last one included; a date that is missing is today, or six days before the other."""
        last = self.cleaned_data["end"] or timezone.localdate()
        first = self.cleaned_data["start"] or last - timedelta(days=6)
        if first > last:
            last = first
        return Period(day_of(first, self.time_zone).start, day_of(last, self.time_zone).end)


class WordsField(forms.CharField):
    """Several words in one line, separated by commas, spaces or semicolons."""

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]  # a list, as the model's field is
        return [word for word in re.split(r"[\s,;]+", super().to_python(value) or "") if word]

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(str(word) for word in value) if isinstance(value, list) else value


class PercentsField(WordsField):
    """Whole numbers of per cent, the smallest first, each once."""

    def to_python(self, value: Any) -> list[int]:  # type: ignore[override]
        words = [word.rstrip("%") for word in super().to_python(value)]
        for word in words:
            # Python reads no number of thousands of digits, so their count is looked at first.
            digits = word.isascii() and word.isdigit() and len(word) <= len("1000")
            if not digits or not 1 <= int(word) <= 1000:
                raise forms.ValidationError(
                    f"“{word[:_WORD_SHOWN]}” is no threshold: expected whole per cents from 1 to 1000, such as 50, 80, 100."
                )
        return sorted({int(word) for word in words})


class AddressesField(WordsField):
    """E-mail addresses."""

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        words = super().to_python(value)
        for word in words:
            try:
                validate_email(word)
            except forms.ValidationError:
                raise forms.ValidationError(
                    f"“{word[:_WORD_SHOWN]}” is no e-mail address: expected addresses such as ann@example.org, separated by commas."
                ) from None
        return words


if TYPE_CHECKING:
    BudgetModelForm = forms.ModelForm[Budget]
    KeyModelForm = forms.ModelForm[IngestKey]
    RuleModelForm = forms.ModelForm[AssignmentRule]
else:
    # not generic when it runs
    BudgetModelForm = KeyModelForm = RuleModelForm = forms.ModelForm


class BudgetForm(BudgetModelForm):
    """A budget; its currency is the organization's."""

    thresholds = PercentsField(
        label="Thresholds, per cent spent",
        help_text="Each is told once a period, with one mail to each address; of several crossed at once only the highest.",
        error_messages={"required": "Give at least one, such as 80."},
    )
    forecast_thresholds = PercentsField(
        required=False,
        label="Thresholds, per cent expected",
        help_text="Of what the period is expected to cost at its end, such as 100. Empty: none.",
    )
    addresses = AddressesField(
        required=False,
        label="Send mail to",
        help_text="Empty: the owners and finance of the organization.",
    )

    class Meta:
        model = Budget
        fields = (
            "name",
            "team",
            "feature",
            "model",
            "provider",
            "source",
            "amount",
            "period",
            "start_day",
            "thresholds",
            "forecast_thresholds",
            "degrade_at",
            "deny_at",
            "addresses",
            "active",
        )
        labels = {
            "active": "Active",
            "start_day": "First day",
            "degrade_at": "Degrade calls at, per cent",
            "deny_at": "Deny calls at, per cent",
        }
        help_texts = {
            "degrade_at": "Gateways that ask before a call are told to use something cheaper. Empty: never.",
            "deny_at": "They are told not to make the call, such as at 100. Empty: never.",
            "feature": "Empty: all features.",
            "model": "As on the costs page. Empty: all models.",
            "provider": "Empty: all providers.",
            "start_day": "Of a week 1 (Monday) to 7; of a month or a quarter 1 to 28.",
        }
        error_messages = {
            "name": {"required": "Give the budget a name, such as: Search, production."},
            "amount": {"required": "Give the amount for a period, such as 250.00."},
        }

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.organization = organization
        self.instance.currency = organization.currency
        self.fields["amount"].label = f"Amount a period, {organization.currency}"
        self.fields["amount"].widget.attrs["inputmode"] = "decimal"
        team = self.fields["team"]
        assert isinstance(team, forms.ModelChoiceField)
        team.queryset = organization.teams.all()
        team.empty_label = "the whole organization"
        team.help_text = "With the teams below it."
        source = self.fields["source"]
        assert isinstance(source, forms.ModelChoiceField)
        source.queryset = Source.objects.filter(organization=organization).order_by("id")
        source.empty_label = "all sources"
        if not self.instance.pk:
            self.initial.setdefault("thresholds", default_thresholds())


LIMITS = ("requests_per_second", "bytes_per_second", "max_body_bytes")
_EMPTY_LIMIT = "Empty, or more than the receiver's settings allow: as they say."


class KeyChangeForm(KeyModelForm):
    """Of a key that is in use: what it is called, who pays by default, and how much it may send."""

    class Meta:
        model = IngestKey
        fields = ("name", "team", "environment", *LIMITS)
        labels = {
            "team": "Team that pays by default",
            "requests_per_second": "Requests a second, at most",
            "bytes_per_second": "Bytes a second, at most",
            "max_body_bytes": "Largest body, bytes",
        }
        help_texts = {
            "team": "For what is sent without a team. What was sent before follows.",
            "environment": "For what names none itself, from now on.",
            "requests_per_second": f"To each receiver process. {_EMPTY_LIMIT}",
            "bytes_per_second": f"To each receiver process, decompressed. {_EMPTY_LIMIT}",
            "max_body_bytes": f"As sent or decompressed. {_EMPTY_LIMIT}",
        }

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        team = self.fields["team"]
        assert isinstance(team, forms.ModelChoiceField)
        team.queryset, team.empty_label = organization.teams.all(), "none"
        for limit in LIMITS:
            self.fields[limit].validators.append(MinValueValidator(1))


class RuleForm(RuleModelForm):
    """An assignment rule; its hours are typed in the organization's time zone."""

    class Meta:
        model = AssignmentRule
        fields = (
            "team",
            "service_name",
            "environment",
            "team_tag",
            "feature",
            "customer",
            "key",
            "priority",
            "valid_from",
            "valid_until",
        )
        labels = {
            "team": "Team that pays",
            "service_name": "Service",
            "team_tag": "Team tag, as sent",
            "key": "Ingest key",
            "valid_from": "From",
            "valid_until": "Until, excluded",
        }
        help_texts = {
            "priority": "The smallest is asked first; of equal ones the older.",
            "valid_from": "A whole hour. Empty: always was.",
            "valid_until": "A whole hour. Empty: from then on.",
        }
        error_messages = {"team": {"required": "Choose the team that pays."}}
        widgets = {
            edge: forms.DateTimeInput({"type": "datetime-local", "step": 3600}, "%Y-%m-%dT%H:%M")
            for edge in ("valid_from", "valid_until")
        }

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.instance.organization = organization
        team, key = self.fields["team"], self.fields["key"]
        assert isinstance(team, forms.ModelChoiceField)
        assert isinstance(key, forms.ModelChoiceField)
        team.queryset = organization.teams.all()
        key.queryset = IngestKey.objects.filter(organization=organization).order_by("name", "pk")
        key.empty_label = "any"
        self.fields["priority"].validators += [
            MinValueValidator(0),
            MaxValueValidator(MOST_PRIORITY),
        ]

    def clean_valid_from(self) -> datetime | None:
        return self._edge("valid_from")

    def clean_valid_until(self) -> datetime | None:
        return self._edge("valid_until")

    def _edge(self, name: str) -> datetime | None:
        moment: datetime | None = self.cleaned_data[name]
        if moment is not None:
            try:
                within_reach(moment, f"{moment:%Y-%m-%d}")
                check_hour(moment, self.instance.organization.time_zone)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
        return moment

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        start, end = cleaned.get("valid_from"), cleaned.get("valid_until")
        if start and end and end <= start:
            self.add_error("valid_until", "This is not after the beginning.")
        others = AssignmentRule.objects.filter(organization=self.instance.organization)
        if self.instance.pk is None and others.count() >= MOST_RULES:
            raise forms.ValidationError(
                f"There are {MOST_RULES} rules, which is the most; delete one, or put * into another."
            )
        return cleaned


class ContentForm(forms.Form):
    """Whether prompts and answers are stored, and for how many days."""

    stored = forms.ChoiceField(
        choices=(("no", "not stored"), ("yes", "stored")), label="Prompts and answers are"
    )
    days = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MOST_CONTENT_DAYS,
        label="Deleted after so many days",
        help_text=f"1 to {MOST_CONTENT_DAYS}, from the beginning of the call; where they are stored.",
    )

    def __init__(self, *args: Any, stored_days: int | None, **kwargs: Any) -> None:
        now = {"stored": "yes" if stored_days else "no", "days": stored_days}
        super().__init__(*args, **kwargs)
        self.initial.update(now)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("stored") == "yes" and not cleaned.get("days") and "days" not in self.errors:
            self.add_error("days", "Say for how many days, such as 30.")
        return cleaned

    @property
    def retention_days(self) -> int | None:
        """For how many days to store them; None: not at all."""
        days: int | None = self.cleaned_data["days"]
        return days if self.cleaned_data["stored"] == "yes" else None
