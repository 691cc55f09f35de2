"""The cores that an engine is given, as they are written."""

import os

import pytest

from serving.engine.config import EngineConfig
from serving.engine.cores import read_cores


def test_cores_are_written_as_single_ones_and_ranges() -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    assert read_cores("") == ()
    assert read_cores(str(first)) == (first,)
    if others and others[0] == first + 1:
        assert read_cores(f"{first}-{others[0]}") == (first, others[0])


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("both", "expected numbers of cores, such as 0-3,6"),
        ("0,0", "expected each core once"),
        ("0-4095", "expected some of those that are free to us: "),
    ],
)
def test_an_engine_says_what_is_wrong_with_its_cores(said: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        EngineConfig(cores=said)
