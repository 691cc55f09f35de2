"""One organization's telemetry is taken one body after the other."""

from __future__ import annotations

from django.db import connection

_WAIT = "SET LOCAL lock_timeout = %(wait)s; "
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ingest'), %(organization_id)s)"


def lock_ingest(organization_id: int, *, wait_seconds: int | None = None) -> None:
    """Hold back every other writer of this organization's telemetry until the transaction ends.

    wait_seconds   for the others; then raises django.db.OperationalError. None: as long as it takes.
    """
    statement = _LOCK if wait_seconds is None else _WAIT + _LOCK
    with connection.cursor() as cursor:
        cursor.execute(statement, {"organization_id": organization_id, "wait": f"{wait_seconds}s"})
