"""Hours with spans say from where the calls were seen. The next migration fills the table anew."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0010_lag_of_batches")]

    operations = [
        # Django has no word for another primary key of several columns.
        migrations.DeleteModel("SpannedHour"),
        migrations.CreateModel(
            name="SpannedHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "organization",
                        "hour",
                        "service_name",
                        "environment",
                        "model",
                        "vantage",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField()),
                ("service_name", models.CharField(max_length=255)),
                ("environment", models.CharField(max_length=255)),
                ("model", models.CharField(max_length=255)),
                ("vantage", models.CharField(max_length=16)),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="accounts.organization",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["hour"], name="spanned_hour_by_hour")],
            },
        ),
    ]
