"""What a kind of advice finds, and what a kind is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from costwatch.accounts.models import Organization
from costwatch.domain.savings import SavingRange
from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measure for one scope, with what it would save. The names are Recommendation's fields."""

    title: str
    advice: str
    saving: SavingRange  # money per month
    pays_from: Decimal  # money per month, below which it is not worth the work
    calls_per_month: int
    evidence: dict[str, Any] = field(default_factory=dict)
    latency_effect: str
    quality_state: Recommendation.Quality
    effort: Recommendation.Effort
    reversible: bool
    source_id: int | None = None
    team_id: int | None = None
    offering_id: int | None = None

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "source_id": self.source_id,
            "team_id": self.team_id,
            "offering_id": self.offering_id,
        }

    @property
    def verdict(self) -> Recommendation.Verdict:
        if self.saving.high < self.pays_from:
            return Recommendation.Verdict.NOT_YET
        return Recommendation.Verdict.PAYS

    @property
    def pays_from_calls(self) -> int | None:
        """Calls per month from which the best estimate pays, if they stay of this kind; None where nothing is saved."""
        if not self.saving.high:
            return None
        return round(self.calls_per_month * self.pays_from / self.saving.high)


class Kind(Protocol):
    """A kind of advice. Silent, that is without findings, where it has nothing to say."""

    name: str  # in Recommendation.kind; never changes
    layer: Recommendation.Layer

    def findings(self, organization: Organization, window: Window) -> Iterable[Finding]: ...
