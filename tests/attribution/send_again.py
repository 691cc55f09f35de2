"""A program: what was sent before an upgrade is sent again after it, in another order; fails where that changes anything."""

import os
from dataclasses import replace
from datetime import timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
django.setup()

import time_machine  # noqa: E402  -- these need a Django that is set up
from django.db import connection  # noqa: E402

from costwatch.accounts.models import IngestKey  # noqa: E402
from costwatch.attribution import ingest, spans  # noqa: E402
from costwatch.attribution.identity import span_key  # noqa: E402
from costwatch.attribution.rollups import add_batches  # noqa: E402
from tests.attribution.before_profiles import BODIES, NOON  # noqa: E402


def main() -> None:
    key = IngestKey.objects.get()
    with time_machine.travel(NOON + timedelta(days=1)):
        for body in reversed(BODIES):
            taken = ingest.take(key, body)
            assert taken.batch_id is None, f"counted again: {taken.outcomes}"
    add_batches(key.organization_id)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {spans.READ} FROM attribution_span AS s")  # noqa: S608  -- our own columns
        kept = {row.span_key: row.observation for row in spans.read(cursor.fetchall())}
    for body in BODIES:
        for sent in body.observations:
            found = kept[span_key(sent.trace_id, sent.span_id)]
            assert found == replace(sent, parent_span_id=None), "kept otherwise than it was sent"


if __name__ == "__main__":
    main()
