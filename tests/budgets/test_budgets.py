import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.header import decode_header, make_header
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from costwatch.accounts.models import Membership, Organization, Team, User
from costwatch.budgets import notify
from costwatch.budgets.evaluate import evaluate, state_of
from costwatch.budgets.models import Alert, Budget, Delivery
from costwatch.budgets.notify import deliver, due, shown
from costwatch.pricing.models import Meter
from tests.budgets.mailbox import Mailbox, mailbox
from tests.factories import MembershipFactory, OrganizationFactory, TeamFactory
from tests.pricing.usage import HOUR, exchange_rates, offering, source, token_price, used

NOW = HOUR + timedelta(minutes=50)


@pytest.fixture
def team(organization: Organization) -> Team:
    return TeamFactory(organization=organization, name="Search & Find")


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as box:
        yield box


def budget_of(organization: Organization, team: Team | None, amount: str, **fields: Any) -> Budget:
    usual = {"name": "November", "currency": "USD", "addresses": ["fin@example.org"]}
    budget = Budget(
        organization=organization, team=team, amount=Decimal(amount), **(usual | fields)
    )
    budget.full_clean()
    budget.save()
    return budget


def spend(
    organization: Organization, team: Team | None, dollars: int, hour: datetime = HOUR
) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    used(source(organization, team), offering(organization), hour, output_tokens=dollars * 10**6)


def thresholds(budget: Budget) -> list[int]:
    return sorted(budget.alerts.values_list("threshold", flat=True))


def test_a_threshold_is_crossed_when_it_is_reached(organization: Organization, team: Team) -> None:
    budget = budget_of(organization, team, "100")
    spend(organization, team, 49)
    assert evaluate(organization.pk, NOW) == []
    spend(organization, team, 50)
    assert len(evaluate(organization.pk, NOW)) == 1
    assert thresholds(budget) == [50]


def test_an_alert_is_given_once_however_often_it_is_evaluated(
    organization: Organization, team: Team
) -> None:
    budget = budget_of(organization, team, "100")
    spend(organization, team, 60)
    assert len(evaluate(organization.pk, NOW)) == 1
    assert evaluate(organization.pk, NOW) == []
    spend(organization, team, 81)
    assert len(evaluate(organization.pk, NOW + timedelta(minutes=1))) == 1
    assert evaluate(organization.pk, NOW) == []
    assert thresholds(budget) == [50, 80]
    assert Delivery.objects.count() == 2


def test_of_thresholds_crossed_at_once_the_highest_is_told(
    organization: Organization, team: Team
) -> None:
    budget = budget_of(organization, team, "100")
    spend(organization, team, 300)
    assert len(evaluate(organization.pk, NOW)) == 1
    assert thresholds(budget) == [50, 80, 100]
    assert Delivery.objects.get().alert.threshold == 100


def test_the_next_month_begins_anew(organization: Organization, team: Team) -> None:
    budget = budget_of(organization, team, "100", thresholds=[100])
    spend(organization, team, 100)
    evaluate(organization.pk, NOW)
    december = datetime(2026, 12, 2, 9, tzinfo=UTC)
    assert evaluate(organization.pk, december) == []
    spend(organization, team, 100, december)
    assert len(evaluate(organization.pk, december)) == 1
    assert [a.period_start.month for a in budget.alerts.order_by("period_start")] == [11, 12]


def test_a_month_begins_at_the_organizations_midnight(
    organization: Organization, team: Team
) -> None:
    organization.time_zone = "America/New_York"
    organization.save()
    budget = budget_of(organization, team, "100")
    spend(organization, team, 10, datetime(2026, 11, 1, 3, tzinfo=UTC))  # still October there
    spend(organization, team, 7, datetime(2026, 11, 1, 4, tzinfo=UTC))
    assert state_of(budget, NOW).spent == 7


def test_a_department_pays_for_its_teams_and_for_nobody_else(
    organization: Organization, team: Team
) -> None:
    below = TeamFactory(organization=organization, parent=team)
    for payer in (team, below, TeamFactory(organization=organization), None):
        spend(organization, payer, 10)
    assert state_of(budget_of(organization, team, "100"), NOW).spent == 20
    assert state_of(budget_of(organization, None, "100"), NOW).spent == 40


def test_spending_of_another_organization_does_not_count(organization: Organization) -> None:
    budget = budget_of(organization, None, "100")
    spend(OrganizationFactory(), None, 1000)
    assert evaluate(organization.pk, NOW) == []
    assert state_of(budget, NOW).spent == 0


def test_what_is_priced_in_another_currency_counts_at_the_days_rate(
    organization: Organization, team: Team
) -> None:
    budget = budget_of(organization, team, "100")
    token_price(organization, Meter.OUTPUT_TOKENS, "1", currency="EUR")
    used(source(organization, team), offering(organization), HOUR, output_tokens=50 * 10**6)
    assert (state_of(budget, NOW).spent, state_of(budget, NOW).unpriced_calls) == (0, 1)
    assert evaluate(organization.pk, NOW) == []
    exchange_rates(organization, "EUR", {HOUR.date(): "1.084213579246"})
    assert state_of(budget, NOW).spent == Decimal("54.2106789623")
    assert len(evaluate(organization.pk, NOW)) == 1
    assert budget.alerts.get().spent == Decimal("54.2106789623")


def test_a_budget_that_is_not_active_is_silent(organization: Organization, team: Team) -> None:
    budget_of(organization, team, "1", active=False)
    spend(organization, team, 10)
    assert evaluate(organization.pk, NOW) == []


def test_the_state_says_where_the_month_will_end(organization: Organization, team: Team) -> None:
    budget = budget_of(organization, team, "200")
    for day in range(1, 20):
        spend(organization, team, 10, HOUR.replace(day=day))
    state = state_of(budget, HOUR.replace(day=20, hour=1))
    assert (state.spent, state.fraction, state.crossed) == (190, Decimal("0.95"), (50, 80))
    assert state.forecast is not None
    assert state.forecast.expected == 300


def test_two_days_of_spending_are_no_forecast(organization: Organization, team: Team) -> None:
    budget = budget_of(organization, team, "200")
    spend(organization, team, 10)
    assert state_of(budget, NOW).forecast is None


def test_what_has_no_price_is_not_hidden_in_the_state(
    organization: Organization, team: Team
) -> None:
    budget = budget_of(organization, team, "200")
    used(source(organization, team), offering(organization), output_tokens=5, calls=3)
    state = state_of(budget, NOW)
    assert (state.spent, state.unpriced_calls) == (0, 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": Decimal(0)}, "above zero"),
        ({"currency": "EUR"}, "expected USD"),
        ({"thresholds": []}, "percents"),
        ({"thresholds": [0, 50]}, "percents"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    organization: Organization, wrong: dict[str, Any], said: str
) -> None:
    fields = {"amount": Decimal(1), "currency": "USD"} | wrong
    with pytest.raises(ValidationError, match=said):
        Budget(organization=organization, name="x", **fields).full_clean()


def test_a_budget_of_another_organizations_team_is_refused(organization: Organization) -> None:
    with pytest.raises(ValidationError, match="of this organization"):
        budget_of(organization, TeamFactory(), "1")


# Who is told


def test_with_nobody_named_owners_and_finance_are_told(
    organization: Organization, owner: User, member: User, stranger: User
) -> None:
    finance = MembershipFactory(organization=organization, role=Membership.Role.FINANCE).user
    budget = budget_of(organization, None, "1", addresses=[])
    assert budget.recipients() == [owner.email, finance.email]


def test_an_address_that_is_named_twice_is_told_once(
    organization: Organization, member: User
) -> None:
    budget = budget_of(organization, None, "1", addresses=[member.email.upper(), "a@example.org"])
    budget.members.set(organization.memberships.all())
    assert budget.recipients() == [member.email, "a@example.org"]


# Mail, to a real SMTP server


def one_delivery(organization: Organization, team: Team) -> int:
    budget_of(organization, team, "100", name="<b>Search</b>\nthis month")
    spend(organization, team, 85)
    [delivery_id] = evaluate(organization.pk, NOW)
    return delivery_id


def test_an_alert_arrives_as_text_and_html(
    organization: Organization, team: Team, box: Mailbox
) -> None:
    deliver(one_delivery(organization, team), NOW)
    [mail] = box.mails
    assert mail["To"] == "fin@example.org"
    subject = str(make_header(decode_header(mail["Subject"])))
    assert subject == (
        "Search & Find: 80 % of the budget “<b>Search</b> this month” for November 2026 is spent"
    )
    text, html = (part.get_payload(decode=True).decode() for part in mail.get_payload())  # type: ignore[union-attr]
    assert "Search & Find has spent 85.00 USD of 100.00 USD in November 2026: 85.0 %" in text
    assert "Search &amp; Find" in html
    assert "<b>Search" not in html
    assert Delivery.objects.get().state == Delivery.State.SENT


def test_what_is_sent_is_not_sent_again(
    organization: Organization, team: Team, box: Mailbox
) -> None:
    delivery_id = one_delivery(organization, team)
    for _ in range(3):
        deliver(delivery_id, NOW)
    assert len(box.mails) == 1


def test_a_busy_mail_server_is_tried_again_later(
    organization: Organization, team: Team, box: Mailbox
) -> None:
    delivery_id = one_delivery(organization, team)
    box.answer = "451 come back later"
    deliver(delivery_id, NOW)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts) == ("pending", 1)
    assert "451 come back later" in delivery.last_error
    box.answer = ""
    deliver(delivery_id, NOW + timedelta(seconds=1))
    assert box.mails == [], "it is not due yet"
    assert due(NOW) == []
    assert due(delivery.next_attempt_at) == [delivery_id]
    deliver(delivery_id, delivery.next_attempt_at)
    assert len(box.mails) == 1
    assert Delivery.objects.get().last_error == ""


def test_an_address_that_does_not_exist_is_given_up(
    organization: Organization, team: Team, box: Mailbox
) -> None:
    delivery_id = one_delivery(organization, team)
    box.answer = "550 no such mailbox"
    deliver(delivery_id, NOW)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.sent_at) == ("failed", None)
    assert due(NOW + timedelta(days=9)) == []


def test_a_mail_server_that_is_away_is_tried_for_hours_with_longer_pauses(
    organization: Organization, team: Team, settings: Any
) -> None:
    delivery_id = one_delivery(organization, team)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1  # nobody listens there
    now, pauses = NOW, []
    for _ in range(notify.MOST_ATTEMPTS):
        deliver(delivery_id, now)
        delivery = Delivery.objects.get()
        pauses.append(delivery.next_attempt_at - now)
        now = delivery.next_attempt_at
    assert pauses[:3] == [timedelta(seconds=s) for s in (30, 60, 120)]
    assert max(pauses) == timedelta(hours=1)
    assert (delivery.state, delivery.attempts) == ("failed", notify.MOST_ATTEMPTS)
    assert "not reached" in delivery.last_error


def test_small_amounts_are_shown_with_what_can_be_seen_of_them() -> None:
    assert [shown(Decimal(a)) for a in ("0", "1234.5", "0.5", "0.00123", "0.000001")] == [
        "0.00",
        "1,234.50",
        "0.50",
        "0.0012",
        "0.0000010",
    ]


# Races, in real transactions


@pytest.mark.django_db(transaction=True)
def test_two_racing_evaluators_give_one_alert(transactional_db: None, box: Mailbox) -> None:
    organization = OrganizationFactory()
    team = TeamFactory(organization=organization)
    budget = budget_of(organization, team, "100")
    spend(organization, team, 300)
    made: list[int] = []
    _race(4, lambda: made.extend(evaluate(organization.pk, NOW)))
    assert thresholds(budget) == [50, 80, 100]
    assert Alert.objects.count() == 3
    assert len(made) == Delivery.objects.count() == 1

    _race(4, lambda: deliver(made[0], NOW))
    assert len(box.mails) == 1
    assert Delivery.objects.get().attempts == 1


def _race(runners: int, run: Any) -> None:
    start = threading.Barrier(runners)
    failed: list[BaseException] = []

    def runner() -> None:
        try:
            start.wait()
            run()
        except BaseException as error:
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=runner) for _ in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
