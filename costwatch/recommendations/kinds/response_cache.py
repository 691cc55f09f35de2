"""The same greedy request, answered again: a response cache gives the earlier answer.

Evidence: repeated_device_ns, the device time of requests that the runtime's shadow cache had seen before, with equal
parameters and temperature zero: the answer is the same by construction, so quality cannot change.

Estimate: at most all of that time; at least the part that was the calls' own work (the rest of a step would have run
anyway), for the share HELD that is repeated before the answer expires.
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

HELD = Decimal("0.8")
LEAST_REPEATED = Decimal("0.02")  # of the device time
PAYS_FROM = Decimal(5)  # per month: somebody has to decide how long an answer holds


class ResponseCache:
    name = "response_cache"
    layer = Recommendation.Layer.SYSTEM

    def findings(self, organization: Organization, window: Window) -> Iterable[Finding]:
        """One per source, since it is the application that knows how long an answer holds."""
        by_source: dict[int, list[OwnUsage]] = defaultdict(list)
        for used in own_usage(organization, window.period):
            by_source[used.source.pk].append(used)
        for group in by_source.values():
            if repeated_share(group) >= LEAST_REPEATED:
                yield _finding(group, window)


def repeated_share(group: Sequence[OwnUsage]) -> Decimal:
    """Of the device time, the part that went into answers that had been given before."""
    repeated = Decimal(sum(used.repeated_device_ns for used in group))
    return money.EXACT.divide(repeated, Decimal(sum(used.device_ns for used in group)))


def saved(used: OwnUsage) -> SavingRange:
    """Money over the window."""
    own_work = Decimal(min(used.device_ns_marginal, used.device_ns)) / used.device_ns
    return SavingRange(
        used.price.cost(int(used.repeated_device_ns * own_work * HELD)).amount,
        used.price.cost(used.repeated_device_ns).amount,
    )


def _finding(group: Sequence[OwnUsage], window: Window) -> Finding:
    source = group[0].source
    calls = sum(used.calls for used in group)
    share = repeated_share(group)
    return Finding(
        source_id=source.pk,
        title=f"Cache the answers of {source}",
        advice=(
            f"{share:.0%} of its device time went into requests that had been answered before: the same text, the "
            "same parameters, temperature zero. A response cache in front of the model gives the earlier answer."
        ),
        saving=window.per_month(together(saved(used) for used in group)),
        pays_from=PAYS_FROM,
        calls_per_month=window.count_per_month(calls),
        evidence={
            "calls": calls,
            "device_ns": sum(used.device_ns for used in group),
            "repeated_device_ns": sum(used.repeated_device_ns for used in group),
            "repeated_share": f"{share:.4f}",
            "cost": f"{money.total(used.cost for used in group):f}",
        },
        latency_effect="repeated requests are answered at once",
        quality_state=Recommendation.Quality.EXACT,
        effort=Recommendation.Effort.DAYS,
        reversible=True,
    )
