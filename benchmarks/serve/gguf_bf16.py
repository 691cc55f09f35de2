"""A GGUF file's twin whose matrices are bfloat16, so that llama.cpp can be asked what it does with whole weights."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize

_ARCHITECTURE = "general.architecture"
_FILE_TYPE = "general.file_type"
_WRITTEN_BY_ITSELF = {_ARCHITECTURE, _FILE_TYPE}


def write_bf16(source: Path, target: Path) -> Path:
    """The same metadata and tensors; matrices in bfloat16, vectors in float32. Returns target."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields[_ARCHITECTURE].contents())
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    for name, field in reader.fields.items():
        if name in _WRITTEN_BY_ITSELF or name.startswith("GGUF."):
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=of)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape[::-1]))
        _add(writer, tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add(writer: GGUFWriter, name: str, values: np.ndarray) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values)
        return
    halves = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    writer.add_tensor(name, halves.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
