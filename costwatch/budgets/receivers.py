"""What this room does when usage was added: ask a worker to evaluate, but not every second."""

import time

from costwatch.budgets.models import Budget
from costwatch.budgets.tasks import evaluate_budgets

# Rollups may grow every second; what comes within the pause, beat asks for within 20 seconds.
_PAUSE_SECONDS = 10.0
_asked: dict[int, float] = {}


def evaluate_soon(*, organization_id: int, **_: object) -> None:
    now = time.monotonic()
    if now - _asked.get(organization_id, -_PAUSE_SECONDS) < _PAUSE_SECONDS:
        return
    if Budget.objects.filter(organization_id=organization_id, active=True).exists():
        _asked[organization_id] = now
        evaluate_budgets.delay(organization_id)
