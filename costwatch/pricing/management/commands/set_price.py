from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from costwatch.accounts.management.organizations import organization_named
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.matching import tier_of
from costwatch.pricing.prices import PriceRange, hour_named, meter_named, set_price
from costwatch.pricing.rates import Sku, device_sku

_EXAMPLES = (
    "set_price openai/gpt-9 --meter output_tokens --per-million 1.20, or: "
    "set_price --device cpu --per-hour 0.05"
)


class Command(BaseCommand):
    help = f"Sets an organization's own price, from an hour on. Such as: {_EXAMPLES}"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("sku", nargs="?", default="", metavar="PROVIDER/MODEL")
        parser.add_argument("--organization", required=True)
        parser.add_argument("--meter", default="", help="input_tokens, output_tokens, …")
        parser.add_argument("--tier", default="", help="batch, flex, …; standard by default")
        parser.add_argument("--per-million", default="", help="price of 1,000,000 tokens")
        parser.add_argument("--device", default="", help="device type, as telemetry says it")
        parser.add_argument("--per-hour", default="", help="price of an hour of the device")
        parser.add_argument("--currency", default="", help="the organization's by default")
        parser.add_argument("--from", dest="start", default="", help="UTC; always was by default")
        parser.add_argument("--until", default="", help="UTC, excluded; for good by default")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = organization_named(options["organization"])
        try:
            sku = _sku(options)
            made = set_price(
                organization,
                sku,
                _price(options, sku, options["currency"] or organization.currency),
                PriceRange(
                    hour_named(options["start"]) if options["start"] else None,
                    hour_named(options["until"]) if options["until"] else None,
                ),
                source="command line",
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(made))


def _sku(options: dict[str, Any]) -> Sku:
    provider, _, model = options["sku"].partition("/")
    if options["device"] and not options["sku"]:
        return device_sku(options["device"])
    if provider and model and not options["device"]:
        return Sku(provider, model, meter_named(options["meter"]), tier_of(options["tier"]))
    raise ValueError(f"expected either PROVIDER/MODEL or --device, such as: {_EXAMPLES}")


def _price(options: dict[str, Any], sku: Sku, currency: str) -> UnitPrice:
    per_device = bool(sku.device_type)
    typed = options["per_hour" if per_device else "per_million"]
    if not typed or (options["per_hour"] and options["per_million"]):
        wanted = "--per-hour" if per_device else "--per-million"
        raise ValueError(f"expected the price as {wanted} alone, such as: {_EXAMPLES}")
    try:
        amount = Decimal(typed)
    except InvalidOperation:
        raise ValueError(f"price {typed!r}: expected a decimal number, such as 0.60") from None
    return UnitPrice(amount, sku.unit_quantity, currency)
