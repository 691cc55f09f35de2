"""How much of prompts a step computes beside answers that somebody reads along with.

Pace    keeps these steps within a time, by what the work model has learnt of steps
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.engine.accounting import PLAIN, Coefficients, Work

Allow = Callable[[int, int], int | None]


def no_limit(_answers: int, _context_tokens: int) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Pace:
    """target_ns   how long a step may take, which is the time between two tokens of an answer in it
    coefficients   the present work model's
    """

    target_ns: int
    coefficients: Callable[[], Coefficients]

    def __call__(self, answers: int, context_tokens: int) -> int | None:
        """Tokens of prompts beside so many answers that read so many keys; None: any number, for nothing is known yet.

        Zero where the answers alone take as long. What the chunk's own attention reads is left out: of a chunk that
        is worth cutting it is the smaller part.
        """
        known = self.coefficients()
        if known is PLAIN or not known.prefill_token_ns:
            return None
        answers_ns = known.fixed_ns + known.own_ns(Work(0, answers, context_tokens))
        return max(0, int((self.target_ns - answers_ns) / known.prefill_token_ns))
