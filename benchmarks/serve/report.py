"""What is printed: the table, and what must be known to read it."""

import statistics
from collections.abc import Sequence

from benchmarks.serve.rounds import Rates
from benchmarks.serve.rows import Row

_ALIKE = (
    "int8 and int4 round weights only; int4-dynamic rounds activations to 8 bits too, as llama.cpp does. With four bits our "
    "head has eight, as the file has it. Every party is a process of its own, and all but the one that is asked are stopped; "
    "servers are asked by one small client, which shares their cores."
)


def table(all_rows: Sequence[Row], rates: Rates) -> str:
    head = "| work | peer | costwatch, tokens/s | peer, tokens/s | ratio (least–most) | at least | aim |"
    return "\n".join(
        [head, "|---|---|---|---|---|---|---|", *(_line(row, rates) for row in all_rows)]
    )


def ratios(row: Row, rates: Rates) -> list[float] | None:
    """Ours to the best of the peer's settings, by round."""
    ours, theirs = rates.best([row.ours]), rates.best(row.peers)
    if ours is None or theirs is None:
        return None
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def missing(row: Row, rates: Rates) -> str:
    """Why a row has no ratio."""
    ways = [row.ours, *row.peers] if rates.best([row.ours]) is None else row.peers
    return "; ".join(
        dict.fromkeys(rates.missing[way.name] for way in ways if way.name in rates.missing)
    )


def _line(row: Row, rates: Rates) -> str:
    found = ratios(row, rates)
    ratio = _spread(found, 2) if found else f"not measured: {missing(row, rates)}"
    sides = [_spread(rates.best(ways), 1) for ways in ([row.ours], row.peers)]
    cells = [row.work, row.peer, *sides, ratio, f"{row.least:g}", f"{row.aim:g}"]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _spread(values: Sequence[float] | None, digits: int) -> str:
    """Median (least–most)."""
    if not values:
        return ""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}–{most:.{digits}f})"


def notes(all_rows: Sequence[Row], rates: Rates, about: Sequence[str]) -> str:
    """Which settings of the peers were the best, how they were set and built, and what is not alike."""
    won = [f"{row.peer} in '{row.work}': {best}" for row in all_rows if (best := _best(row, rates))]
    lines = [_ALIKE, *(f"{each}." for each in about)]
    lines += [f"Best of the settings that were tried: {'; '.join(won)}."] if won else []
    return "\n".join(["", *(f"- {line}" for line in lines)])


def _best(row: Row, rates: Rates) -> str:
    """The setting whose median is highest, where there were several."""
    tried = [way for way in row.peers if way.name not in rates.missing]
    if len(row.peers) < 2 or not tried:
        return ""
    return max(tried, key=lambda way: statistics.median(rates.best([way]) or [0.0])).setting
