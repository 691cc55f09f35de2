from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_content_retention"),
    ]

    operations = [
        migrations.AddField(
            model_name="ingestkey",
            name="bytes_per_second",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name="ingestkey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("bytes_per_second__isnull", True), ("bytes_per_second__gt", 0), _connector="OR"
                ),
                name="key_bytes_per_second_above_zero",
            ),
        ),
    ]
