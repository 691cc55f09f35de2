"""Rules asked at once about many sources answer as each rule alone would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from costwatch.attribution.assignment import PATTERNS, Rules
from costwatch.attribution.models import AssignmentRule, Source

words = st.text(alphabet="aB*[é", max_size=3)
patterns = st.just("") | st.just("*") | st.just('""') | words  # most often something fits
keys = st.integers(1, 3)
sources = st.builds(Source, key_id=keys, **dict.fromkeys(PATTERNS, words))
rules = st.builds(AssignmentRule, key_id=st.none() | keys, **dict.fromkeys(PATTERNS, patterns))


def fits(pattern: str, value: str) -> bool:
    """What * means, said in another way: the parts between stars follow each other in the value."""
    if pattern == '""':
        return value == ""
    first, *rest = pattern.lower().split("*")
    value = value.lower()
    if not rest:
        return value == first
    *middle, last = rest
    if not value.startswith(first):
        return False
    place = len(first)
    for part in middle:
        found = value.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return value.endswith(last) and len(value) - len(last) >= place


def matches(rule: AssignmentRule, source: Source) -> bool:
    return rule.key_id in {None, source.key_id} and all(
        not getattr(rule, name) or fits(getattr(rule, name), getattr(source, name))
        for name in PATTERNS
    )


@given(st.lists(rules, max_size=8), st.lists(sources, max_size=4))
def test_the_rules_that_match_a_source_are_found_in_their_order(
    some: list[AssignmentRule], seen: list[Source]
) -> None:
    asked = Rules(some)
    for source in seen:
        assert [id(rule) for rule in asked.matching(source)] == [
            id(rule) for rule in some if matches(rule, source)
        ]
