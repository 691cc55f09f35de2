from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class AttributionConfig(AppConfig):
    name = "costwatch.attribution"
    label = "attribution"

    def ready(self) -> None:
        # Tasks are sent through the current Celery application: ours, once its module is imported.
        import costwatch.celery  # noqa: F401
        from costwatch.accounts.models import IngestKey, Team
        from costwatch.attribution.models import AssignmentRule
        from costwatch.attribution.receivers import mark_hours_to_model, reassign_after
        from costwatch.attribution.signals import usage_added

        usage_added.connect(mark_hours_to_model, dispatch_uid="attribution.mark_hours_to_model")
        for model in (AssignmentRule, Team, IngestKey):
            post_save.connect(reassign_after, sender=model, dispatch_uid=f"reassign {model}")
            post_delete.connect(reassign_after, sender=model, dispatch_uid=f"reassign {model}")
