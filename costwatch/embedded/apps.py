from django.apps import AppConfig


class EmbeddedConfig(AppConfig):
    name = "costwatch.embedded"
    label = "embedded"
