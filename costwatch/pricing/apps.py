from django.apps import AppConfig


class PricingConfig(AppConfig):
    name = "costwatch.pricing"
    label = "pricing"

    def ready(self) -> None:
        from costwatch.attribution.signals import usage_added
        from costwatch.pricing.receivers import rate_new_offerings

        usage_added.connect(rate_new_offerings, dispatch_uid="pricing.rate_new_offerings")
