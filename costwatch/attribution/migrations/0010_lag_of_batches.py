from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("attribution", "0009_token_metrics")]

    operations = [
        migrations.AddField(
            model_name="batch", name="arrival_ms", field=models.BigIntegerField(null=True)
        )
    ]
