"""GET /schema: the OpenAPI document of this API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.views import SpectacularAPIView

from costwatch.api.authentication import ApiTokenAuthentication, IngestKeyAuthentication
from costwatch.api.permissions import IsMember
from costwatch.api.scope import OrganizationView


class SchemaView(OrganizationView, SpectacularAPIView):
    """For members, like everything else here; drf-spectacular's own default is everybody."""

    permission_classes = [IsMember]


class ApiTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the schema about the tokens."""

    target_class = ApiTokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "cwt_…"}


class IngestKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """And about the keys that telemetry is sent with."""

    target_class = IngestKeyAuthentication
    name = "ingestKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "cwk_…"}
