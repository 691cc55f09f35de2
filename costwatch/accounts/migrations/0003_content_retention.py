from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_limits_of_keys"),
    ]

    operations = [
        migrations.AddField(
            model_name="organization",
            name="content_retention_days",
            field=models.PositiveSmallIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="organization",
            name="content_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name="organization",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("content_retention_days__isnull", True), ("content_since__isnull", True)
                    ),
                    models.Q(
                        ("content_retention_days__gte", 1),
                        ("content_retention_days__lte", 365),
                        ("content_since__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="organization_content_days",
            ),
        ),
    ]
