from django.apps import AppConfig


class ReportsConfig(AppConfig):
    name = "costwatch.reports"
    label = "reports"
