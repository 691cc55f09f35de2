"""Forms whose effect is shown before they are saved: sent once, they are previewed; sent again unchanged, saved."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(said: Any) -> str:
    """Says of a form that comes back whether it is the one whose effect was shown. said: what is JSON, or has a text."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
