"""The lines of tables: what teams, models and features used and cost, summed for reading.

Sums stay exact here; templates round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from costwatch.accounts.models import Team
from costwatch.attribution.queries import Histogram, Percentiles, percentiles_of
from costwatch.domain.money import total
from costwatch.pricing.cost import CostRow, Dimension
from costwatch.web.charts import SERIES

UNATTRIBUTED = "Unattributed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What several rows used together."""

    calls: int = 0
    failed_calls: int = 0
    unknown_usage_calls: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0
    device_ns: int = 0
    energy_uj: int = 0
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    unpriced_device_ns: int = 0
    cost: Decimal = Decimal(0)

    @property
    def all_input_tokens(self) -> int:
        """What went in, whether computed or read from a cache."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_write_input_tokens

    @property
    def shown_cost(self) -> Decimal | None:
        """None where nothing of it has a price, or nobody said how much it was: unknown is not free."""
        unknown = self.unpriced_calls or self.unknown_usage_calls
        return None if not self.cost and unknown else self.cost

    @property
    def shown_input_tokens(self) -> int | None:
        """None where no call said how much it was."""
        return self.all_input_tokens if self.unknown_usage_calls < self.calls else None

    @property
    def shown_output_tokens(self) -> int | None:
        """None where no call said how much it was."""
        return self.output_tokens if self.unknown_usage_calls < self.calls else None

    @property
    def cached_share(self) -> float | None:
        """The part of the input that was read from a cache.

        None where none was reported: a sum of zero does not tell calls that read nothing from calls that did not say.
        """
        cached = self.cache_read_input_tokens
        return cached / self.all_input_tokens if cached else None


_COUNTS = tuple(name for name in Use.__dataclass_fields__ if name != "cost")


def sum_of(rows: Iterable[CostRow | Use]) -> Use:
    known = list(rows)
    counts = {name: sum(getattr(row, name) for row in known) for name in _COUNTS}
    return Use(cost=total(row.cost for row in known), **counts)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table; depth is how far a team's name is indented."""

    label: str
    use: Use
    share: Decimal | None  # of the table's cost; None where that is zero
    key: Any = None
    detail: str = ""
    depth: int = 0
    colour: int = 0
    has_own: bool = True  # false: only what is below it used anything
    latency: Mapping[str, Percentiles] = field(default_factory=dict)


def lines_by(
    rows: Iterable[CostRow],
    dimension: Dimension,
    *,
    detail: Dimension | None = None,
    latency: Mapping[Any, Mapping[str, Percentiles]] | None = None,
    unnamed: str = "unknown",
) -> list[Line]:
    """A line for each value of a dimension (with a second one as detail), the dearest first."""
    grouped: dict[Any, list[CostRow]] = defaultdict(list)
    for row in rows:
        grouped[row.key[dimension], row.label[detail] if detail else ""].append(row)
    uses = {key: sum_of(group) for key, group in grouped.items()}
    everything = total(use.cost for use in uses.values())
    lines = [
        Line(
            grouped[key, said][0].label[dimension] or unnamed,
            use,
            _share(use.cost, everything),
            key=key,
            detail=said,
            latency=(latency or {}).get(key, {}),
        )
        for (key, said), use in uses.items()
    ]
    return sorted(lines, key=_dearest_first)


def team_lines(
    teams: Iterable[Team],
    rows: Iterable[CostRow],
    latency: Mapping[Any, Histogram],
    root: Team | None = None,
) -> list[Line]:
    """The tree of teams that used anything: each with what is below it, siblings by cost; the unattributed last.

    latency   of each team alone; None: of the unattributed.
    root      only the tree below it, and itself; None: all.
    """
    own = _own(rows)
    everything = total(use.cost for use in own.values())
    colours = colours_of(own)
    below: dict[int | None, list[Team]] = defaultdict(list)
    for team in teams:
        below[team.parent_id].append(team)

    def branch(team: Team, depth: int) -> list[Line]:
        deeper = _by_cost([branch(child, depth + 1) for child in below[team.pk]])
        used = sum_of(
            [own.get(team.pk, Use()), *(line.use for line in deeper if line.depth == depth + 1)]
        )
        if not used.calls:
            return []
        line = Line(
            team.name,
            used,
            _share(used.cost, everything),
            key=team.pk,
            depth=depth,
            colour=colours.get(team.pk, 0),
            has_own=team.pk in own,
            latency=percentiles_of(
                latency.get(key, {}) for key in (team.pk, *(line.key for line in deeper))
            ),
        )
        return [line, *deeper]

    lines = _by_cost([branch(team, 0) for team in ([root] if root else below[None])])
    if None in own:
        use = own[None]
        lines.append(
            Line(
                UNATTRIBUTED,
                use,
                _share(use.cost, everything),
                latency=percentiles_of([latency.get(None, {})]),
            )
        )
    return lines


def _own(rows: Iterable[CostRow]) -> dict[Any, Use]:
    grouped: dict[Any, list[CostRow]] = defaultdict(list)
    for row in rows:
        grouped[row.key[Dimension.TEAM]].append(row)
    return {team_id: sum_of(group) for team_id, group in grouped.items()}


def colours_of(uses: Mapping[Any, Use]) -> dict[Any, int]:
    """A colour for each of the dearest; by key, so that colours stay when the order changes. None is the rest."""
    named = [key for key in uses if key is not None]
    dearest = sorted(named, key=lambda key: (-uses[key].cost, -uses[key].calls, str(key)))
    return {key: i + 1 for i, key in enumerate(sorted(dearest[:SERIES]))}


def _by_cost(branches: Iterable[list[Line]]) -> list[Line]:
    ordered = sorted((b for b in branches if b), key=lambda b: _dearest_first(b[0]))
    return [line for branch in ordered for line in branch]


def _dearest_first(line: Line) -> tuple[Decimal, int, str]:
    return -line.use.cost, -line.use.calls, line.label


def _share(cost: Decimal, everything: Decimal) -> Decimal | None:
    return cost / everything if everything else None
