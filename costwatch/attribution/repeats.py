"""Response ids that come again for another call: they merge calls, so whoever sends them is told.

    further_calls   how many calls too few are counted of observations that carry one id

Honest views of one call differ too. Client and server count differently, a framework sums, two instrumentations read
the same answer in their own ways, a gateway has its own name for a model, and of a stream that was cut somebody saw more
than the other. So only spans of one instrumentation at one vantage are compared, and not those that are around each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from collectors.observation import Observation, Provenance, Vantage
from costwatch.attribution.gaps import model_key
from costwatch.attribution.identity import CLOCKS_APART_NS, Part, input_tokens

# So many different calls of one id are looked for: a sender of a constant must not cost a square of what it sends.
_MOST_KINDS = 16
# "-2024-08-06", "-20241022", "-0613", "-v2:0", "-latest", "-preview": which of a family answered.
_VERSION = re.compile(
    r"([-@:._]?(latest|preview|exp|\d{4}-\d{2}-\d{2}|\d{6,8}|\d{4}|v\d+(:\d+)?))+$"
)

AreRelated = Callable[[Part, Part], bool]


def further_calls(parts: Iterable[Part], are_related: AreRelated) -> int:
    """How many more calls than one these observations of one id must be of; the same in whatever order they come.

    are_related   whether one of two spans is around the other.
    """
    by_eye: dict[tuple[Vantage, str], list[Part]] = defaultdict(list)
    for part in parts:
        seen = part.observation
        if not seen.error_type:
            by_eye[seen.vantage, seen.dialect].append(part)
    # Client and server both see each of several calls: what either saw alone is not added.
    return max((_further(of_eye, are_related) for of_eye in by_eye.values()), default=0)


def _further(parts: Sequence[Part], are_related: AreRelated) -> int:
    # Who is around many hides those below each other's: of a few, whoever is around the fewest stands for them.
    around = [0] * len(parts)
    if len(parts) <= _MOST_KINDS:
        around = [sum(are_related(part, other) for other in parts) for part in parts]
    ranked = sorted(
        zip(parts, around, strict=True),
        key=lambda pair: (*_little_said(pair[0]), pair[1], pair[0].begun),
    )
    kinds: list[Part] = []
    beyond = 0
    for part, _ in ranked:
        if all(_of_two_calls(part, kind) and not are_related(part, kind) for kind in kinds):
            if len(kinds) < _MOST_KINDS:
                kinds.append(part)
            else:
                beyond += 1
    return len(kinds) - 1 + beyond


def _little_said(part: Part) -> tuple[bool, bool]:
    """What says little contradicts nothing: it must not stand for the others."""
    seen = part.observation
    return not _counted(seen), not seen.response_model


def _of_two_calls(part: Part, other_part: Part) -> bool:
    one, other = part.observation, other_part.observation
    in_one_place = one.service_name == other.service_name or _lie_apart(one, other)
    if in_one_place and _models_differ(one, other):
        return True
    may_be_cut = not in_one_place and (one.streaming or other.streaming)
    return not may_be_cut and _counts_differ(one, other)


def _lie_apart(one: Observation, other: Observation) -> bool:
    """In time, by more than clocks may disagree."""
    first, last = sorted((one, other), key=lambda seen: seen.start_unix_ns)
    return last.start_unix_ns > first.end_unix_ns + CLOCKS_APART_NS


def _models_differ(one: Observation, other: Observation) -> bool:
    """Of families: an alias, a date and a path before it are all the same model."""
    a, b = _family(one.response_model), _family(other.response_model)
    return bool(a and b) and not (a.endswith(b) or b.endswith(a))


def _family(model: str) -> str:
    name = model_key(model)
    return _VERSION.sub("", name) or name


def _counts_differ(one: Observation, other: Observation) -> bool:
    """What both counted completely is not the same."""
    if not (_counted(one) and _counted(other)):
        return False
    return (
        input_tokens(one) != input_tokens(other)
        or one.usage.output_tokens != other.usage.output_tokens
    )


def _counted(seen: Observation) -> bool:
    return (
        seen.provenance is Provenance.REPORTED
        and not seen.contradiction
        and seen.usage.input_tokens is not None
        and seen.usage.output_tokens is not None
    )
