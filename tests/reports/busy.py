"""A month with everything that a statement can hold, closed, for the exports."""

from __future__ import annotations

from datetime import timedelta

from costwatch.accounts.models import Organization
from costwatch.pricing.models import Meter
from costwatch.reports.chargeback import Chargeback, frozen
from tests.factories import TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import device_price, offering, source, token_price, used
from tests.reports.closing import IN_DECEMBER, NOVEMBER, OCTOBER, closed

EVIL = '=HYPERLINK("http://x")'

SECOND_NS = 1_000_000_000


def november(organization: Organization) -> Chargeback:
    """Tokens at two prices, device time, idle devices, a batch tier, what has no price, what is free; late calls and a new price."""
    search = TeamFactory(organization=organization, name="Search", cost_centre="CC-1")
    support = TeamFactory(organization=organization, name="Support & Söhne <b>")
    token_price(organization, Meter.INPUT_TOKENS, "2.50")
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    token_price(organization, Meter.OUTPUT_TOKENS, "5", tier="batch")
    token_price(organization, Meter.INPUT_TOKENS, "0", model="gift")
    device_price(organization, "NVIDIA H100", "3.59")
    bought = offering(organization)
    for hour in (OCTOBER, NOVEMBER):
        used(
            source(organization, search, "ranking"),
            bought,
            hour,
            input_tokens=1_234_567,
            output_tokens=89_001,
        )
    closed(organization, "2026-10")
    used(
        source(organization, search, "ranking"),
        bought,
        OCTOBER + timedelta(hours=1),
        input_tokens=777,
    )
    token_price(organization, Meter.OUTPUT_TOKENS, "8")
    token_price(organization, Meter.INPUT_TOKENS, "3.333333", start=NOVEMBER)
    own = offering(organization, "costwatch", "small", device_type="NVIDIA H100")
    used(source(organization, search, "ranking"), own, NOVEMBER, device_ns=7_123_456_789_012)
    for device in ("gpu-0", "gpu-1", "gpu-2"):
        told(
            organization,
            NOVEMBER,
            attributed_ns=2_374 * SECOND_NS,
            unattributed_ns=60 * SECOND_NS,
            device_id=device,
            device_type="NVIDIA H100",
        )
    batch = offering(organization, tier="batch")
    used(source(organization, support, EVIL), batch, NOVEMBER, output_tokens=12_345)
    used(
        source(organization, support, "日本語"),
        offering(organization, model="gift"),
        NOVEMBER,
        input_tokens=5,
    )
    used(source(organization), offering(organization, model="gpt-99"), NOVEMBER, output_tokens=6)
    used(source(organization), bought, NOVEMBER - timedelta(hours=30), input_tokens=1_000_001)
    return frozen(closed(organization, "2026-11", IN_DECEMBER))
