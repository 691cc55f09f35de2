"""A model as Hugging Face lays it out, read from a folder or written to one.

Every format becomes a Checkpoint first, so that there is one way from tensors to a model.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from serving.weights.grouped import GroupedCodes
from serving.weights.not_loaded import ModelNotLoaded

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_SHARD_BYTES = 2**30  # what write_folder holds in memory at once


def no_codes(_: str) -> GroupedCodes | None:
    """What a checkpoint of floats has of codes."""
    return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """config and tokenizer_config are the JSON files of those names; tensors have Hugging Face's names.

    A lookup in tensors may read a file or dequantize, each time: take each tensor once. grouped gives a tensor's codes
    where the file keeps it in groups (see weights/grouped.py), without widening it.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    tokenizer_config: Mapping[str, Any]
    grouped: Callable[[str], GroupedCodes | None] = no_codes


def read_folder(folder: Path) -> Checkpoint:
    """A Hugging Face folder; its tensors are read when they are looked up.

    Raises ModelNotLoaded, naming the file that is missing or broken.
    """
    return Checkpoint(
        config=_config(folder),
        tensors=FolderTensors(folder),
        tokenizer_json=_text(folder / "tokenizer.json"),
        tokenizer_config=_tokenizer_config(folder),
    )


class FolderTensors(Mapping[str, Tensor]):
    """The tensors of a folder's safetensors files, by name. A lookup reads one."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: file for file in _opened(folder) for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def part(self, name: str, dim: int, start: int, end: int) -> Tensor:
        """From start to end, which is excluded, of one of a tensor's first two dimensions. Nothing else is read."""
        stored = self._files[name].get_slice(name)
        part: Tensor = stored[start:end] if dim == 0 else stored[:, start:end]
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _opened(folder: Path) -> Iterator[Any]:
    for file in _tensor_files(folder):
        try:
            yield safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ModelNotLoaded(f"'{file}' cannot be read: {error}; download it again") from error


def _tensor_files(folder: Path) -> list[Path]:
    """The shards that the index names, or the one file."""
    index = folder / _INDEX
    names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else []
    files = [folder / name for name in names or [_WHOLE]]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelNotLoaded(f"'{folder}' has no {', '.join(missing)}; is the download complete?")
    return files


def write_folder(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write what read_folder reads, tensors as dtype, in shards."""
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=2))
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps(checkpoint.tokenizer_config, indent=2))
    places: dict[str, str] = {}
    file = _WHOLE
    for number, shard in enumerate(_shards(checkpoint.tensors, dtype)):
        file = f"model-{number:05}.safetensors" if number else _WHOLE
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    if file != _WHOLE:
        index = {"metadata": {}, "weight_map": places}
        (folder / _INDEX).write_text(json.dumps(index))


def _shards(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held_bytes = 0
    for name in tensors:
        shard[name] = tensors[name].to(dtype).contiguous()
        held_bytes += shard[name].nbytes
        if held_bytes >= _SHARD_BYTES:
            yield shard
            shard, held_bytes = {}, 0
    if shard:
        yield shard


def _text(file: Path) -> str:
    if not file.is_file():
        raise ModelNotLoaded(
            f"'{file.parent}' has no {file.name}; a Hugging Face folder has config.json, tokenizer.json "
            "and *.safetensors"
        )
    return file.read_text()


def _json(file: Path) -> dict[str, Any]:
    found = _parsed(file)
    if not isinstance(found, dict):
        raise ModelNotLoaded(f"'{file}' holds a {type(found).__name__}; expected an object")
    return found


def read_json_list(file: Path) -> list[dict[str, Any]]:
    """A file's list of objects. Raises ModelNotLoaded where it holds something else."""
    found = _parsed(file)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ModelNotLoaded(f"'{file}' holds no list of objects; download it again")
    return found


def _parsed(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ModelNotLoaded(f"'{file}' is not JSON: {error}") from error


def json_if_there(file: Path) -> dict[str, Any]:
    """A file's object; an empty one where there is no file. Raises ModelNotLoaded where it holds something else."""
    return _json(file) if file.is_file() else {}


def _config(folder: Path) -> dict[str, Any]:
    """config.json; what generation_config.json says of the end of an answer goes before it."""
    generation = json_if_there(folder / "generation_config.json")
    ends = {"eos_token_id": generation["eos_token_id"]} if generation.get("eos_token_id") else {}
    return _json(folder / "config.json") | ends


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; newer folders keep the chat template in a file beside it."""
    template = folder / "chat_template.jinja"
    beside = {"chat_template": template.read_text()} if template.is_file() else {}
    return json_if_there(folder / "tokenizer_config.json") | beside
