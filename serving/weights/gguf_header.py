"""The front of a GGUF file: metadata, and where each tensor lies.

Read here and not by the gguf package, whose reader takes eight seconds for a vocabulary of 49,152 tokens.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from serving.weights.not_loaded import ModelNotLoaded

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_ALIGNMENT = 32  # of the tensors, where general.alignment doesn't say
_STRING, _ARRAY = 8, 9
# Kinds of numbers in metadata, as numpy names them.
_NUMBERS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the file has it. shape is torch's, which GGUF counts from behind; data uint8 [rows, bytes of a row]."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: NDArray[numpy.uint8]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def read_header(file: Path) -> GgufHeader:
    """Metadata, and tensors that are read when they are touched. Raises ModelNotLoaded for what is no whole GGUF file."""
    with file.open("rb") as opened:
        if opened.read(4) != _MAGIC:
            raise ModelNotLoaded(f"'{file}' cannot be read as GGUF: it does not begin with 'GGUF'")
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _Reader(file, content).header()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _truncated(file, f"its header ends early ({error})") from error


def _truncated(file: Path, how: str) -> ModelNotLoaded:
    return ModelNotLoaded(f"'{file}' cannot be read as GGUF: {how}; download it again")


class _Described(NamedTuple):
    """A tensor's line in the header; offset counts from where the tensors begin."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int


class _Reader:
    """Goes through the header once."""

    def __init__(self, file: Path, content: mmap.mmap) -> None:
        self._file, self._content = file, content
        self._place = len(_MAGIC)

    def header(self) -> GgufHeader:
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ModelNotLoaded(
                f"'{self._file}' is GGUF of version {version}; expected 2 or 3, little-endian"
            )
        tensors, values = self._number("<Q"), self._number("<Q")
        metadata = {self._text(): self._value(self._number("<I")) for _ in range(values)}
        described = [self._description() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        start = -(-self._place // alignment) * alignment
        return GgufHeader(
            metadata, {each.name: self._tensor(each, start + each.offset) for each in described}
        )

    def _number(self, format_: str) -> Any:
        (number,) = struct.unpack_from(format_, self._content, self._place)
        self._place += struct.calcsize(format_)
        return number

    def _text(self) -> str:
        length = self._number("<Q")
        begin, self._place = self._place, self._place + length
        if self._place > len(self._content):
            raise IndexError(f"a text of {length} bytes")
        return self._content[begin : self._place].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(self._number("<I"), self._number("<Q"))
        return self._numbers(kind, 1)[0]

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind in _NUMBERS:
            return self._numbers(kind, count)
        return [self._value(kind) for _ in range(count)]

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _NUMBERS:
            raise ModelNotLoaded(
                f"'{self._file}' holds metadata of a kind {kind} that GGUF has not"
            )
        dtype = numpy.dtype(_NUMBERS[kind])
        begin, self._place = self._place, self._place + count * dtype.itemsize
        if self._place > len(self._content):
            raise IndexError(f"{count} numbers")
        numbers: list[Any] = numpy.frombuffer(self._content, dtype, count, begin).tolist()
        return numbers

    def _description(self) -> _Described:
        name = self._text()
        sizes = [self._number("<Q") for _ in range(self._number("<I"))]
        kind, offset = self._number("<I"), self._number("<Q")
        return _Described(name, tuple(reversed(sizes)), self._quantization(name, kind), offset)

    def _tensor(self, described: _Described, begin: int) -> StoredTensor:
        block_values, block_bytes = GGML_QUANT_SIZES[described.kind]
        *rows, row_values = described.shape
        row_bytes = row_values // block_values * block_bytes
        end = begin + math.prod(rows) * row_bytes
        if end > len(self._content):
            raise _truncated(
                self._file,
                f"'{described.name}' ends at byte {end} and the file has {len(self._content)}",
            )
        data = numpy.frombuffer(self._content, numpy.uint8, end - begin, begin)
        return StoredTensor(described.kind, described.shape, data.reshape(-1, row_bytes))

    def _quantization(self, name: str, kind: int) -> GGMLQuantizationType:
        try:
            return GGMLQuantizationType(kind)
        except ValueError:
            raise ModelNotLoaded(
                f"'{self._file}' holds '{name}' in a quantization of number {kind}, which is not known here; "
                "use another file of the model, such as Q4_K_M or Q8_0"
            ) from None
