"""The Celery application: `celery -A costwatch.celery worker`, `… beat`."""

import os
from importlib import import_module

from celery import Celery
from django.apps import apps
from django.utils.module_loading import module_has_submodule

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")

app = Celery("costwatch")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@app.on_after_finalize.connect
def _schedule(sender: Celery, **_: object) -> None:
    """Each room says in its tasks.py what beat does for it."""
    rooms = (
        config for config in apps.get_app_configs() if module_has_submodule(config.module, "tasks")
    )
    sender.conf.beat_schedule = {
        name: entry
        for room in rooms
        for name, entry in getattr(import_module(f"{room.name}.tasks"), "beat_schedule", {}).items()
    }
