from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("budgets", "0003_ends_of_alerts")]

    operations = [
        migrations.AlterField(model_name="alert", name="period_end", field=models.DateTimeField()),
        migrations.RemoveConstraint(model_name="alert", name="alert_once"),
        migrations.AddConstraint(
            model_name="alert",
            constraint=models.UniqueConstraint(
                fields=["budget", "period_start", "period_end", "basis", "threshold"],
                name="alert_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="alert",
            constraint=models.CheckConstraint(
                condition=Q(("basis", "actual"), ("expected", None))
                | Q(("basis", "forecast"), ("expected__isnull", False)),
                name="alert_basis",
            ),
        ),
    ]
