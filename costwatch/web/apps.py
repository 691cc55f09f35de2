from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "costwatch.web"
    label = "web"
