"""What this room does when usage was added. Before the budgets, which compute with its rates: see INSTALLED_APPS."""

from costwatch.pricing.rates import refresh_if_new


def rate_new_offerings(*, organization_id: int, **_: object) -> None:
    refresh_if_new(organization_id)
