"""Chargeback as FOCUS 1.2 (FinOps Open Cost and Usage Specification): one row a line, as CSV.

    tokens          PricingUnit "1000000 Tokens", ConsumedUnit "Tokens"; each meter is a SKU of its own
    device time     PricingUnit "GPU-Hours", ConsumedUnit "GPU-Hours"
    adjustments     ChargeClass "Correction": billed in this month, charged for the one in which it was used
    no known price  ChargeCategory "Adjustment" without a SKU, cost 0: FOCUS has no use without a price, and zero would
                    say that it is free. Its quantity is in x_UnpricedQuantity

List and contracted prices are the same here: the price that held. Where it is in another currency than the
organization's, PricingCurrency and the columns that begin with it are in the price's, and unit prices in the billing
currency are what the price was on average at its days' exchange rates. Columns that begin with x_ are ours.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.reports.chargeback import Chargeback
from costwatch.reports.exports.cells import harmless
from costwatch.reports.exports.csv import Echo
from costwatch.reports.lines import ADJUSTMENT, Line

CONTENT_TYPE = "text/csv; charset=utf-8"
EXTENSION = "focus-1.2.csv"

Value = str | Decimal | datetime | None

TEXT, DECIMAL, TIME = "text", "decimal", "time"
COLUMNS: Mapping[str, str] = {
    "AvailabilityZone": TEXT,
    "BilledCost": DECIMAL,
    "BillingAccountId": TEXT,
    "BillingAccountName": TEXT,
    "BillingAccountType": TEXT,
    "BillingCurrency": TEXT,
    "BillingPeriodEnd": TIME,
    "BillingPeriodStart": TIME,
    "CapacityReservationId": TEXT,
    "CapacityReservationStatus": TEXT,
    "ChargeCategory": TEXT,
    "ChargeClass": TEXT,
    "ChargeDescription": TEXT,
    "ChargeFrequency": TEXT,
    "ChargePeriodEnd": TIME,
    "ChargePeriodStart": TIME,
    "CommitmentDiscountCategory": TEXT,
    "CommitmentDiscountId": TEXT,
    "CommitmentDiscountName": TEXT,
    "CommitmentDiscountQuantity": DECIMAL,
    "CommitmentDiscountStatus": TEXT,
    "CommitmentDiscountType": TEXT,
    "CommitmentDiscountUnit": TEXT,
    "ConsumedQuantity": DECIMAL,
    "ConsumedUnit": TEXT,
    "ContractedCost": DECIMAL,
    "ContractedUnitPrice": DECIMAL,
    "EffectiveCost": DECIMAL,
    "InvoiceId": TEXT,
    "InvoiceIssuerName": TEXT,
    "ListCost": DECIMAL,
    "ListUnitPrice": DECIMAL,
    "PricingCategory": TEXT,
    "PricingCurrency": TEXT,
    "PricingCurrencyContractedUnitPrice": DECIMAL,
    "PricingCurrencyEffectiveCost": DECIMAL,
    "PricingCurrencyListUnitPrice": DECIMAL,
    "PricingQuantity": DECIMAL,
    "PricingUnit": TEXT,
    "ProviderName": TEXT,
    "PublisherName": TEXT,
    "RegionId": TEXT,
    "RegionName": TEXT,
    "ResourceId": TEXT,
    "ResourceName": TEXT,
    "ResourceType": TEXT,
    "ServiceCategory": TEXT,
    "ServiceName": TEXT,
    "ServiceSubcategory": TEXT,
    "SkuId": TEXT,
    "SkuMeter": TEXT,
    "SkuPriceDetails": TEXT,
    "SkuPriceId": TEXT,
    "SubAccountId": TEXT,
    "SubAccountName": TEXT,
    "SubAccountType": TEXT,
    "Tags": TEXT,
    "x_Statement": TEXT,
    "x_Kind": TEXT,
    "x_AdjustmentCause": TEXT,
    "x_UsedIn": TEXT,
    "x_Method": TEXT,
    "x_Calls": DECIMAL,
    "x_Quantity": DECIMAL,
    "x_UnpricedQuantity": DECIMAL,
    "x_PriceState": TEXT,
    "x_CostCentre": TEXT,
    "x_Feature": TEXT,
}

# Readers of these files multiply in binary: more digits than this only make their products differ.
_PLACES = Decimal(1).scaleb(-12)


@dataclass(frozen=True, slots=True)
class _Priced:
    """quantity × price = cost, in pricing units and the billing currency; all None where there is no one price.

    price   in its own currency
    """

    quantity: Decimal | None = None
    unit: str | None = None
    unit_price: Decimal | None = None
    cost: Decimal | None = None
    price: Decimal | None = None


def chunks(chargeback: Chargeback) -> Iterator[str]:
    """The header and one row a line, one at a time."""
    writer = csv.writer(Echo())
    yield str(writer.writerow(COLUMNS))
    for row in rows(chargeback):
        yield str(writer.writerow([_text(row.get(name)) for name in COLUMNS]))


def rows(chargeback: Chargeback) -> Iterator[dict[str, Value]]:
    """What is not in a row is null."""
    return (_row(chargeback, line) for line in chargeback.lines)


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Decimal):
        return f"{value.normalize(money.EXACT):f}"
    return harmless(value)


def _row(report: Chargeback, line: Line) -> dict[str, Value]:
    # What has no known price has no place among FOCUS's usage.
    is_unpriced = line.is_unpriced and line.kind != ADJUSTMENT
    priced = _Priced() if is_unpriced else _priced(line)
    return {
        **_about(report, report.periods.get(line.used_in, report.period)),
        **_sku(line, priced),
        **_costs(line, priced),
        **_pricing(report, line),
        **_payer(line),
        **_ours(line),
        "ChargeCategory": "Adjustment" if is_unpriced else "Usage",
        "ChargeClass": "Correction" if line.kind == ADJUSTMENT else None,
        "ChargeDescription": _description(line),
        "ChargeFrequency": "Usage-Based",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": line.device_type or line.model or "unknown model",
        "ProviderName": _provider(report, line),
        "PublisherName": _provider(report, line),
        # Who bills the organization. What the organization bills its teams is no invoice in FOCUS's sense.
        "InvoiceIssuerName": _provider(report, line),
        "x_Statement": f"{report.month}-{report.edition}" if report.edition else None,
    }


def _about(report: Chargeback, charged: Period) -> dict[str, Value]:
    return {
        "BillingAccountId": f"organization-{report.organization_id}",
        "BillingAccountName": report.organization,
        "BillingAccountType": "Organization",
        "BillingCurrency": report.currency,
        "BillingPeriodStart": report.period.start,
        "BillingPeriodEnd": report.period.end,
        "ChargePeriodStart": charged.start,
        "ChargePeriodEnd": charged.end,
    }


def _priced(line: Line) -> _Priced:
    if line.unit_price is None or not line.unit_quantity:
        return _Priced()
    quantity = _short(money.EXACT.divide(Decimal(line.quantity), Decimal(line.unit_quantity)))
    price = line.unit_price
    if line.price_cost is not None:
        price = _short(money.EXACT.divide(line.exact_cost, quantity)) if quantity else Decimal(0)
    return _Priced(
        quantity, _unit(line), price, money.EXACT.multiply(quantity, price), line.unit_price
    )


def _unit(line: Line) -> str:
    if line.meter == "device_ns":
        return "GPU-Hours" if line.unit_quantity == NS_PER_HOUR else f"{line.unit_quantity} ns"
    return f"{line.unit_quantity} Tokens"


def _sku(line: Line, priced: _Priced) -> dict[str, Value]:
    if priced.price is None:
        return {}
    whose = line.device_type or f"{line.provider}/{line.model}"
    sku = "/".join(part for part in (whose, line.service_tier, line.meter) if part)
    price = f"{priced.price.normalize(money.EXACT):f}"
    return {
        "SkuId": sku,
        "SkuMeter": line.meter.replace("_", " "),
        "SkuPriceId": f"{sku}@{price}/{line.unit_quantity}{line.price_currency}",
        "PricingCategory": "Standard",
        "PricingQuantity": priced.quantity,
        "PricingUnit": priced.unit,
        "ConsumedQuantity": _consumed(line),
        "ConsumedUnit": "GPU-Hours" if line.meter == "device_ns" else "Tokens",
        "ListUnitPrice": priced.unit_price,
        "ContractedUnitPrice": priced.unit_price,
        "PricingCurrencyListUnitPrice": priced.price,
        "PricingCurrencyContractedUnitPrice": priced.price,
    }


def _consumed(line: Line) -> Decimal:
    if line.meter == "device_ns":
        return _short(money.EXACT.divide(Decimal(line.quantity), Decimal(NS_PER_HOUR)))
    return Decimal(line.quantity)


def _costs(line: Line, priced: _Priced) -> dict[str, Value]:
    exact = _short(line.exact_cost)
    product = exact if priced.cost is None else priced.cost
    return {
        "BilledCost": line.cost,
        "EffectiveCost": exact,
        "ListCost": product,
        "ContractedCost": product,
    }


def _pricing(report: Chargeback, line: Line) -> dict[str, Value]:
    """In the price's currency, where that is another one."""
    if line.price_cost is None:
        return {
            "PricingCurrency": report.currency,
            "PricingCurrencyEffectiveCost": _short(line.exact_cost),
        }
    return {
        "PricingCurrency": line.price_currency,
        "PricingCurrencyEffectiveCost": _short(line.price_cost),
    }


def _payer(line: Line) -> dict[str, Value]:
    tags = {"team": line.team, "cost_centre": line.cost_centre, "feature": line.feature}
    said = {name: value for name, value in tags.items() if value}
    named = line.team_id is not None
    return {
        "SubAccountId": f"team-{line.team_id}" if named else None,
        "SubAccountName": line.team if named else None,
        "SubAccountType": "Team" if named else None,
        "Tags": json.dumps(said, ensure_ascii=False, sort_keys=True),
    }


def _ours(line: Line) -> dict[str, Value]:
    return {
        "x_Kind": line.kind,
        "x_AdjustmentCause": line.cause or None,
        "x_UsedIn": line.used_in,
        "x_Method": line.method or None,
        "x_Calls": Decimal(line.calls),
        "x_Quantity": Decimal(line.quantity),
        "x_UnpricedQuantity": Decimal(line.unpriced_quantity),
        "x_PriceState": line.state,
        "x_CostCentre": line.cost_centre or None,
        "x_Feature": line.feature or None,
    }


def _description(line: Line) -> str:
    what = "/".join(filter(None, [line.device_type or line.provider, line.model]))
    text = f"{what or 'unknown model'} {line.meter.replace('_', ' ')}"
    if line.kind == ADJUSTMENT:
        return f"Adjustment to {line.used_in} ({line.cause}): {text}"
    return f"{text}, price not known" if line.is_unpriced else text


def _provider(report: Chargeback, line: Line) -> str:
    """One's own machines are the organization's."""
    return report.organization if line.device_type else line.provider or "unknown"


def _short(amount: Decimal) -> Decimal:
    return amount.quantize(_PLACES, ROUND_HALF_UP, money.EXACT)
