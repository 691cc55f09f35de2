"""GET and POST /ingest-keys; GET, PATCH and DELETE /ingest-keys/ID"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from costwatch.accounts.keys import MOST_KEYS, in_force, recorded, revoke
from costwatch.accounts.models import IngestKey, Team
from costwatch.api.fields import TeamField, of_organization
from costwatch.api.permissions import MayChangeKeys
from costwatch.api.scope import OrganizationView


def _limit(of: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        min_value=1,
        max_value=2**31 - 1,
        allow_null=True,
        default=None,
        help_text=f"{of}; null, or more than the receiver's settings allow: as they say",
    )


class IngestKeySerializer(serializers.ModelSerializer[IngestKey]):
    """What telemetry is sent with. The secret is in the answer that makes it, and nowhere else."""

    team = TeamField(
        slug_field="slug",
        queryset=Team.objects.none(),
        allow_null=True,
        default=None,
        help_text="slug; it pays for what is sent without a team",
    )
    requests_per_second = _limit("to one receiver process")
    bytes_per_second = _limit("to one receiver process, decompressed")
    max_body_bytes = _limit("of a body, as sent or decompressed")

    class Meta:
        model = IngestKey
        fields = (
            "id",
            "name",
            "shown_prefix",
            "team",
            "environment",
            "requests_per_second",
            "bytes_per_second",
            "max_body_bytes",
            "created_at",
            "last_used_at",
            "revoked_at",
        )
        read_only_fields = ("id", "shown_prefix", "created_at", "last_used_at", "revoked_at")
        extra_kwargs = {"environment": {"help_text": "of what names none itself"}}

    def get_fields(self) -> dict[str, Any]:
        return of_organization(super().get_fields(), self.context)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is None and in_force(self.context["organization"]) >= MOST_KEYS:
            raise serializers.ValidationError(
                f"{MOST_KEYS} keys are in force, which is the most; revoke one that is no longer used"
            )
        return attrs


class NewIngestKeySerializer(serializers.Serializer[Any]):
    """A key that was just made, with its secret, which is shown this once."""

    key = IngestKeySerializer()
    secret = serializers.CharField()


class IngestKeysView(OrganizationView):
    permission_classes = [MayChangeKeys]

    @extend_schema(
        operation_id="ingest_keys_list",
        summary="All ingest keys, those in force first",
        responses=inline_serializer("IngestKeysPage", {"results": IngestKeySerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        found = IngestKey.objects.filter(organization=self.organization).select_related("team")
        ordered = sorted(found, key=lambda key: (key.revoked_at is not None, key.name, key.pk))
        return Response({"results": IngestKeySerializer(ordered, many=True).data})

    @extend_schema(
        summary="Make an ingest key; its secret is shown this once",
        request=IngestKeySerializer,
        responses={201: NewIngestKeySerializer},
    )
    def post(self, request: Request) -> Response:
        serializer = IngestKeySerializer(
            data=request.data, context={"organization": self.organization}
        )
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            key, secret = IngestKey.issue(
                organization=self.organization, **serializer.validated_data
            )
            self.record("ingest_key.created", key, recorded(key))
        made = {"key": IngestKeySerializer(key).data, "secret": secret}
        return Response(made, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


class IngestKeyView(OrganizationView):
    permission_classes = [MayChangeKeys]

    @extend_schema(summary="One ingest key", responses=IngestKeySerializer)
    def get(self, request: Request, key_id: int) -> Response:
        return Response(IngestKeySerializer(self._key(key_id)).data)

    @extend_schema(
        summary="Change an ingest key's name, team, environment or limits",
        request=IngestKeySerializer,
        responses=IngestKeySerializer,
    )
    def patch(self, request: Request, key_id: int) -> Response:
        key = self._key(key_id)
        before = recorded(key)
        serializer = IngestKeySerializer(
            key, data=request.data, partial=True, context={"organization": self.organization}
        )
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            saved = serializer.save()
            now = recorded(saved)
            changed = {name: value for name, value in now.items() if before[name] != value}
            self.record("ingest_key.changed", saved, changed)
        return Response(serializer.data)

    @extend_schema(
        summary="Revoke an ingest key: what was sent with it stays, nothing more is taken",
        responses={204: None},
    )
    def delete(self, request: Request, key_id: int) -> Response:
        key = self._key(key_id)
        with transaction.atomic():
            if revoke(key):
                self.record("ingest_key.revoked", key, {})
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _key(self, key_id: int) -> IngestKey:
        found = IngestKey.objects.filter(organization=self.organization)
        return get_object_or_404(found.select_related("team"), pk=key_id)
