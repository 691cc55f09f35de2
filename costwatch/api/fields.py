"""Rows of the organization, as callers name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.validators import ProhibitNullCharactersValidator
from rest_framework import serializers

from costwatch.accounts.models import IngestKey, Team
from costwatch.attribution.models import Source


class TeamField(serializers.SlugRelatedField[Team]):
    """A team by its slug. Its choices are the organization's: see of_organization()."""

    def to_internal_value(self, data: Any) -> Any:
        ProhibitNullCharactersValidator()(str(data))  # before the database is asked for it
        return super().to_internal_value(data)


def of_organization(fields: dict[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with the organization's own rows as their only choices; it is in the context of what is written."""
    organization = context.get("organization")
    if organization is not None:
        if "team" in fields:
            fields["team"].queryset = organization.teams.all()
        if "key" in fields:
            fields["key"].queryset = IngestKey.objects.filter(organization=organization)
        if "source" in fields:
            fields["source"].queryset = Source.objects.filter(organization=organization)
    return fields
