"""The model as Hugging Face has one, for those that read nothing else."""

from pathlib import Path


def folder_of(model: str, cache_dir: Path) -> Path:
    """The model itself, or the one folder that our loader made of its GGUF file."""
    return Path(model) if Path(model).is_dir() else next(cache_dir.glob("*/config.json")).parent
