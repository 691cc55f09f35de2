"""Recounts the rollups from the ledger, and from what is counted of metrics, and says where they differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import connection, transaction

from costwatch.attribution.gaps import USE_COLUMNS
from costwatch.attribution.rollups import LATENCY_BUCKETS, USAGE_COLUMNS, USAGE_SUMS

_RECOUNTED_USAGE = f"""
SELECT organization_id, hour, source_id, offering_id, {", ".join(f"sum({name}) AS {name}" for name in USAGE_COLUMNS)}
  FROM (SELECT organization_id, date_trunc('hour', started_at, 'UTC') AS hour, source_id, offering_id, {USAGE_SUMS}
          FROM attribution_entry
         WHERE batch_id IN (SELECT id FROM attribution_batch WHERE added_at IS NOT NULL)
         GROUP BY 1, 2, 3, 4
         UNION ALL
        SELECT organization_id, hour, source_id, offering_id,
               {", ".join(name if name in USE_COLUMNS else "0" for name in USAGE_COLUMNS)}
          FROM attribution_metricuse
         WHERE batch_id IN (SELECT id FROM attribution_batch WHERE added_at IS NOT NULL)) AS counted
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
_STATES = {
    "told_attributed_ns": "attributed_ns",
    "told_unattributed_ns": "unattributed_ns",
    "observed_busy_ns": "busy_ns",
    "told_idle_ns": "idle_ns",
}
_CAPACITY = f"""
SELECT organization_id, NULL, NULL, NULL, 'device ' || device_id || ' ' || difference.name, difference.kept, difference.counted
  FROM (SELECT organization_id, device_id, device_type, {", ".join(f"sum({of_one}) AS {of_one}" for of_one in _STATES.values())}
          FROM attribution_devicestream GROUP BY 1, 2, 3) AS counted
  FULL JOIN (SELECT organization_id, device_id, device_type, {", ".join(f"sum({name}) AS {name}" for name in _STATES)}
          FROM attribution_capacityhour GROUP BY 1, 2, 3) AS kept USING (organization_id, device_id, device_type)
  CROSS JOIN LATERAL (VALUES
       {", ".join(f"('{name}', kept.{name}, counted.{of_one})" for name, of_one in _STATES.items())}
  ) AS difference (name, kept, counted)
 WHERE coalesce(difference.kept, 0) <> coalesce(difference.counted, 0)
UNION ALL
SELECT organization_id, NULL, NULL, NULL, 'device ' || device_id || ' overlap_ns', kept.overlap_ns, counted.overlap_ns
  FROM (SELECT organization_id, device_id,
               sum(counted_unix_ns - started_unix_ns)
               - (SELECT sum(upper(part) - lower(part))
                    FROM unnest(range_agg(int8range(started_unix_ns, counted_unix_ns))) AS part) AS overlap_ns
          FROM attribution_devicestream WHERE counted_unix_ns > started_unix_ns GROUP BY 1, 2) AS counted
  JOIN (SELECT organization_id, device_id, sum(overlap_ns) AS overlap_ns
          FROM attribution_capacityhour GROUP BY 1, 2) AS kept USING (organization_id, device_id)
 WHERE kept.overlap_ns <> counted.overlap_ns
 ORDER BY 1, 5
"""
# A call is counted once: one row in force, and every reversal the exact opposite of what it reverses.
_TWICE = """
SELECT organization_id, NULL, NULL, NULL, 'call ' || call_id || ' rows in force', sum(sign), 1
  FROM attribution_entry GROUP BY organization_id, call_id, started_at
HAVING sum(sign) NOT IN (0, 1)
 ORDER BY 1, 5
"""
# Metrics fill gaps: nothing of a client's counts where its service sent spans, and nothing is taken back twice.
_BESIDE_SPANS = f"""
SELECT counted.organization_id, hour, source_id, offering_id, 'metrics of a service that sent spans', used, 0
  FROM (SELECT organization_id, hour, source_id, offering_id, sum(calls + input_tokens + output_tokens) AS used
          FROM attribution_metricuse WHERE vantage = 'client' GROUP BY 1, 2, 3, 4) AS counted
  JOIN attribution_source AS source ON source.id = source_id
 WHERE used <> 0 AND EXISTS (
       SELECT FROM attribution_spannedhour AS spanned
        WHERE spanned.organization_id = counted.organization_id AND spanned.hour = counted.hour
          AND spanned.service_name = source.service_name AND spanned.environment = source.environment)
UNION ALL
SELECT organization_id, hour, source_id, offering_id, 'tokens or calls of metrics', least({", ".join(f"sum({name})" for name in USE_COLUMNS)}), 0
  FROM attribution_metricuse GROUP BY organization_id, hour, process, source_id, offering_id
HAVING least({", ".join(f"sum({name})" for name in USE_COLUMNS)}) < 0
 ORDER BY 1, 2, 3, 4
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
        for query in (_USAGE, _LATENCY, _CAPACITY, _TWICE, _BESIDE_SPANS):
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
