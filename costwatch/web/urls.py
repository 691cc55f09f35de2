from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from costwatch.web.login import LimitedAuthenticationForm
from costwatch.web.scope import Needs, page
from costwatch.web.views import (
    budgets,
    calls,
    capacity,
    content,
    exchange_rates,
    ingest,
    organization,
    overview,
    prices,
    recommendations,
    reconciliation,
    rules,
    settings,
    sources,
    statements,
    team,
)

urlpatterns = [
    path(
        "login/",
        LoginView.as_view(
            redirect_authenticated_user=True, authentication_form=LimitedAuthenticationForm
        ),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    page("organization/", organization.choose, name="choose-organization"),
    page("", overview.overview, name="overview"),
    page("teams/<int:team_id>/", team.team, name="team"),
    page("calls/", calls.index, name="calls"),
    page("calls/<uuid:call_id>/", calls.call, name="call"),
    page("capacity/", capacity.index, name="capacity"),
    page("capacity/policy/", capacity.policy, name="capacity-policy", needs=Needs.MONEY),
    page("capacity/price/", capacity.price, name="capacity-price", needs=Needs.MONEY),
    page("capacity/pool/", capacity.pool, name="capacity-pool", needs=Needs.MONEY),
    page("budgets/", budgets.index, name="budgets"),
    page("budgets/new/", budgets.create, name="budget-create", needs=Needs.MONEY),
    page("budgets/<int:budget_id>/", budgets.change, name="budget-change", needs=Needs.MONEY),
    page(
        "budgets/<int:budget_id>/delete/", budgets.delete, name="budget-delete", needs=Needs.MONEY
    ),
    page("sources/", sources.index, name="sources"),
    page("sources/unattributed/", sources.unattributed, name="sources-unattributed"),
    page("sources/rules/", rules.index, name="sources-rules"),
    page("sources/rules/new/", rules.create, name="sources-rule-create", needs=Needs.MONEY),
    page(
        "sources/rules/<int:rule_id>/",
        rules.change,
        name="sources-rule-change",
        needs=Needs.MONEY,
    ),
    page(
        "sources/rules/<int:rule_id>/move/",
        rules.move,
        name="sources-rule-move",
        needs=Needs.MONEY,
    ),
    page(
        "sources/rules/<int:rule_id>/delete/",
        rules.delete,
        name="sources-rule-delete",
        needs=Needs.MONEY,
    ),
    page("sources/ingest/", ingest.health, name="sources-ingest"),
    page("statements/", statements.index, name="statements"),
    page("statements/month/", statements.month, name="statements-month"),
    page("statements/team/", statements.statement, name="statements-team"),
    page("statements/move/", statements.move, name="statements-move", needs=Needs.MONEY),
    page("statements/reconciliation/", reconciliation.index, name="statements-reconciliation"),
    page(
        "statements/reconciliation/fetch/",
        reconciliation.fetch,
        name="statements-reconciliation-fetch",
        needs=Needs.MONEY,
    ),
    page(
        "statements/reconciliation/file/",
        reconciliation.upload,
        name="statements-reconciliation-upload",
        needs=Needs.MONEY,
    ),
    page(
        "statements/reconciliation/project/",
        reconciliation.project,
        name="statements-reconciliation-project",
        needs=Needs.MONEY,
    ),
    page("prices/", prices.index, name="prices"),
    page("prices/exchange-rates/", exchange_rates.index, name="exchange-rates"),
    page(
        "prices/exchange-rates/load/",
        exchange_rates.load,
        name="exchange-rates-load",
        needs=Needs.MONEY,
    ),
    page("prices/set/", prices.change, name="price-set", needs=Needs.MONEY),
    page("recommendations/", recommendations.index, name="recommendations"),
    page(
        "recommendations/<int:recommendation_id>/status/",
        recommendations.set_status,
        name="recommendation-status",
        needs=Needs.MONEY,
    ),
    page("settings/", settings.index, name="settings"),
    page("settings/content/", content.change, name="settings-content", needs=Needs.OWNER),
    page("settings/keys/", settings.create_key, name="settings-create-key", needs=Needs.OWNER),
    page(
        "settings/keys/<int:key_id>/",
        settings.change_key,
        name="settings-change-key",
        needs=Needs.OWNER,
    ),
    page(
        "settings/keys/<int:key_id>/revoke/",
        settings.revoke_key,
        name="settings-revoke-key",
        needs=Needs.OWNER,
    ),
    page(
        "settings/tokens/", settings.create_token, name="settings-create-token", needs=Needs.OWNER
    ),
    page(
        "settings/tokens/<int:token_id>/revoke/",
        settings.revoke_token,
        name="settings-revoke-token",
        needs=Needs.OWNER,
    ),
]
