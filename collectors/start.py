"""What happens at the start of a program under `costwatch-collect run`, or with our folder on PYTHONPATH.

Everything comes from the environment. The program starts whatever goes wrong here; what does is said on stderr.
"""

import functools
import logging
import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from collectors import transport
from collectors.sdk import ConfigurationError, Configured, configure, give_way

STARTED = "COSTWATCH_COLLECT_STARTED"  # one process has said what is covered; its children need not
_OFF = ("0", "no", "false", "off")


def start() -> None:
    """Set everything up from COSTWATCH_* variables, and say on stderr what is covered."""
    environ = os.environ
    if environ.get("COSTWATCH_COLLECT", "").lower() in _OFF:
        return
    is_first = STARTED not in environ
    environ[STARTED] = str(os.getpid())
    _show_warnings()
    try:
        configured = configure(
            team=environ.get("COSTWATCH_TEAM"),
            feature=environ.get("COSTWATCH_FEATURE"),
            customer=environ.get("COSTWATCH_CUSTOMER"),
            zero_code=True,
        )
    except ConfigurationError as error:
        _say(f"nothing is collected: {error}")
        return
    except Exception as error:  # the program is worth more than its telemetry
        _say(f"nothing is collected: {type(error).__name__}: {error}")
        return
    _let_the_application_set_its_own()
    if is_first:
        for line in describe(configured):
            _say(line)


def describe(configured: Configured) -> list[str]:
    """What is covered, what not and why, and where it goes: a few lines."""
    coverage = configured.coverage
    team = os.environ.get("COSTWATCH_TEAM")
    lines = [f"sends to {configured.target.traces_url}" + (f" for team {team}" if team else "")]
    if configured.sender is not None:
        lines += map(str, configured.sender.outbox.left_beside())
    lines += [f"covers {library} by {by}" for library, by in coverage.covered.items()]
    if coverage.plain:
        lines.append(
            f"covers plain calls of {coverage.plain_clients} to the providers' known paths"
        )
    lines += [f"does not cover {name}: {why}" for name, why in coverage.uncovered.items()]
    lines.append(f"does not cover {transport.NOT_WATCHED}: nothing reads them")
    return lines


def _let_the_application_set_its_own() -> None:
    """OpenTelemetry takes one provider, the first, and we were there before the application."""
    set_first = trace.set_tracer_provider

    @functools.wraps(set_first)
    def set_tracer_provider(tracer_provider: trace.TracerProvider) -> None:
        if not (isinstance(tracer_provider, TracerProvider) and give_way(tracer_provider)):
            set_first(tracer_provider)

    trace.set_tracer_provider = set_tracer_provider


def _say(line: str) -> None:
    print(f"costwatch: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _show_warnings() -> None:
    """Ours, on stderr, whatever the application does with its own logging later."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("collectors")
    ours.addHandler(handler)
    ours.propagate = False
