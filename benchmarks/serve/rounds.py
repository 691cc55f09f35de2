"""Starts the parties, and lets them do their works in turn."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.serve.parties import NotMeasured, Party, awake
from benchmarks.serve.peers import Start
from benchmarks.serve.works import Way
from serving.weights import Tokenizer

# A setting of a peer that is slower than this part of its best one in the trial is not asked again.
_WORTH_A_ROUND = 0.7
_TRIAL_PART = 0.25


@dataclass
class Rates:
    """Tokens per second by way, one for each round; or why there are none."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def best(self, ways: Sequence[Way]) -> list[float] | None:
        """Of each round; None where one of the rounds has none."""
        found = [
            [each[way.name] for way in ways if way.name in each and way.name not in self.missing]
            for each in self.rounds
        ]
        return [max(each) for each in found] if found and all(found) else None


@contextlib.contextmanager
def started(starts: Mapping[str, Start], why_not: dict[str, str]) -> Iterator[Mapping[str, Party]]:
    """All parties, asleep. Those that don't start are left out, and why_not says why."""
    parties: dict[str, Party] = {}
    try:
        for name, start in starts.items():
            _say(f"starting {name}")
            try:
                parties[name] = start()
            except NotMeasured as error:
                why_not[name] = str(error)
                _say(f"{name}: {error}")
                continue
            with awake(parties[name]):
                pass
        yield parties
    finally:
        for party in parties.values():
            party.process.end()


def measure(
    parties: Mapping[str, Party],
    tokenizer: Tokenizer,
    groups: Sequence[Sequence[Way]],
    why_not: Mapping[str, str],
    rounds: int,
) -> Rates:
    """groups: ways that are one side of a row; after a trial, only the best of them go on."""
    rates = Rates()
    ways = list({way.name: way for group in groups for way in group}.values())
    for way in ways:
        if way.party not in parties:
            rates.missing[way.name] = why_not.get(way.party, "it was not asked for")
    trial = _round(parties, tokenizer, ways, rates, "trial", _TRIAL_PART)
    for way in _too_slow(groups, trial):
        rates.missing[way.name] = "another setting is faster"
    for number in range(1, rounds + 1):
        _say(f"round {number} of {rounds}")
        rates.rounds.append(_round(parties, tokenizer, ways, rates, f"round {number}"))
    return rates


def _round(
    parties: Mapping[str, Party],
    tokenizer: Tokenizer,
    ways: Sequence[Way],
    rates: Rates,
    seed: str,
    answer_part: float = 1.0,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for way in ways:
        if way.name in rates.missing:
            continue
        try:
            with awake(parties[way.party]):
                took = parties[way.party].ask(way.ask(tokenizer, seed, answer_part))
            found[way.name] = way.work.rate(way.work, took)
            _say(f"{seed}: {way.name}: {found[way.name]:.1f} tokens/s")
        except NotMeasured as error:
            rates.missing[way.name] = str(error)
            _say(f"{seed}: {way.name}: {error}")
    return found


def _too_slow(groups: Sequence[Sequence[Way]], trial: Mapping[str, float]) -> list[Way]:
    found = []
    for group in groups:
        tried = [way for way in group if way.name in trial]
        best = max((trial[way.name] for way in tried), default=0.0)
        found += [way for way in tried if trial[way.name] < _WORTH_A_ROUND * best]
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
