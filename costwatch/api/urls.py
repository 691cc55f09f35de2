from django.urls import path

from costwatch.api.assignment_rules import AssignmentRulesView, AssignmentRuleView
from costwatch.api.budgets import BudgetsView, BudgetView
from costwatch.api.call_content import CallContentView
from costwatch.api.calls import CallsView
from costwatch.api.capacity import CapacityView
from costwatch.api.chargeback import ChargebackView
from costwatch.api.costs import CostsView
from costwatch.api.decisions import DecisionsView, ReleaseView, SettleView
from costwatch.api.exchange_rates import ExchangeRatesView
from costwatch.api.ingest_health import IngestHealthView
from costwatch.api.ingest_keys import IngestKeysView, IngestKeyView
from costwatch.api.months import MonthsView, MonthView
from costwatch.api.prices import PricesView
from costwatch.api.provider_bills import BillFetchesView, ProviderBillsView, ProviderProjectsView
from costwatch.api.recommendations import RecommendationsView
from costwatch.api.reconciliation import ReconciliationView
from costwatch.api.repetition import RepetitionView
from costwatch.api.schema import SchemaView
from costwatch.api.sources import SourcesView
from costwatch.api.statements import StatementLinesView, StatementsView, StatementView

urlpatterns = [
    path("assignment-rules", AssignmentRulesView.as_view(), name="api-assignment-rules"),
    path(
        "assignment-rules/<int:rule_id>", AssignmentRuleView.as_view(), name="api-assignment-rule"
    ),
    path("bill-fetches", BillFetchesView.as_view(), name="api-bill-fetches"),
    path("budget-decisions", DecisionsView.as_view(), name="api-budget-decisions"),
    path(
        "budget-decisions/<uuid:reservation_id>/release",
        ReleaseView.as_view(),
        name="api-budget-release",
    ),
    path(
        "budget-decisions/<uuid:reservation_id>/settle",
        SettleView.as_view(),
        name="api-budget-settle",
    ),
    path("budgets", BudgetsView.as_view(), name="api-budgets"),
    path("budgets/<int:budget_id>", BudgetView.as_view(), name="api-budget"),
    path("calls", CallsView.as_view(), name="api-calls"),
    path("calls/<uuid:call_id>/content", CallContentView.as_view(), name="api-call-content"),
    path("capacity", CapacityView.as_view(), name="api-capacity"),
    path("chargeback", ChargebackView.as_view(), name="api-chargeback"),
    path("costs", CostsView.as_view(), name="api-costs"),
    path("exchange-rates", ExchangeRatesView.as_view(), name="api-exchange-rates"),
    path("ingest-health", IngestHealthView.as_view(), name="api-ingest-health"),
    path("ingest-keys", IngestKeysView.as_view(), name="api-ingest-keys"),
    path("ingest-keys/<int:key_id>", IngestKeyView.as_view(), name="api-ingest-key"),
    path("months", MonthsView.as_view(), name="api-months"),
    path("months/<slug:month>", MonthView.as_view(), name="api-month"),
    path("prices", PricesView.as_view(), name="api-prices"),
    path("provider-bills", ProviderBillsView.as_view(), name="api-provider-bills"),
    path("provider-projects", ProviderProjectsView.as_view(), name="api-provider-projects"),
    path("reconciliation", ReconciliationView.as_view(), name="api-reconciliation"),
    path("recommendations", RecommendationsView.as_view(), name="api-recommendations"),
    path("repetition", RepetitionView.as_view(), name="api-repetition"),
    path("schema", SchemaView.as_view(), name="api-schema"),
    path("sources", SourcesView.as_view(), name="api-sources"),
    path("statements", StatementsView.as_view(), name="api-statements"),
    path("statements/<int:statement_id>", StatementView.as_view(), name="api-statement"),
    path(
        "statements/<int:statement_id>/lines",
        StatementLinesView.as_view(),
        name="api-statement-lines",
    ),
]
