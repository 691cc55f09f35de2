"""Files that can't be written front to back: made beside, then read out piece by piece."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_PIECE_BYTES = 256 * 1024


def pieces_of(write: Callable[[Path], None]) -> Iterator[bytes]:
    """What `write` puts into the file that it is given; the file is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="costwatch-export-") as folder:
        path = Path(folder) / "export"
        write(path)
        with path.open("rb") as made:
            while piece := made.read(_PIECE_BYTES):
                yield piece
