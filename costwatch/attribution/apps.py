from django.apps import AppConfig


class AttributionConfig(AppConfig):
    name = "costwatch.attribution"
    label = "attribution"

    def ready(self) -> None:
        # Tasks are sent through the current Celery application: ours, once its module is imported.
        import costwatch.celery  # noqa: F401
