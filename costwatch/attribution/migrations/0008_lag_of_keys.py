import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_content_retention"),
        ("attribution", "0007_content"),
    ]

    operations = [
        migrations.RemoveIndex(model_name="batch", name="batch_by_key"),
        migrations.CreateModel(
            name="LagHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization",
                        "hour",
                        "key",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("bodies", models.BigIntegerField(default=0)),
                ("arrival_ms", models.BigIntegerField(default=0)),
                ("longest_arrival_ms", models.BigIntegerField(default=0)),
                ("added_bodies", models.BigIntegerField(default=0)),
                ("adding_ms", models.BigIntegerField(default=0)),
                ("longest_adding_ms", models.BigIntegerField(default=0)),
                (
                    "key",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.ingestkey",
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.organization",
                    ),
                ),
            ],
        ),
    ]
