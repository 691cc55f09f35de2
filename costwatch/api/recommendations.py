"""GET /recommendations"""

from __future__ import annotations

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.models import Team
from costwatch.api.parameters import one_of
from costwatch.api.scope import OrganizationView
from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.queries import recommendations


class RecommendationSerializer(serializers.ModelSerializer[Recommendation]):
    """What to change, and what is known about doing so."""

    source = serializers.SerializerMethodField(help_text="null: not about a source")  # type: ignore[assignment]  # a field of that name
    team: serializers.SlugRelatedField[Team] = serializers.SlugRelatedField(
        slug_field="slug", read_only=True, allow_null=True, help_text="slug; null: not about a team"
    )
    provider = serializers.CharField(source="offering.provider", default=None, allow_null=True)
    model = serializers.CharField(source="offering.model", default=None, allow_null=True)
    evidence = serializers.DictField(
        help_text="figures that the estimate was made from, by name with unit; decimals as text"
    )
    saving_low_per_month = serializers.DecimalField(40, 20, source="saving_low")
    saving_high_per_month = serializers.DecimalField(40, 20, source="saving_high")

    class Meta:
        model = Recommendation
        fields = (
            "id",
            "kind",
            "layer",
            "title",
            "advice",
            "verdict",
            "source",
            "team",
            "provider",
            "model",
            "saving_low_per_month",
            "saving_high_per_month",
            "currency",
            "latency_effect",
            "quality_state",
            "effort",
            "reversible",
            "status",
            "evidence",
            "computed_at",
        )

    def get_source(self, row: Recommendation) -> str | None:
        return str(row.source) if row.source else None


class RecommendationsView(OrganizationView):
    @extend_schema(
        summary="What to change to pay less: what pays first, then what does not pay yet",
        parameters=[
            OpenApiParameter(
                "status", str, enum=Recommendation.Status.values, description="open without it."
            )
        ],
        responses=inline_serializer(
            "RecommendationsPage", {"results": RecommendationSerializer(many=True)}
        ),
    )
    def get(self, request: Request) -> Response:
        status = one_of(request, "status", Recommendation.Status.values, "open")
        found = recommendations(self.organization, dismissed=status == "dismissed")
        return Response({"results": RecommendationSerializer(found, many=True).data})
