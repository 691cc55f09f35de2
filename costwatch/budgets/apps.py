from django.apps import AppConfig


class BudgetsConfig(AppConfig):
    name = "costwatch.budgets"
    label = "budgets"

    def ready(self) -> None:
        from costwatch.attribution.signals import usage_added
        from costwatch.budgets.receivers import evaluate_soon

        usage_added.connect(evaluate_soon, dispatch_uid="budgets.evaluate_soon")
