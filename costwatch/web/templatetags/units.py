"""Numbers as a person reads them: with their unit, rounded, and "unknown" where nobody knows.

Rounding happens here and nowhere before. None is never shown as zero.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from costwatch.attribution.assignment import NOTHING

register = template.Library()

_SPACE = "\u00a0"  # keeps a number and its unit on one line
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
_MINUTE_NS = 60 * 10**9
_HOUR_NS = 60 * _MINUTE_NS

UNKNOWN = SafeString('<span class="unknown">unknown</span>')


def symbol_of(currency: str) -> str:
    return _SYMBOLS.get(currency, f"{currency}{_SPACE}")


def money_text(amount: Decimal, currency: str = "USD") -> str:
    """Two decimals from one unit of currency on; below it, two significant digits, so that cents of cents show."""
    sign = "−" if amount < 0 else ""
    size = abs(amount)
    symbol = symbol_of(currency)
    if 0 < size < Decimal("0.000001"):
        return f"{sign}<{_SPACE}{symbol}0.000001"
    return f"{sign}{symbol}{_quantized(size):,f}"


def _quantized(size: Decimal) -> Decimal:
    digits = 2 if size >= 1 or size == 0 else max(2, 1 - size.adjusted())
    return size.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_EVEN)


def count_text(count: int) -> str:
    """All digits up to 99,999; from there on three significant ones and k, M, G or T."""
    if abs(count) < 100_000:
        return f"{count:,}"
    for factor, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= factor:
            return f"{_three_digits(count / factor)}{_SPACE}{letter}"
    raise AssertionError("a count of six digits is more than a thousand")


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def duration_text(duration_ns: int) -> str:
    """A latency: three digits in ns, µs, ms or s; from two minutes on, minutes or hours."""
    if abs(duration_ns) >= 2 * _HOUR_NS:
        return f"{duration_ns / _HOUR_NS:,.1f}{_SPACE}h"
    if abs(duration_ns) >= 2 * _MINUTE_NS:
        return f"{duration_ns / _MINUTE_NS:.1f}{_SPACE}min"
    for factor, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if abs(duration_ns) >= factor:
            return f"{_three_digits(duration_ns / factor)}{_SPACE}{unit}"
    return f"{duration_ns}{_SPACE}ns"


def device_seconds_text(device_ns: int) -> str:
    """Device time stays in seconds at every size, as it is priced and compared."""
    seconds = device_ns / 10**9
    return f"{seconds:,.0f}{_SPACE}s" if seconds >= 1000 else f"{_three_digits(seconds)}{_SPACE}s"


@register.filter
def money(amount: Decimal | None, currency: str = "USD") -> str:
    return UNKNOWN if amount is None else money_text(amount, currency)


@register.filter
def billed(amount: Decimal, currency: str = "USD") -> str:
    """An amount of a bill: with just the places that it has."""
    return f"{'−' if amount < 0 else ''}{symbol_of(currency)}{abs(amount):,f}"


@register.filter
def unit_price(amount: Decimal | None, currency: str = "USD") -> str:
    """A price with every digit it has."""
    if amount is None:
        return UNKNOWN
    plain = amount.normalize()
    exponent = plain.as_tuple().exponent
    digits = max(2, -exponent if isinstance(exponent, int) else 2)
    return f"{symbol_of(currency)}{plain:,.{digits}f}"


@register.filter
def rate(value: Decimal) -> str:
    """An exchange rate with every digit that it has."""
    return f"{value.normalize():,f}"


@register.filter
def tokens(count: int | None) -> str:
    return UNKNOWN if count is None else count_text(count)


@register.filter
def counted(count: int | None) -> str:
    """As tokens, with every digit as its title."""
    if count is None:
        return UNKNOWN
    return format_html('<span title="{}">{}</span>', f"{count:,}", count_text(count))


@register.filter
def exact(count: int | None) -> str:
    """Every digit, for titles and single calls."""
    return UNKNOWN if count is None else f"{count:,}"


@register.filter
def duration(duration_ns: int | None) -> str:
    return UNKNOWN if duration_ns is None else duration_text(duration_ns)


@register.filter
def pattern(value: str) -> str:
    """A rule's pattern, in words where it stands for what is not said."""
    return SafeString("<em>not said</em>") if value == NOTHING else value


@register.filter
def seconds(value: float | None) -> str:
    """A latency that is given in seconds."""
    return UNKNOWN if value is None else duration_text(round(value * 10**9))


@register.filter
def device_seconds(device_ns: int | None) -> str:
    return UNKNOWN if device_ns is None else device_seconds_text(device_ns)


@register.filter
def energy(energy_uj: int | None) -> str:
    if energy_uj is None:
        return UNKNOWN
    joules = energy_uj / 10**6
    if joules >= 3_600_000:
        return f"{_three_digits(joules / 3_600_000)}{_SPACE}kWh"
    return f"{_three_digits(joules)}{_SPACE}J"


@register.filter
def percent(fraction: Any) -> str:
    """A fraction of 1 in per cent: one decimal below ten."""
    if fraction is None:
        return UNKNOWN
    value = float(fraction) * 100
    return f"{value:.1f}{_SPACE}%" if 0 < abs(value) < 10 else f"{value:.0f}{_SPACE}%"


@register.filter
def known(value: Any) -> Any:
    """The value itself, or that it is unknown: for names and texts."""
    return UNKNOWN if value is None or value == "" else value


@register.simple_tag
def share_bar(fraction: Any, series: int) -> SafeString:
    """A bar of the width of a share, in the colour of a series. Decoration: the number stands beside it."""
    width = 0.0 if fraction is None else max(0.0, min(1.0, float(fraction))) * 100
    return format_html(
        '<svg class="share" aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none">'
        '<rect width="100" height="6"></rect><rect class="s{}" width="{}" height="6"></rect></svg>',
        series,
        f"{width:.2f}",
    )


@register.filter
def line_quantity(line: Any) -> str:
    """What a line of a statement is about, with its unit; every digit as its title."""
    if line.meter != "device_ns":
        return counted(line.quantity)
    hours = Decimal(line.quantity) / _HOUR_NS
    return format_html(
        '<span title="{} ns">{}{}h</span>', f"{line.quantity:,}", f"{hours:,.2f}", _SPACE
    )


@register.filter
def meter_name(meter: str) -> str:
    """input_tokens → input tokens."""
    return meter.replace("_", " ")
