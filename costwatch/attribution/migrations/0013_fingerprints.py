from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0012_hours_of_kept_spans")]

    operations = [
        migrations.AddField("span", "prompt_bytes", models.BigIntegerField(null=True)),
        migrations.AddField("span", "request_hash", models.TextField(null=True)),
        migrations.AddField("span", "prefix_hashes", models.TextField(null=True)),
    ]
