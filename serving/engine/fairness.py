"""Whose turn it is: a virtual token counter for each team.

Every team's counter counts the tokens that were computed for it, and the team with the lowest one goes first, so that
teams with work to do get equal parts of the engine whatever they send. A team that comes back after a pause starts at
the lowest counter of those at work: a pause earns no credit. (Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024: with both weights the difference between two teams at work stays bounded by the work of a batch.)
"""

from collections import Counter

# A decoded token takes the weights through the device for one token, a prompt's tokens share that.
_PREFILL_WEIGHT = 1
_DECODE_WEIGHT = 2


class FairShare:
    """Counters of the teams that have requests here; served counts what each was given."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._requests: Counter[str] = Counter()

    def enter(self, team: str) -> None:
        """A request of the team came."""
        if team not in self._requests:
            lowest = min((self._served[other] for other in self._requests), default=0)
            self._served[team] = max(self._served.get(team, 0), lowest)
        self._requests[team] += 1

    def leave(self, team: str) -> None:
        """A request of the team is gone."""
        self._requests[team] -= 1
        if not self._requests[team]:
            del self._requests[team]
            self._forget_the_lowest()

    def serve(self, team: str, *, prefill_tokens: int, decode_tokens: int) -> None:
        """Tokens were computed for a request of the team."""
        self._served[team] += _PREFILL_WEIGHT * prefill_tokens + _DECODE_WEIGHT * decode_tokens

    def _forget_the_lowest(self) -> None:
        """Drop counters of teams that are away and would be lifted when they come back."""
        lowest = min((self._served[team] for team in self._requests), default=None)
        self._served = {
            team: served
            for team, served in self._served.items()
            if team in self._requests or (lowest is not None and served > lowest)
        }

    def served(self, team: str) -> int:
        """The team's counter; the lowest goes first."""
        return self._served[team]
