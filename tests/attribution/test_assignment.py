from datetime import datetime, timedelta

import pytest

from costwatch.accounts.models import Organization, Team
from costwatch.attribution import ingest
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import AssignmentRule, Source, SourceTeam
from tests.factories import NOON, OrganizationFactory, TeamFactory, body, ingest_key, observation


@pytest.fixture
def search(organization: Organization) -> Team:
    return TeamFactory(organization=organization, name="Web Search", cost_centre="CC-17")


def who_pays(at: datetime = NOON) -> tuple[str | None, str]:
    [payer] = [
        period
        for period in SourceTeam.objects.select_related("team")
        if (period.valid_from is None or period.valid_from <= at)
        and (period.valid_until is None or period.valid_until > at)
    ]
    return (payer.team.name if payer.team else None, payer.reason)


@pytest.mark.parametrize("tag", ["web-search", "Web Search", "WEB-SEARCH", "cc-17"])
def test_a_tag_names_the_team_by_slug_name_or_cost_centre(
    organization: Organization, search: Team, tag: str
) -> None:
    ingest.take(ingest_key(organization), body(observation(team=tag)))
    assert who_pays() == ("Web Search", "team tag")


def test_without_a_tag_the_team_of_the_key_pays(organization: Organization, search: Team) -> None:
    ingest.take(ingest_key(organization, team=search), body(observation()))
    assert who_pays() == ("Web Search", "key's team")


def test_what_nothing_names_is_unattributed(organization: Organization, search: Team) -> None:
    ingest.take(ingest_key(organization), body(observation(team="nobody")))
    assert who_pays() == (None, "no rule matches")


def test_the_first_rule_by_priority_wins_in_its_hours(
    organization: Organization, search: Team
) -> None:
    support = TeamFactory(organization=organization, name="Support")
    ingest.take(ingest_key(organization), body(observation(team="web-search", feature="chat-v2")))
    noon = NOON.replace(minute=0)
    AssignmentRule.objects.create(
        organization=organization, team=support, priority=1, feature="CHAT-*", valid_from=noon
    )
    AssignmentRule.objects.create(organization=organization, team=search, priority=2)
    reassign(organization.pk)
    assert who_pays(noon - timedelta(seconds=1)) == ("Web Search", "rule")
    assert who_pays(noon) == ("Support", "rule")
    periods = SourceTeam.objects.filter(source=Source.objects.get())
    assert periods.count() == 2, "no gap and no overlap"


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("shop", True),
        ("SHOP", True),
        ("sh*", True),
        ("*", True),
        ("", True),
        ("*h*p", True),
        ("sho", False),
        ("s?op", False),
        ("[s]hop", False),
        ("shop*x", False),
    ],
)
def test_only_a_star_stands_for_anything_in_a_pattern(
    organization: Organization, search: Team, pattern: str, fits: bool
) -> None:
    ingest.take(ingest_key(organization), body(observation(service_name="Shop")))
    AssignmentRule.objects.create(organization=organization, team=search, service_name=pattern)
    reassign(organization.pk)
    assert (who_pays()[0] == "Web Search") is fits


def test_a_pattern_of_many_stars_is_answered_as_well(
    organization: Organization, search: Team
) -> None:
    ingest.take(ingest_key(organization), body(observation(service_name="a" * 250)))
    AssignmentRule.objects.create(
        organization=organization, team=search, service_name="*a" * 100 + "*b"
    )
    reassign(organization.pk)
    assert who_pays() == (None, "no rule matches")


def test_a_change_leaves_alone_what_it_does_not_concern(
    organization: Organization, search: Team
) -> None:
    key = ingest_key(organization)
    ingest.take(key, body(observation(feature="chat"), observation(feature="mail")))
    rows = {row.source.feature: row.pk for row in SourceTeam.objects.select_related("source")}
    AssignmentRule.objects.create(organization=organization, team=search, feature="chat")
    reassign(organization.pk)
    after = {row.source.feature: row for row in SourceTeam.objects.select_related("source")}
    assert after["mail"].pk == rows["mail"]
    assert after["chat"].team == search


def test_a_rule_of_another_organization_moves_nothing(
    organization: Organization, search: Team
) -> None:
    theirs = TeamFactory()
    AssignmentRule.objects.create(organization=theirs.organization, team=theirs)
    ingest.take(ingest_key(organization), body(observation(team="web-search")))
    reassign(organization.pk)
    assert who_pays() == ("Web Search", "team tag")


@pytest.mark.django_db(transaction=True)
def test_a_team_made_after_its_telemetry_gets_that_too(transactional_db: None) -> None:
    organization = OrganizationFactory()
    ingest.take(ingest_key(organization), body(observation(team="search")))
    assert who_pays() == (None, "no rule matches")
    team = TeamFactory(organization=organization, name="Search")
    assert who_pays() == ("Search", "team tag")
    other = TeamFactory(organization=organization, name="Support")
    rule = AssignmentRule.objects.create(organization=organization, team=other, team_tag="sea*")
    assert who_pays() == ("Support", "rule")
    rule.delete()
    assert who_pays() == ("Search", "team tag")
    Team.objects.get(pk=team.pk).save()
    assert SourceTeam.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_key_that_gets_a_team_gives_it_what_it_sent(transactional_db: None) -> None:
    organization = OrganizationFactory()
    key = ingest_key(organization)
    ingest.take(key, body(observation()))
    key.team = TeamFactory(organization=organization, name="Search")
    key.save()
    assert who_pays() == ("Search", "key's team")
