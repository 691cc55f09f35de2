"""Until now every period was a calendar month of the organization's time zone."""

from django.db import migrations

_MONTHS = """
UPDATE budgets_alert AS alert
   SET period_end = (alert.period_start AT TIME ZONE organization.time_zone + interval '1 month')
                    AT TIME ZONE organization.time_zone
  FROM budgets_budget AS budget
  JOIN accounts_organization AS organization ON organization.id = budget.organization_id
 WHERE budget.id = alert.budget_id AND alert.period_end IS NULL
"""


class Migration(migrations.Migration):
    dependencies = [("budgets", "0002_scopes_and_periods")]

    operations = [migrations.RunSQL(_MONTHS, migrations.RunSQL.noop)]
