"""The two tables that grow with calls are partitioned by day: retention drops a day, a query reads one.

Django has no word for partitions. Both tables are empty here, so they are made anew with the same columns.
"""

from django.db import migrations

SPAN = """
CREATE TABLE attribution_span_by_day (LIKE attribution_span INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (started_at);
DROP TABLE attribution_span;
ALTER TABLE attribution_span_by_day RENAME TO attribution_span;
ALTER TABLE attribution_span ADD CONSTRAINT attribution_span_pkey
    PRIMARY KEY (organization_id, span_key, started_at);
CREATE INDEX span_by_call ON attribution_span (organization_id, call_id) WHERE call_id IS NOT NULL;
CREATE INDEX span_by_parent ON attribution_span (organization_id, parent_key) WHERE parent_key IS NOT NULL;
"""
ENTRY = """
CREATE TABLE attribution_entry_by_day (LIKE attribution_entry INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (started_at);
DROP TABLE attribution_entry;
ALTER TABLE attribution_entry_by_day RENAME TO attribution_entry;
ALTER TABLE attribution_entry ADD CONSTRAINT attribution_entry_pkey
    PRIMARY KEY (organization_id, call_id, started_at, revision, sign);
CREATE INDEX entry_by_time ON attribution_entry (organization_id, started_at DESC);
CREATE INDEX entry_by_batch ON attribution_entry (batch_id);
"""


class Migration(migrations.Migration):
    dependencies = [("attribution", "0001_initial")]

    operations = [
        migrations.RunSQL(SPAN, reverse_sql=migrations.RunSQL.noop),
        migrations.RunSQL(ENTRY, reverse_sql=migrations.RunSQL.noop),
    ]
