"""Work that is no step and needs the engine's device, such as a batch of texts to embed.

The engine does it on its own thread between two steps. Nothing else computes then, so its time is its own, and it is
charged as the time of a step is.

    Charge    what an errand cost
    Done      what came of it, too
    Errand    work that waits for its turn
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Charge:
    """energy_uj None: the device has no counter."""

    device_ns: int
    energy_uj: int | None
    on_shared_device: bool = False  # other programs used it meanwhile; see neighbours.py


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """outcome is what the work returned, or what it raised."""

    charge: Charge
    outcome: Result | Exception

    def result(self) -> Result:
        """Raises what the work raised."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(frozen=True, slots=True, eq=False)
class Errand(Generic[Result]):
    work: Callable[[], Result]
    done: "Future[Done[Result]]" = field(default_factory=Future)

    def attempt(self) -> Result | Exception:
        try:
            return self.work()
        except Exception as error:
            return error


__all__ = ["Charge", "Done", "Errand"]
