"""Token counts as a span gives them → disjoint meters, and why the span cannot be right where it cannot.

Dialects disagree on whether input tokens include those read from and written to a cache, and a few on whether output
includes reasoning. A span often says so itself: by a total that only one reading explains, or by more cached tokens
than input. The meters then follow that reading, and the second is marked, because it is the library that is wrong.
"""

from typing import NamedTuple

from collectors.observation import Provenance, Usage

MAX_TOKENS = 10**12  # no call is that large; a bigger count is garbage, and would overflow sums

NO_USAGE = Usage()

# Without the numbers: what is wrong is counted by its text, and the numbers stand on the span.
_CACHED = "more cached tokens than input tokens; read as input without them"
_REASONED = "more reasoning tokens than output tokens; read as output without them"


class Counts(NamedTuple):
    """Token counts as they stand on a span; None: not there."""

    input: int | None
    output: int | None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class Metered(NamedTuple):
    """Disjoint meters, where they come from, and what is wrong with them (empty: nothing)."""

    usage: Usage
    provenance: Provenance
    contradiction: str


NOTHING = Metered(NO_USAGE, Provenance.ABSENT, "")


def metered(counts: Counts, *, input_excludes_cache: bool) -> Metered:
    """Meters that do not overlap. What a span does not say stays None."""
    counts, bad = _possible(counts)
    if counts.input is None and counts.output is None:
        return Metered(NO_USAGE, Provenance.ABSENT, bad)
    if not counts.input and not counts.output:
        # No inference reads nothing: libraries write zeros for streams whose usage never reached them.
        return Metered(NO_USAGE, Provenance.ABSENT, bad)
    fresh, input_wrong = _fresh_input(counts, input_excludes_cache)
    output, output_wrong = _whole_output(counts)
    usage = Usage(fresh, counts.cache_read, counts.cache_write, output, counts.reasoning)
    if not (bad or input_wrong or output_wrong):
        return Metered(usage, Provenance.REPORTED, "")
    wrongs = [wrong for wrong in (bad, input_wrong, output_wrong) if wrong]
    return Metered(usage, Provenance.REPORTED, "; ".join(wrongs))


def _possible(counts: Counts) -> tuple[Counts, str]:
    """The counts that can be, and what was wrong with the others."""
    for count in counts:
        if count is not None and not 0 <= count <= MAX_TOKENS:
            break
    else:
        return counts, ""
    named = zip(Counts._fields, counts, strict=True)
    bad = [name for name, count in named if count is not None and not 0 <= count <= MAX_TOKENS]
    return counts._replace(**dict.fromkeys(bad)), f"impossible count of {', '.join(bad)} tokens"


def _fresh_input(counts: Counts, input_excludes_cache: bool) -> tuple[int | None, str]:
    """Input tokens that met no cache, and what is wrong."""
    cached = (counts.cache_read or 0) + (counts.cache_write or 0)
    if counts.input is None or not cached or input_excludes_cache:
        return counts.input, ""
    if cached > counts.input:
        return counts.input, "" if _total_is(counts, counts.input + cached) else _CACHED
    if _total_is(counts, counts.input + cached):
        return counts.input, ""
    return counts.input - cached, ""


def _total_is(counts: Counts, input_tokens: int) -> bool:
    return counts.total is not None and counts.total == input_tokens + (counts.output or 0)


def _whole_output(counts: Counts) -> tuple[int | None, str]:
    """Output tokens with reasoning, and what is wrong."""
    if not counts.reasoning or counts.output is None:
        return counts.output, ""
    both = counts.output + counts.reasoning
    if counts.total is not None and counts.total == (counts.input or 0) + both:
        return both, ""
    if counts.reasoning > counts.output:
        return both, _REASONED
    return counts.output, ""
