"""Says in the log what is sampled and what not and why: all of it at first, then only what changes."""

import logging
from collections.abc import Iterable

from collectors.devices.samples import WHOLE_DEVICE, Devices, DeviceSample, Gap, Reading

logger = logging.getLogger(__name__)


class Announced:
    """These devices, with a line for each change."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._before: Reading | None = None

    def sample(self) -> Reading:
        reading = self._devices.sample()
        before = self._before or Reading()
        _say_devices(before, reading)
        _say_gaps(before, reading)
        self._before = reading
        return reading


def _say_devices(before: Reading, now: Reading) -> None:
    earlier = {sample.device_id: sample for sample in before.samples}
    for sample in now.samples:
        was = earlier.pop(sample.device_id, None)
        if sample.is_lost and not (was and was.is_lost):
            logger.error(
                "lost %s: it has status failed and no values until it answers", _named(sample)
            )
        elif not sample.is_lost and (was is None or was.is_lost):
            again = " again" if was else ""
            counters = ", ".join(sample.counters()) or "its status"
            logger.info("sampling %s%s: %s", _named(sample), again, counters)
    for was in earlier.values():
        logger.info("%s is no more", _named(was))


def _say_gaps(before: Reading, now: Reading) -> None:
    for device_id, reason, gaps in _by_cause(gap for gap in now.gaps if gap not in before.gaps):
        device = device_id or f"any {gaps[0].device_type}"
        logger.warning(
            "not sampling %s%s: %s (%s)", device, _counters(gaps), gaps[0].because, reason
        )
    answering = {sample.device_id for sample in now.samples if not sample.is_lost}
    over = [gap for gap in before.gaps if gap not in now.gaps and gap.device_id in answering]
    for device_id, _, gaps in _by_cause(over):
        logger.info("now sampling %s%s", device_id, _counters(gaps))


def _counters(gaps: Iterable[Gap]) -> str:
    """As the end of a sentence about their device; nothing where it is the device itself."""
    named = ", ".join(gap.counter for gap in gaps if gap.counter != WHOLE_DEVICE)
    return f", its {named}" if named else ""


def _by_cause(gaps: Iterable[Gap]) -> list[tuple[str, str, list[Gap]]]:
    """Gaps of one device for one reason are one line."""
    found: dict[tuple[str, str, str], list[Gap]] = {}
    for gap in gaps:
        found.setdefault((gap.device_id, gap.reason, gap.because), []).append(gap)
    return [(device_id, reason, these) for (device_id, reason, _), these in found.items()]


def _named(sample: DeviceSample) -> str:
    name = f" ({sample.name})" if sample.name else ""
    parent = f" of {sample.parent_id}" if sample.parent_id else ""
    return f"{sample.device_type} {sample.device_id}{name}{parent}"
