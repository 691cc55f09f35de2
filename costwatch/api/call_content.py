"""GET /calls/{call_id}/content"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.api.scope import OrganizationView
from costwatch.attribution import calls, content


class PartSerializer(serializers.Serializer[Any]):
    by = serializers.CharField(help_text="a role such as user, or the attribute's name")
    text = serializers.CharField()
    left_out_bytes = serializers.IntegerField(help_text="of its end, which was not stored")


class ContentSerializer(serializers.Serializer[Any]):
    """What one observation of the call carried."""

    vantage = serializers.CharField()
    service_name = serializers.CharField()
    dialect = serializers.CharField()
    parts = PartSerializer(many=True)


@method_decorator(never_cache, name="dispatch")
class CallContentView(OrganizationView):
    @extend_schema(
        summary="What was asked and answered in a call, where the organization stores it",
        description="For owners, and the members of the team that pays for the call.",
        responses=inline_serializer("CallContent", {"results": ContentSerializer(many=True)}),
    )
    def get(self, request: Request, call_id: UUID) -> Response:
        detail = calls.detail(self.organization, call_id)
        if detail is None:
            raise NotFound(f"no call {call_id}")
        assert self.membership is not None, "IsMember let somebody in without a membership"
        if not self.membership.may_read_content(detail.call.team_id):
            raise PermissionDenied(
                "what was asked and answered is read by owners and by the members of the team that pays"
            )
        stored = content.of_observations(self.organization, detail.observations)
        rows = [{**seen, "parts": parts} for seen, parts in stored]
        return Response({"results": ContentSerializer(rows, many=True).data})
