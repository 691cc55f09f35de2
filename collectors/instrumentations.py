"""What covers which client library; exactly one thing each, or calls are seen twice.

A library whose requests the transport reads is left to it: what the provider counted stands in the answer, and reading it
there takes a fifth of the CPU that an instrumentation takes. Any other library is covered by an instrumentation that somebody
maintains, found by its entry point; so are all of them where COSTWATCH_INSTRUMENTATIONS=installed asks for it, and where a
sampler may leave spans out, for only instrumentations have metrics of the calls whose spans are not sent. Where several are
installed for one library, the first in its row is switched on: the ones that report cached tokens before the ones that do
not, OpenTelemetry's own before others.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import (
    EntryPoint,
    PackageNotFoundError,
    distribution,
    entry_points,
    version,
)
from pathlib import Path
from types import ModuleType
from typing import Any

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from collectors import transport
from collectors.batches import KeepSpans
from collectors.imports import when_imported

logger = logging.getLogger(__name__)

_GROUP = "opentelemetry_instrumentor"
_providers: list[Any] = []  # of traces and of metrics
_switched_on: list[EntryPoint] = []  # by us; what the application switched on itself is its own
_left_to_the_transport: dict[str, EntryPoint] = {}  # by library, though there is an instrumentation
VARIABLE = "COSTWATCH_INSTRUMENTATIONS"
_REQUESTS = "its HTTP requests"
THREADING = "opentelemetry.instrumentation.threading"  # carries tags into threads

# Content is never asked for; somebody who wants it has to say so in the environment.
_NO_CONTENT = {
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "NO_CONTENT",
    "TRACELOOP_TRACE_CONTENT": "false",
    "OPENINFERENCE_HIDE_INPUTS": "true",
    "OPENINFERENCE_HIDE_OUTPUTS": "true",
}

# Client library (a distribution's name) → modules that instrument it, the best first.
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "openai": (
        "opentelemetry.instrumentation.genai.openai",
        "opentelemetry.instrumentation.openai_v2",
        "opentelemetry.instrumentation.openai",
        "openinference.instrumentation.openai",
    ),
    # Not opentelemetry.instrumentation.anthropic: it adds to a stream's output what Anthropic counted already.
    "anthropic": (
        "opentelemetry.instrumentation.genai.anthropic",
        "openinference.instrumentation.anthropic",
    ),
    "google-genai": (
        "opentelemetry.instrumentation.google_genai",
        "opentelemetry.instrumentation.google_generativeai",
        "openinference.instrumentation.google_genai",
    ),
    "google-cloud-aiplatform": (
        "opentelemetry.instrumentation.vertexai_v2",
        "opentelemetry.instrumentation.vertexai",
        "openinference.instrumentation.vertexai",
    ),
    "boto3": (
        "opentelemetry.instrumentation.botocore",
        "opentelemetry.instrumentation.bedrock",
        "openinference.instrumentation.bedrock",
    ),
    "mistralai": (
        "opentelemetry.instrumentation.mistralai",
        "openinference.instrumentation.mistralai",
    ),
    "cohere": ("opentelemetry.instrumentation.cohere",),
    "groq": ("opentelemetry.instrumentation.groq", "openinference.instrumentation.groq"),
    "together": ("opentelemetry.instrumentation.together",),
    "ollama": ("opentelemetry.instrumentation.ollama",),
    "replicate": ("opentelemetry.instrumentation.replicate",),
}


# The module whose import says that a library is going to be used.
_IMPORTED_AS: Mapping[str, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google-genai": "google.genai",
    "boto3": "botocore",
    "mistralai": "mistralai",
    "cohere": "cohere",
    "groq": "groq",
    "together": "together",
    "ollama": "ollama",
    "replicate": "replicate",
}

# Libraries that make spans of their calls themselves, by the file that does it. Another's would be a second one.
_OWN_SPANS: Mapping[str, str] = {"anthropic": "anthropic/_tracing.py"}

# Libraries whose requests the transport reads.
_READ_ON_THE_WIRE = frozenset(
    {"openai", "anthropic", "google-genai", "mistralai", "groq", "together"}
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """By client library that is installed here: what covers it, or why nothing does.

    plain   HTTP clients whose calls to known paths are read, by name with their version
    """

    covered: Mapping[str, str]
    uncovered: Mapping[str, str]
    plain: Mapping[str, str] = field(default_factory=dict)

    @property
    def plain_clients(self) -> str:
        """Those of plain with their versions, for people; whoever uses requests may never have heard of urllib3."""
        return ", ".join(
            f"{name} {version}{' (requests)' if name == 'urllib3' else ''}"
            for name, version in self.plain.items()
        )

    def __str__(self) -> str:
        covered = ", ".join(f"{name} by {by}" for name, by in self.covered.items()) or "no library"
        plain = self.plain_clients or "none"
        uncovered = "; ".join(f"{name} ({why})" for name, why in self.uncovered.items())
        return f"covers {covered}; plain calls of {plain}" + (
            f"; does not cover {uncovered}" if uncovered else ""
        )


def switch_on(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    *,
    lazily: bool = False,
    all_installed: bool = False,
    keep: KeepSpans | None = None,
) -> Coverage:
    """Switch on what covers each client library that is installed, and the instrumentation for threads.

    lazily   each as soon as its library is imported, so that a process that never does pays nothing for it
    all_installed   instrumentations also for libraries whose requests the transport reads
    keep     the provider's processor of ours, whose thread calls transport.drain()
    """
    for name, value in _NO_CONTENT.items():
        os.environ.setdefault(name, value)
    _providers[:] = [tracer_provider, meter_provider]
    is_asked_for = all_installed or may_leave_out(tracer_provider)
    points = _entry_points()
    if THREADING in points:
        _instrument(points[THREADING])
    covered: dict[str, str] = {}
    uncovered: dict[str, str] = {}
    for library, modules in LIBRARIES.items():
        if not _is_installed(library):
            continue
        if _makes_own_spans(library):
            covered[library] = "itself"
            continue
        point = next((points[module] for module in modules if module in points), None)
        if point is None:
            _without(library, modules[0], covered, uncovered)
        elif library in _READ_ON_THE_WIRE and not is_asked_for:
            _left_to_the_transport[library] = point
            covered[library] = f"{_REQUESTS} ({VARIABLE}=installed: by {_distribution(point)})"
        elif lazily and library in _IMPORTED_AS:
            _instrument_later(point, library)
            covered[library] = _distribution(point)
        elif wrong := _instrument(point):
            uncovered[library] = wrong
        else:
            covered[library] = _distribution(point)
    return Coverage(covered, uncovered, transport.switch_on(tracer_provider, keep=keep))


def switch_over(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    *,
    keep: KeepSpans | None = None,
) -> None:
    """Have all that is switched on, and will be, use these providers."""
    _providers[:] = [tracer_provider, meter_provider]
    points, _switched_on[:] = list(_switched_on), []
    for point in points:
        point.load()().uninstrument()
        if wrong := _instrument(point):
            logger.warning("costwatch lost an instrumentation on the way: %s", wrong)
    if may_leave_out(tracer_provider):
        for library, point in _left_to_the_transport.items():
            _instrument_later(point, library)
        _left_to_the_transport.clear()
    transport.switch_on(tracer_provider, keep=keep)


def may_leave_out(tracer_provider: TracerProvider) -> bool:
    """Whether its sampler may leave spans out, so that calls are to be counted by metrics, too."""
    return tracer_provider.sampler is not ALWAYS_ON


def _without(library: str, module: str, covered: dict[str, str], uncovered: dict[str, str]) -> None:
    """Where no instrumentation is installed, the transport may do."""
    if library in _READ_ON_THE_WIRE:
        covered[library] = _REQUESTS
    else:
        uncovered[library] = f"install {module.replace('.', '-').replace('_', '-')}"


def _makes_own_spans(library: str) -> bool:
    file = _OWN_SPANS.get(library)
    return file is not None and Path(str(distribution(library).locate_file(file))).exists()


def _instrument_later(point: EntryPoint, library: str) -> None:
    def instrument(_: ModuleType) -> None:
        if wrong := _instrument(point):
            logger.warning("costwatch does not cover %s by its instrumentation: %s", library, wrong)

    when_imported(_IMPORTED_AS[library], instrument)


def _entry_points() -> dict[str, EntryPoint]:
    """Installed instrumentations by module; several packages share the entry point's name, so that says little."""
    return {point.module: point for point in entry_points(group=_GROUP)}


def _is_installed(library: str) -> bool:
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def _instrument(point: EntryPoint) -> str:
    """Switch one on; empty when it is, else why not. An application must start without its telemetry, too."""
    tracer_provider, meter_provider = _providers
    try:
        instrumentor: Any = point.load()()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
            _switched_on.append(point)
    except Exception as error:  # third-party code; whatever it raises is an answer, not our failure
        return f"{_distribution(point)} failed: {error}"
    if instrumentor.is_instrumented_by_opentelemetry:
        return ""
    return f"{_distribution(point)} refuses this version of it"
