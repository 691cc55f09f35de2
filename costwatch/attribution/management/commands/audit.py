from typing import Any

from django.core.management.base import BaseCommand

from costwatch.attribution.audit import differences
from costwatch.attribution.models import Batch, Entry, UsageHour


class Command(BaseCommand):
    help = (
        "Recounts the rollups from the ledger; prints each difference; exit code 1 if there is one."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        found = 0
        for difference in differences():
            found += 1
            self.stdout.write(str(difference))
        waiting = Batch.objects.filter(added_at=None).count()
        self.stderr.write(
            f"{found} differences in {UsageHour.objects.count()} hourly sums of "
            f"{Entry.objects.count()} ledger entries; {waiting} batches wait to be added"
        )
        if found:
            raise SystemExit(1)
