"""Prompts that begin alike: a prefix cache computes what they share once.

Evidence: prefix_repeated_tokens, which the runtime's shadow cache counts without keeping any text: leading prompt
tokens that had been computed before.

Estimate. A call's own work (device_ns_marginal) is that of its prompt tokens and of its output tokens. How much a
prompt token costs beside an output token is not measured per call: processed in large chunks it costs less than one
that is decoded alone, at most as much. Between these two,

    saved = marginal × w × repeated / (w × input + output)        w from LIGHTEST to 1

and at the lower end a real cache, which has to evict, holds only HELD of what the shadow cache held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.savings import SavingRange, together
from costwatch.recommendations.finding import Finding
from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.usage import OwnUsage, own_usage
from costwatch.recommendations.window import Window

LIGHTEST = Decimal("0.25")  # of an output token's work, what a prompt token takes at least
HELD = Decimal("0.8")
LEAST_REPEATED = Decimal(
    "0.05"
)  # of the prompt tokens; below it the cache's own work eats the saving
PAYS_FROM = Decimal(1)  # per month: it is a setting and can be undone


class PrefixCache:
    name = "prefix_cache"
    layer = Recommendation.Layer.SERVING

    def findings(self, organization: Organization, window: Window) -> Iterable[Finding]:
        """One per offering, since the cache is a setting of the runtime that serves it."""
        by_offering: dict[int, list[OwnUsage]] = defaultdict(list)
        for used in own_usage(organization, window.period):
            by_offering[used.offering.pk].append(used)
        for group in by_offering.values():
            if repeated_share(group) >= LEAST_REPEATED:
                yield _finding(group, window)


def repeated_share(group: Sequence[OwnUsage]) -> Decimal:
    """Of the prompt tokens that were computed, the part that had been computed before."""
    prompt = sum(used.input_tokens for used in group)
    repeated = sum(used.prefix_repeated_tokens for used in group)
    return money.EXACT.divide(Decimal(repeated), Decimal(prompt)) if prompt else Decimal(0)


def saved(used: OwnUsage) -> SavingRange:
    """Money over the window."""
    return SavingRange(
        used.price.cost(int(_saved_ns(used, LIGHTEST) * HELD)).amount,
        used.price.cost(int(_saved_ns(used, Decimal(1)))).amount,
    )


def _saved_ns(used: OwnUsage, weight: Decimal) -> Decimal:
    work = weight * used.input_tokens + used.output_tokens
    if not work:
        return Decimal(0)
    return used.device_ns_marginal * weight * used.prefix_repeated_tokens / work


def _finding(group: Sequence[OwnUsage], window: Window) -> Finding:
    offering = group[0].offering
    calls = sum(used.calls for used in group)
    share = repeated_share(group)
    return Finding(
        offering_id=offering.pk,
        title=f"Turn the prefix cache on for {offering.model} on {offering.device_type}",
        advice=(
            f"{share:.0%} of the prompt tokens had been computed before for an earlier prompt that began alike. "
            "A prefix cache computes them once. What it frees is device time: it becomes money when the machines "
            "take on more work or become fewer."
        ),
        saving=window.per_month(together(saved(used) for used in group)),
        pays_from=PAYS_FROM,
        calls_per_month=window.count_per_month(calls),
        evidence={
            "calls": calls,
            "input_tokens": sum(used.input_tokens for used in group),
            "prefix_repeated_tokens": sum(used.prefix_repeated_tokens for used in group),
            "prefix_repeated_share": f"{share:.4f}",
            "device_ns_marginal": sum(used.device_ns_marginal for used in group),
            "cost": f"{money.total(used.cost for used in group):f}",
            "sources": _sources(group),
        },
        latency_effect="shorter time to first token for prompts that begin alike",
        quality_state=Recommendation.Quality.EXACT,
        effort=Recommendation.Effort.SWITCH,
        reversible=True,
    )


def _sources(group: Sequence[OwnUsage]) -> list[dict[str, object]]:
    """The sources whose prompts repeat most."""
    most = sorted(group, key=lambda used: -used.prefix_repeated_tokens)[:5]
    return [
        {
            "source_id": used.source.pk,
            "source": str(used.source),
            "input_tokens": used.input_tokens,
            "prefix_repeated_tokens": used.prefix_repeated_tokens,
        }
        for used in most
        if used.prefix_repeated_tokens
    ]
