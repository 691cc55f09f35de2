"""The latest requests that were hashed, without reading all spans of a period."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0014_examples_of_outcomes")]

    operations = [
        migrations.AddIndex(
            "span",
            models.Index(
                fields=["organization", "started_at"],
                condition=models.Q(("request_hash__isnull", False)),
                name="span_by_asking",
            ),
        ),
    ]
