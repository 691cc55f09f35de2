"""A model as Hugging Face lays it out, read from a folder or written to one.

Every format becomes a Checkpoint first, so that there is one way from tensors to a model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class ModelNotLoaded(ValueError):
    """There is no model there, or none that this runtime can serve; the message says what would do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """config and tokenizer_config are the JSON files of those names; tensors have Hugging Face's names."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    tokenizer_config: Mapping[str, Any]


def read_folder(folder: Path, dtype: torch.dtype) -> Checkpoint:
    """Read a Hugging Face folder, tensors as dtype. Raises ModelNotLoaded, naming the file that is missing."""
    return Checkpoint(
        config=_config(folder),
        tensors={name: tensor.to(dtype) for name, tensor in _tensors(folder).items()},
        tokenizer_json=_text(folder / "tokenizer.json"),
        tokenizer_config=_tokenizer_config(folder),
    )


def write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what read_folder reads, with the tensors in one file."""
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=2))
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps(checkpoint.tokenizer_config, indent=2))
    save_file(dict(checkpoint.tensors), folder / "model.safetensors", metadata={"format": "pt"})


def _text(file: Path) -> str:
    if not file.is_file():
        raise ModelNotLoaded(
            f"'{file.parent}' has no {file.name}; a Hugging Face folder has config.json, tokenizer.json "
            "and *.safetensors"
        )
    return file.read_text()


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ModelNotLoaded(f"'{file}' is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelNotLoaded(f"'{file}' holds a {type(found).__name__}; expected an object")
    return found


def _json_if_there(file: Path) -> dict[str, Any]:
    return _json(file) if file.is_file() else {}


def _config(folder: Path) -> dict[str, Any]:
    """config.json; what generation_config.json says of the end of an answer goes before it."""
    generation = _json_if_there(folder / "generation_config.json")
    ends = {"eos_token_id": generation["eos_token_id"]} if generation.get("eos_token_id") else {}
    return _json(folder / "config.json") | ends


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; newer folders keep the chat template in a file beside it."""
    template = folder / "chat_template.jinja"
    beside = {"chat_template": template.read_text()} if template.is_file() else {}
    return _json_if_there(folder / "tokenizer_config.json") | beside


def _tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in _tensor_files(folder):
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ModelNotLoaded(f"'{file}' cannot be read: {error}; download it again") from error
    return tensors


def _tensor_files(folder: Path) -> list[Path]:
    """The shards that the index names, or the one file."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else []
    files = [folder / name for name in names or ["model.safetensors"]]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelNotLoaded(f"'{folder}' has no {', '.join(missing)}; is the download complete?")
    return files
