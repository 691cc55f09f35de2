"""What can't run here is skipped, said in one line; in CI nothing is skipped but what needs another machine."""

import os
from collections import Counter

import pytest

from tests.browser import executable

NO_BROWSER = "no Chromium: install Debian's chromium, or name one in CHROMIUM"
NO_GPU = "no NVIDIA GPU"
# It needs Python 3.12 and an environment of its own, with an older pyarrow.
NO_FOCUS_VALIDATOR = "no focus-validator: COSTWATCH_FOCUS_VALIDATOR names its program"
_ALLOWED = (NO_FOCUS_VALIDATOR,)

_skipped: Counter[str] = Counter()
_not_allowed: list[str] = []


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = {name: [i for i in items if i.get_closest_marker(name)] for name in ("browser", "gpu")}
    if marked["browser"] and executable() is None:
        _skip(marked["browser"], NO_BROWSER)
    if marked["gpu"] and not _has_gpu():
        _skip(marked["gpu"], NO_GPU)


def _skip(items: list[pytest.Item], reason: str) -> None:
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "skipped"
    reason = reason.removeprefix("Skipped: ")
    _skipped[reason] += 1
    if "gpu" not in report.keywords and reason not in _ALLOWED:
        _not_allowed.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and _not_allowed and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    said = "; ".join(f"{count} × {reason}" for reason, count in sorted(_skipped.items()))
    terminalreporter.write_line(f"Skipped: {said or 'nothing'}")
    if os.environ.get("CI") and _not_allowed:
        terminalreporter.write_line(f"In CI these must run: {', '.join(_not_allowed)}", red=True)
