"""GET and POST /assignment-rules; GET, PATCH and DELETE /assignment-rules/ID

With ?preview=true a change is not made: the answer is what it would move.
"""

from __future__ import annotations

from copy import copy
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.models import IngestKey, Team
from costwatch.api.fields import TeamField, of_organization
from costwatch.api.parameters import flag
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.scope import OrganizationView
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.rules import (
    MOST_PRIORITY,
    MOST_RULES,
    check_hour,
    recorded,
    rules_of,
)
from costwatch.reports.periods import within_reach
from costwatch.reports.preview import Moved, Preview, preview_of_deleting, preview_of_saving
from costwatch.reports.sums import Sum

PREVIEW = OpenApiParameter(
    "preview",
    str,
    enum=["true", "false"],
    description="true: change nothing; the answer, 200, is what the change would move.",
)
_PATTERN = 'any case, * for anything; "" (two quotes): what is not said; empty: whatever it is'


class AssignmentRuleSerializer(serializers.ModelSerializer[AssignmentRule]):
    """Says which team pays for the sources that match it; the first match by priority wins."""

    team = TeamField(
        slug_field="slug", queryset=Team.objects.none(), help_text="slug of the team that pays"
    )
    priority = serializers.IntegerField(
        min_value=0,
        max_value=MOST_PRIORITY,
        default=100,
        help_text="the smallest is asked first; of equal ones the older",
    )
    key = serializers.PrimaryKeyRelatedField(
        queryset=IngestKey.objects.none(),
        allow_null=True,
        default=None,
        help_text="id of the ingest key that it was sent with; null: any",
    )
    valid_from = serializers.DateTimeField(
        allow_null=True, default=None, help_text="a whole hour of UTC; null: always was"
    )
    valid_until = serializers.DateTimeField(
        allow_null=True, default=None, help_text="excluded; a whole hour of UTC; null: from then on"
    )

    class Meta:
        model = AssignmentRule
        fields = (
            "id",
            "team",
            "priority",
            "service_name",
            "environment",
            "team_tag",
            "feature",
            "customer",
            "key",
            "valid_from",
            "valid_until",
        )
        read_only_fields = ("id",)
        extra_kwargs = {
            name: {"help_text": _PATTERN}
            for name in ("service_name", "environment", "team_tag", "feature", "customer")
        }

    def get_fields(self) -> dict[str, Any]:
        fields = of_organization(super().get_fields(), self.context)
        if "organization" in self.context:
            zone = ZoneInfo(self.context["organization"].time_zone)
            for edge in ("valid_from", "valid_until"):
                fields[edge].timezone = zone  # of what names none itself
        return fields

    def validate_valid_from(self, moment: datetime | None) -> datetime | None:
        return self._edge(moment)

    def validate_valid_until(self, moment: datetime | None) -> datetime | None:
        return self._edge(moment)

    def _edge(self, moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        try:
            within_reach(moment, moment.isoformat())
            check_hour(moment, self.context["organization"].time_zone)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        return moment

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        start, end = (
            attrs[name] if name in attrs else getattr(self.instance, name, None)
            for name in ("valid_from", "valid_until")
        )
        if start and end and end <= start:
            raise serializers.ValidationError(
                {"valid_until": [f"{end.isoformat()} is not after valid_from, {start.isoformat()}"]}
            )
        organization = self.context["organization"]
        if self.instance is None and len(rules_of(organization)) >= MOST_RULES:
            raise serializers.ValidationError(
                f"there are {MOST_RULES} rules, which is the most; delete one, or put * into another"
            )
        return attrs


class SumSerializer(serializers.Serializer[Sum]):
    calls = serializers.IntegerField()
    unpriced_calls = serializers.IntegerField()
    cost = serializers.SerializerMethodField(help_text="a decimal, without what has no price")

    def get_cost(self, instance: Sum) -> str:
        return f"{instance.cost:f}"


class MovedSerializer(serializers.Serializer[Moved]):
    """What would change hands; null is unattributed."""

    from_team_id = serializers.IntegerField(allow_null=True)
    from_team = serializers.CharField(allow_null=True)
    to_team_id = serializers.IntegerField(allow_null=True)
    to_team = serializers.CharField(allow_null=True)
    sum = SumSerializer()


class MovedMonthSerializer(serializers.Serializer[Any]):
    month = serializers.CharField(help_text="such as 2026-11")
    sum = SumSerializer()


class PreviewSerializer(serializers.Serializer[Preview]):
    """What a change of rules would move in all months, of closed ones as adjustments; nothing was changed."""

    matching_sources = serializers.IntegerField(help_text="that the rule fits, whoever pays")
    moved_sources = serializers.IntegerField(help_text="that would change hands, now or later")
    moved = MovedSerializer(many=True)
    months = MovedMonthSerializer(many=True)
    total = SumSerializer()
    currency = serializers.CharField()


class AssignmentRulesView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="assignment_rules_list",
        summary="All assignment rules, in the order in which they are asked",
        responses=inline_serializer(
            "AssignmentRulesPage", {"results": AssignmentRuleSerializer(many=True)}
        ),
    )
    def get(self, request: Request) -> Response:
        rules = AssignmentRuleSerializer(rules_of(self.organization), many=True)
        return Response({"results": rules.data})

    @extend_schema(
        summary="Make an assignment rule, or see what it would move",
        parameters=[PREVIEW],
        request=AssignmentRuleSerializer,
        responses={201: AssignmentRuleSerializer, 200: PreviewSerializer},
    )
    def post(self, request: Request) -> Response:
        preview_only = flag(request, "preview")
        serializer = AssignmentRuleSerializer(
            data=request.data, context={"organization": self.organization}
        )
        serializer.is_valid(raise_exception=True)
        if preview_only:
            rule = AssignmentRule(organization=self.organization, **serializer.validated_data)
            return _answer(preview_of_saving(self.organization, rule))
        with transaction.atomic():
            rule = serializer.save(organization=self.organization)
            self.record("assignment_rule.created", rule, recorded(rule))
        return Response(serializer.data, status=status.HTTP_201_CREATED)


class AssignmentRuleView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(summary="One assignment rule", responses=AssignmentRuleSerializer)
    def get(self, request: Request, rule_id: int) -> Response:
        return Response(AssignmentRuleSerializer(self._rule(rule_id)).data)

    @extend_schema(
        summary="Change an assignment rule, or see what that would move",
        parameters=[PREVIEW],
        request=AssignmentRuleSerializer,
        responses={200: AssignmentRuleSerializer},
        description="With preview=true the answer is as of the preview of a new rule.",
    )
    def patch(self, request: Request, rule_id: int) -> Response:
        preview_only = flag(request, "preview")
        rule = self._rule(rule_id)
        before = recorded(rule)
        serializer = AssignmentRuleSerializer(
            copy(rule),
            data=request.data,
            partial=True,
            context={"organization": self.organization},
        )
        serializer.is_valid(raise_exception=True)
        if preview_only:
            for name, value in serializer.validated_data.items():
                setattr(rule, name, value)
            return _answer(preview_of_saving(self.organization, rule))
        with transaction.atomic():
            saved = serializer.save()
            details = {"before": before, "after": recorded(saved)}
            self.record("assignment_rule.changed", saved, details)
        return Response(serializer.data)

    @extend_schema(
        summary="Delete an assignment rule, or see what that would move",
        parameters=[PREVIEW],
        responses={204: None, 200: PreviewSerializer},
    )
    def delete(self, request: Request, rule_id: int) -> Response:
        rule = self._rule(rule_id)
        if flag(request, "preview"):
            return _answer(preview_of_deleting(self.organization, rule))
        with transaction.atomic():
            self.record("assignment_rule.deleted", rule, recorded(rule))
            rule.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _rule(self, rule_id: int) -> AssignmentRule:
        found = AssignmentRule.objects.filter(organization=self.organization)
        return get_object_or_404(found.select_related("team", "key"), pk=rule_id)


def _answer(preview: Preview) -> Response:
    return Response(PreviewSerializer(preview).data)
