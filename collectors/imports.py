"""What is to be done when the application imports something; nothing is imported for our sake."""

from collections.abc import Callable
from types import ModuleType

import wrapt  # type: ignore[import-untyped]  # comes with OpenTelemetry's instrumentations; 1.x has no types


def when_imported(name: str, do: Callable[[ModuleType], None]) -> None:
    """Call `do` with that module as soon as it is imported; now, where it is already."""
    wrapt.register_post_import_hook(do, name)
