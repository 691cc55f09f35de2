from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "costwatch.api"
    label = "api"
