from django.apps import AppConfig


class RecommendationsConfig(AppConfig):
    name = "costwatch.recommendations"
    label = "recommendations"
