from django.urls import path

from costwatch.api.calls import CallsView
from costwatch.api.capacity import CapacityView
from costwatch.api.costs import CostsView
from costwatch.api.ingest_health import IngestHealthView
from costwatch.api.schema import SchemaView

urlpatterns = [
    path("calls", CallsView.as_view(), name="api-calls"),
    path("costs", CostsView.as_view(), name="api-costs"),
    path("capacity", CapacityView.as_view(), name="api-capacity"),
    path("ingest-health", IngestHealthView.as_view(), name="api-ingest-health"),
    path("schema", SchemaView.as_view(), name="api-schema"),
]
