from typing import Any

from django.core.management.base import BaseCommand

from costwatch.pricing.catalogue import import_catalogue
from costwatch.pricing.rates import refresh_all


class Command(BaseCommand):
    help = "Loads the list prices of the installed genai-prices package. Safe to run again."

    def handle(self, *args: Any, **options: Any) -> None:
        imported = import_catalogue()
        refresh_all()
        self.stdout.write(
            f"{imported.prices} list prices; {imported.added} added, {imported.removed} removed; "
            f"{imported.left_out} models left out, whose prices change with the time of day"
        )
