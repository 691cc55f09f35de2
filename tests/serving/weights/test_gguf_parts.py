"""GGUF models in several files, split as llama.cpp splits them."""

from pathlib import Path

import pytest
import torch

from serving.weights import LoadedModel, ModelNotLoaded, load
from tests.serving.models.tiny import save_tiny_llama
from tests.serving.weights.gguf_files import write_gguf


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Those of a tiny model, and beside them the model as one file: whole.gguf."""
    model = save_tiny_llama(tmp_path / "folder")
    write_gguf(tmp_path / "whole.gguf", model)
    write_gguf(tmp_path / "tiny.gguf", model, most_tensors=12)
    found = sorted(tmp_path.glob("tiny-*.gguf"))
    assert [part.name for part in found] == [f"tiny-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    return found


def loaded(file: Path, cache_dir: Path | None = None) -> LoadedModel:
    return load(str(file), dtype=torch.float32, cache_dir=cache_dir)


def test_a_split_model_is_the_whole_one_whichever_of_its_files_is_named(parts: list[Path]) -> None:
    whole = loaded(parts[0].with_name("whole.gguf"))
    for part in parts:
        joined = loaded(part)
        assert joined.name == "tiny"
        assert joined.config == whole.config
        for one, other in zip(joined.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(one, other)
        codes, wanted = (each.grouped("layers.2.self_attn.qkv_proj") for each in (joined, whole))
        assert codes is not None
        assert wanted is not None
        assert torch.equal(codes.codes, wanted.codes)


def test_a_split_model_is_kept_once_until_one_of_its_files_changes(
    parts: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for part in parts:
        loaded(part, cache)
    assert len(list(cache.iterdir())) == 1
    parts[2].touch()
    loaded(parts[0], cache)
    assert len(list(cache.iterdir())) == 2


def test_a_file_that_is_missing_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelNotLoaded, match=r"one of 3 files .*'tiny-00002-of-00003.gguf' is not"):
        loaded(parts[0])


def test_a_file_under_another_ones_name_is_refused(parts: list[Path]) -> None:
    first, second, _ = parts
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ModelNotLoaded, match=r"it is file 2 of 3 of its model; expected 1 of 3"):
        loaded(first)
    alone = first.rename(first.with_name("alone.gguf"))
    alone.write_bytes(content)
    with pytest.raises(
        ModelNotLoaded, match=r"file 1 of 3 of its model; expected 1 of 1: name the"
    ):
        loaded(alone)


def test_a_file_of_another_split_is_noticed_by_the_number_of_tensors(
    parts: list[Path], tmp_path: Path
) -> None:
    smaller = save_tiny_llama(tmp_path / "smaller", num_hidden_layers=2)
    write_gguf(tmp_path / "other.gguf", smaller, most_tensors=8)
    parts[2].write_bytes((tmp_path / "other-00003-of-00003.gguf").read_bytes())
    with pytest.raises(ModelNotLoaded, match=r"hold \d+ tensors, and the first says \d+"):
        loaded(parts[0])
