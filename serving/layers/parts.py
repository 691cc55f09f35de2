"""A model's modules by name, to be replaced one after the other."""

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

Part = TypeVar("Part", bound=nn.Module)


def named_parts(model: nn.Module, kind: type[Part]) -> Iterator[tuple[str, Part]]:
    """The model's parts of a kind. Only names are kept meanwhile: what is replaced is to be freed at once."""
    for name in [name for name, part in model.named_modules() if isinstance(part, kind)]:
        part = model.get_submodule(name)
        assert isinstance(part, kind)
        yield name, part


def replace_part(model: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, part)
