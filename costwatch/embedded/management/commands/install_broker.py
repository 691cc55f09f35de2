from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from psycopg.conninfo import make_conninfo

from costwatch.embedded.postgres import install_pgmq


class Command(BaseCommand):
    help = (
        "Makes the tables and functions of Celery's queues where the broker is a Postgres (pgmq); any other broker "
        "needs none. Once, after migrate; safe to run again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.BROKER_DATABASE:
            install_pgmq(_of_django(settings.BROKER_DATABASE))
        elif options["verbosity"]:
            self.stdout.write("this broker needs nothing in the database")


def _of_django(database: dict[str, Any]) -> str:
    said = {
        "dbname": database["NAME"],
        "user": database["USER"],
        "password": database["PASSWORD"],
        "host": database["HOST"],
        "port": database["PORT"],
        **database["OPTIONS"],
    }
    return make_conninfo(**{name: value for name, value in said.items() if value})
