"""How much of prompts a step computes beside answers that somebody reads along with.

Pace       keeps these steps within a time, by what the work model has learnt of steps
Deadline   tells whose first token is at risk of coming late, by the same
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.accounting.work_model import PLAIN, Coefficients, Work

Allow = Callable[[int, int], int | None]
IsAtRisk = Callable[[int, int], bool]


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


def no_deadline(_waited_ns: int, _tokens: int) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Deadline:
    """target_ns    from an interactive request's arrival to its first token
    step_tokens   that a step computes at most
    coefficients  the present work model's
    """

    target_ns: int
    step_tokens: int
    coefficients: Callable[[], Coefficients]

    def __call__(self, waited_ns: int, tokens: int) -> bool:
        """Whether a prompt of which so many tokens are not read yet is at risk, after so long.

        It is where less time is left than twice what reading takes by itself: once more for the step under way, and for
        the answers that go on beside it.
        """
        known = self.coefficients()
        steps = -(-tokens // self.step_tokens)
        keys = tokens * (tokens + 1) // 2
        reading_ns = steps * known.fixed_ns + known.own_ns(Work(tokens, 0, 0, keys))
        return waited_ns + 2 * reading_ns > self.target_ns
