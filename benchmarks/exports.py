"""How much memory and time the files of a long month take.

    python -m benchmarks.exports [--lines 1000000] [--formats csv,json,focus-1.2,xlsx,focus-1.2-parquet]

A closed month of one statement with so many lines is put into a Postgres of its own; each format is written by a process
of its own, whose largest resident memory is told, beside that of one which writes a month of a single line. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_FORMATS = ("csv", "json", "focus-1.2", "xlsx", "focus-1.2-parquet")

_CLOSING = """
INSERT INTO reports_closing (organization_id, month_id, edition, organization_name, start, "end", currency, places,
       statements_count, lines_count, unpriced_lines, unknown_usage_calls, adjusted, exact_cost, cost, unattributed,
       sha256, closed_at, closed_by)
VALUES (%(organization)s, %(month)s, 1, 'Acme', '2026-10-01Z', '2026-11-01Z', 'USD', 2, 1, %(lines)s, 0, 0, '{}', 0, 0, 0,
       'x', now(), '') RETURNING id
"""
_STATEMENT = """
INSERT INTO reports_statement (organization_id, closing_id, number, team_name, cost_centre, lines_count, unpriced_lines,
       exact_cost, cost, sha256)
VALUES (%(organization)s, %(closing)s, 1, 'unattributed', '', %(lines)s, 0, 0, 0, 'x') RETURNING id
"""
_LINES = """
INSERT INTO reports_statementline (organization_id, statement_id, number, kind, used_in, cause, provider, model,
       device_type, service_tier, feature, meter, method, calls, quantity, unpriced_quantity, unit_price, unit_quantity,
       unit_label, price_currency, state, exact_cost, cost)
SELECT %(organization)s, %(statement)s, number, 'usage', '2026-10', '', 'openai', 'gpt-4o', '', '',
       'feature ' || number, 'input_tokens', '', 3, number * 17, 0, 2.5, 1000000, '1,000,000 tokens', 'USD', 'known',
       number * 17 * 2.5 / 1000000, 0.01
  FROM generate_series(1, %(lines)s) AS number
"""


def main() -> None:
    options = _options()
    if options.child:
        _write(options.child)
        return
    from costwatch.embedded.postgres import running

    print("| format | lines | seconds | MB | peak memory, MiB |\n|---|---|---|---|---|")
    for lines in (1, options.lines):
        with tempfile.TemporaryDirectory(prefix="costwatch-benchmark-") as folder:
            Path(folder).chmod(0o755)  # Postgres does not run as root, and must get there
            with running(Path(folder) / "data", durable=False) as url:
                _run_all(options.formats.split(","), lines, url)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--formats", default=",".join(_FORMATS))
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_all(formats: list[str], lines: int, url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": url, "COSTWATCH_SECRET_KEY": "benchmark"}
    for work in (f"fill:{lines}", *formats):
        command = [sys.executable, "-m", "benchmarks.exports", "--child", work]
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        if not work.startswith("fill"):
            print(f"| {work} | {lines:,} | {told.stdout.strip()} |", flush=True)


def _write(work: str) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "costwatch.settings"
    import django

    django.setup()
    if work.startswith("fill:"):
        _fill(int(work.removeprefix("fill:")))
        return
    from costwatch.api.chargeback import FORMATS
    from costwatch.reports.chargeback import frozen
    from costwatch.reports.models import Closing

    began, size = time.perf_counter(), 0
    for chunk in FORMATS[work].chunks(frozen(Closing.objects.get())):
        size += len(chunk)
    seconds = time.perf_counter() - began
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{seconds:.1f} | {size / 1e6:.1f} | {peak_kib / 1024:.0f}")


def _fill(lines: int) -> None:
    from django.core.management import call_command
    from django.db import connection

    from costwatch.accounts.models import Organization
    from costwatch.reports.models import Month

    call_command("migrate", verbosity=0)
    organization = Organization.objects.create(name="Acme")
    month = Month.objects.create(organization=organization, name="2026-10", state="closed")
    values = {"organization": organization.pk, "month": month.pk, "lines": lines}
    with connection.cursor() as cursor:
        for name, query in (("closing", _CLOSING), ("statement", _STATEMENT)):
            cursor.execute(query, values)
            values[name] = cursor.fetchone()[0]
        cursor.execute(_LINES, values)


if __name__ == "__main__":
    main()
