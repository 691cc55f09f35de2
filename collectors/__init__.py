"""What an application and a machine send: who pays, and what was used.

import collectors

collectors.configure(team="search", endpoint="http://localhost:4318", key="cw_…")
with collectors.attribute(feature="answers", customer="acme"):
    client.chat.completions.create(…)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collectors.context import attribute
    from collectors.sdk import ConfigurationError, Configured, configure

__all__ = ["ConfigurationError", "Configured", "attribute", "configure"]

_MODULES = {
    "attribute": "collectors.context",
    "configure": "collectors.sdk",
    "Configured": "collectors.sdk",
    "ConfigurationError": "collectors.sdk",
}


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: whoever wants the attribute names alone (collectors.semconv) pays for no SDK.
    if name not in _MODULES:
        raise AttributeError(f"module 'collectors' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
