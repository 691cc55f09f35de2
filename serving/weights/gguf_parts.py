"""GGUF models that were split into files such as model-00001-of-00003.gguf: each names all of them.

parts_of      the files of a model
model_name    what it is called without their numbers
read_parts    one header over all of them
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.weights.gguf_header import GgufHeader, read_header
from serving.weights.not_loaded import ModelNotLoaded

_PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def parts_of(file: Path) -> list[Path]:
    """The files that the model of `file` lies in, in their order. Raises ModelNotLoaded where one is missing."""
    named = _PART.fullmatch(file.stem)
    if named is None:
        return [file]
    numbers = range(1, int(named["count"]) + 1)
    parts = [
        file.with_name(f"{named['model']}-{number:05}-of-{named['count']}.gguf")
        for number in numbers
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelNotLoaded(
            f"'{file}' is one of {len(parts)} files of a model, and '{missing[0]}' is not beside it; "
            "is the download complete?"
        )
    return parts


def model_name(file: Path) -> str:
    named = _PART.fullmatch(file.stem)
    return file.stem if named is None else named["model"]


def read_parts(file: Path) -> GgufHeader:
    """The first part's metadata and the tensors of all; `file` may be any of them.

    Raises ModelNotLoaded where a part is missing, no whole GGUF file, or another than its name says.
    """
    parts = parts_of(file)
    headers = [read_header(part) for part in parts]
    for place, (part, header) in enumerate(zip(parts, headers, strict=True)):
        _check_place(part, header.metadata, place, len(parts))
    metadata = headers[0].metadata
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    wanted = metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != wanted:
        raise ModelNotLoaded(
            f"the {len(parts)} files of '{file}' hold {len(tensors)} tensors, and the first says {wanted}; "
            "download them again"
        )
    return GgufHeader(metadata, tensors)


def _check_place(part: Path, metadata: Mapping[str, Any], place: int, count: int) -> None:
    # A file that was joined again says 0 of 0.
    found = metadata.get("split.no", 0), metadata.get("split.count", 0) or 1
    if found != (place, count):
        raise ModelNotLoaded(
            f"'{part}' says that it is file {found[0] + 1} of {found[1]} of its model; expected {place + 1} "
            f"of {count}: name the files as they were published, NAME-00001-of-{found[1]:05}.gguf and so on"
        )
