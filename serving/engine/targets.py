"""What interactive requests are promised, and how many of them it was kept for.

Targets   times to the first token, and between tokens
Kept      counts the ends of requests by whether theirs held
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serving.engine.request import Finished, FinishReason, Objective

Key = tuple[str, str, bool]  # (class, which target, whether it was met)


@dataclass(frozen=True, slots=True)
class Targets:
    """Nanoseconds; 0: nothing is promised. Batch requests are never promised anything."""

    first_token_ns: int = 0
    inter_token_ns: int = 0


class Kept:
    """first_token is judged where a token came, or was waited for in vain for longer than the target; inter_token by the
    mean over an answer of two tokens and more that came to its end."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._counts: Counter[Key] = Counter()

    def observe(self, objective: Objective, finished: Finished) -> None:
        if objective is Objective.INTERACTIVE:
            for name, met in self._judged(finished):
                self._counts[objective.value, name, met] += 1

    def counts(self) -> Mapping[Key, int]:
        """Of each target that there is, also where nothing was counted yet."""
        promised = [("first_token", self._targets.first_token_ns)]
        promised.append(("inter_token", self._targets.inter_token_ns))
        keys = [
            (Objective.INTERACTIVE.value, name, met)
            for name, target_ns in promised
            for met in (True, False)
            if target_ns
        ]
        return {key: self._counts[key] for key in keys}

    def _judged(self, finished: Finished) -> Iterator[tuple[str, bool]]:
        first_target_ns = self._targets.first_token_ns
        first_ns = finished.first_token_ns
        waited_ns = (first_ns or finished.finished_ns) - finished.arrived_ns
        if first_target_ns and (first_ns is not None or waited_ns > first_target_ns):
            yield "first_token", first_ns is not None and waited_ns <= first_target_ns
        between_target_ns = self._targets.inter_token_ns
        is_whole = finished.reason in (FinishReason.STOP, FinishReason.LENGTH)
        if between_target_ns and first_ns is not None and is_whole and finished.output_tokens > 1:
            took_ns = finished.finished_ns - first_ns
            yield "inter_token", took_ns <= between_target_ns * (finished.output_tokens - 1)


__all__ = ["Kept", "Targets"]
