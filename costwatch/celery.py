"""The Celery application: `celery -A costwatch.celery worker`, `… beat`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")

app = Celery("costwatch")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_after_finalize.connect
def _schedule(sender: Celery, **_: object) -> None:
    """Each room says in its tasks.py what beat does for it."""
    from costwatch.attribution.tasks import beat_schedule as attribution
    from costwatch.budgets.tasks import beat_schedule as budgets
    from costwatch.recommendations.tasks import beat_schedule as recommendations

    sender.conf.beat_schedule = {**attribution, **budgets, **recommendations}
