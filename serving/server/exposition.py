"""Figures in Prometheus' text format, version 0.0.4.

Histogram   counts what is observed by buckets
Family      a metric's name, meaning and samples
render      families → what GET /metrics answers
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[Labels, int | float]


class Histogram:
    """bounds are the buckets' upper ends, which belong to them, in rising order; above the last there is one more."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Family:
    """kind is Prometheus': "counter", "gauge" or "histogram". A histogram has its samples in histogram."""

    name: str
    kind: str
    meaning: str
    samples: Sequence[Sample] = ()
    histogram: Histogram | None = None


def render(families: Iterable[Family], labels: Labels) -> str:
    """labels are those that every sample has."""
    return "".join(f"{line}\n" for family in families for line in _lines(family, labels))


def _lines(family: Family, labels: Labels) -> Iterator[str]:
    meaning = family.meaning.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {meaning}"
    yield f"# TYPE {family.name} {family.kind}"
    for own, value in family.samples:
        yield f"{family.name}{_braces({**labels, **own})} {_figure(value)}"
    if family.histogram is not None:
        yield from _histogram_lines(family.name, family.histogram, labels)


def _histogram_lines(name: str, histogram: Histogram, labels: Labels) -> Iterator[str]:
    ends = [_figure(each) for each in histogram.bounds] + ["+Inf"]
    below = list(accumulate(histogram.counts))
    for end, count in zip(ends, below, strict=True):
        yield f"{name}_bucket{_braces({**labels, 'le': end})} {count}"
    yield f"{name}_sum{_braces(labels)} {_figure(histogram.total)}"
    yield f"{name}_count{_braces(labels)} {below[-1]}"


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _figure(value: int | float) -> str:
    """As Prometheus' own client writes it, for a bucket's name must not change: with its ".0", and from a million on with an
    exponent, as Go does."""
    text = repr(value)
    dot = text.find(".")
    if value <= 0 or dot <= 6:
        return text
    mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
    return f"{mantissa}e+{dot - 1:02d}"


__all__ = ["CONTENT_TYPE", "Family", "Histogram", "Labels", "Sample", "render"]
