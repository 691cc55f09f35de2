"""What was asked and answered, partitioned by day as Span and Entry are.

Django has no word for partitions. The table is empty here, so it is made anew with the same columns.
"""

import django.db.models.deletion
from django.db import migrations, models

BY_DAY = """
CREATE TABLE attribution_content_by_day (LIKE attribution_content INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
    PARTITION BY RANGE (started_at);
DROP TABLE attribution_content;
ALTER TABLE attribution_content_by_day RENAME TO attribution_content;
ALTER TABLE attribution_content ADD CONSTRAINT attribution_content_pkey
    PRIMARY KEY (organization_id, started_at, span_key);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_content_retention"),
        ("attribution", "0006_batches_of_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="Content",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization",
                        "started_at",
                        "span_key",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("span_key", models.UUIDField()),
                ("parts", models.JSONField()),
                (
                    "organization",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.organization",
                    ),
                ),
            ],
        ),
        migrations.RunSQL(BY_DAY, reverse_sql=migrations.RunSQL.noop),
    ]
