"""One of the items that an outcome counts, where its id helps to find the others."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0013_fingerprints")]

    operations = [
        migrations.AddField(
            "ingesthour", "example", models.CharField(db_default="", max_length=255)
        ),
    ]
