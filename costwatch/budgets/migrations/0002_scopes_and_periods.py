import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [
        ("attribution", "0015_spans_by_asking"),
        ("budgets", "0001_initial"),
    ]

    operations = [
        *[
            migrations.AddField(
                model_name="budget",
                name=name,
                field=models.CharField(blank=True, default="", max_length=255),
                preserve_default=False,
            )
            for name in ("feature", "model", "provider")
        ],
        migrations.AddField(
            model_name="budget",
            name="source",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                to="attribution.source",
            ),
        ),
        migrations.AddField(
            model_name="budget",
            name="start_day",
            field=models.PositiveSmallIntegerField(default=1),
        ),
        migrations.AddField(
            model_name="budget",
            name="forecast_thresholds",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.PositiveSmallIntegerField(), blank=True, default=list, size=None
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="period",
            field=models.CharField(
                choices=[
                    ("day", "Day"),
                    ("week", "Week"),
                    ("month", "Month"),
                    ("quarter", "Quarter"),
                ],
                default="month",
                max_length=16,
            ),
        ),
        migrations.RemoveConstraint(model_name="budget", name="budget_period"),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.CheckConstraint(
                condition=Q(("period", "day"), ("start_day", 1))
                | Q(("period", "week"), ("start_day__range", (1, 7)))
                | Q(("period__in", ["month", "quarter"]), ("start_day__range", (1, 28))),
                name="budget_period",
            ),
        ),
        migrations.AddField(
            model_name="alert",
            name="basis",
            field=models.CharField(
                choices=[("actual", "Actual"), ("forecast", "Forecast")],
                default="actual",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="alert",
            name="expected",
            field=models.DecimalField(decimal_places=20, max_digits=40, null=True),
        ),
        migrations.AddField(
            model_name="alert", name="period_end", field=models.DateTimeField(null=True)
        ),
    ]
