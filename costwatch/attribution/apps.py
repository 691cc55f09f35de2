from django.apps import AppConfig


class AttributionConfig(AppConfig):
    name = "costwatch.attribution"
    label = "attribution"
