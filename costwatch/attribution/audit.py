"""Recounts the rollups from the ledger and says where they differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection, transaction

from costwatch.attribution.rollups import LATENCY_BUCKETS, USAGE_COLUMNS, USAGE_SUMS

_RECOUNTED_USAGE = f"""
SELECT organization_id, date_trunc('hour', started_at, 'UTC') AS hour, source_id, offering_id, {USAGE_SUMS}
  FROM attribution_entry
 WHERE batch_id IN (SELECT id FROM attribution_batch WHERE added_at IS NOT NULL)
 GROUP BY 1, 2, 3, 4
"""
_USAGE = f"""
SELECT organization_id, hour, source_id, offering_id, difference.*
  FROM ({_RECOUNTED_USAGE}) AS counted
  FULL JOIN attribution_usagehour AS kept USING (organization_id, hour, source_id, offering_id)
  CROSS JOIN LATERAL (VALUES
       {", ".join(f"('{name}', coalesce(kept.{name}, 0), coalesce(counted.{name}, 0))" for name in USAGE_COLUMNS)}
  ) AS difference (name, kept, counted)
 WHERE difference.kept <> difference.counted
 ORDER BY 1, 2, 3, 4, 5
"""
_LATENCY = f"""
SELECT organization_id, hour, source_id, offering_id,
       'latency ' || measure || ' bucket ' || bucket, coalesce(kept.calls, 0), coalesce(counted.calls, 0)
  FROM (SELECT organization_id, date_trunc('hour', started_at, 'UTC') AS hour, source_id, offering_id,
               measure, bucket, sum(sign) AS calls
          FROM attribution_entry {LATENCY_BUCKETS}
           AND batch_id IN (SELECT id FROM attribution_batch WHERE added_at IS NOT NULL)
         GROUP BY 1, 2, 3, 4, 5, 6) AS counted
  FULL JOIN attribution_latencyhour AS kept
       USING (organization_id, hour, source_id, offering_id, measure, bucket)
 WHERE coalesce(kept.calls, 0) <> coalesce(counted.calls, 0)
 ORDER BY 1, 2, 3, 4, 5
"""
_CAPACITY = """
SELECT organization_id, NULL, NULL, NULL, 'device ' || device_id || ' ' || difference.name, difference.kept, difference.counted
  FROM (SELECT organization_id, device_id, device_type, sum(attributed_ns) AS attributed_ns,
               sum(unattributed_ns) AS unattributed_ns, sum(idle_ns) AS idle_ns
          FROM attribution_devicestream GROUP BY 1, 2, 3) AS counted
  FULL JOIN (SELECT organization_id, device_id, device_type, sum(attributed_ns) AS attributed_ns,
               sum(unattributed_ns) AS unattributed_ns, sum(idle_ns) AS idle_ns
          FROM attribution_capacityhour GROUP BY 1, 2, 3) AS kept USING (organization_id, device_id, device_type)
  CROSS JOIN LATERAL (VALUES
       ('attributed_ns', kept.attributed_ns, counted.attributed_ns),
       ('unattributed_ns', kept.unattributed_ns, counted.unattributed_ns),
       ('idle_ns', kept.idle_ns, counted.idle_ns)
  ) AS difference (name, kept, counted)
 WHERE coalesce(difference.kept, 0) <> coalesce(difference.counted, 0)
 ORDER BY 1, 5
"""
# A call is counted once: one row in force, and every reversal the exact opposite of what it reverses.
_TWICE = """
SELECT organization_id, NULL, NULL, NULL, 'call ' || call_id || ' rows in force', sum(sign), 1
  FROM attribution_entry GROUP BY organization_id, call_id, started_at
HAVING sum(sign) NOT IN (0, 1)
 ORDER BY 1, 5
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is kept and what the recount says. Where it has no hour, it is about the whole organization."""

    organization_id: int
    hour: str
    source_id: int | None
    offering_id: int | None
    name: str
    kept: int
    counted: int

    def __str__(self) -> str:
        where = f"organization {self.organization_id}"
        if self.hour:
            where += f" hour {self.hour} source {self.source_id} offering {self.offering_id}"
        return f"{where}: {self.name} is {self.kept}, the ledger says {self.counted}"


def differences() -> Iterator[Difference]:
    """Every difference between rollups and ledger, from one snapshot of the database."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for query in (_USAGE, _LATENCY, _CAPACITY, _TWICE):
            cursor.execute(query)
            for organization_id, hour, source_id, offering_id, name, kept, counted in cursor:
                shown = f"{hour:%Y-%m-%dT%HZ}" if hour else ""
                yield Difference(
                    organization_id,
                    shown,
                    source_id,
                    offering_id,
                    name,
                    int(kept or 0),
                    int(counted or 0),
                )
