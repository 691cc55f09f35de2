"""Several programs on one GPU: a request pays for our turns, as far as the driver counts them, and not for others'."""

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.accounting.gpus import name_of
from serving.accounting.neighbours import PARTS, Neighbours, Use, questions
from tests.collectors.devices.library import GIB, Gpu, Library, full, process, share

SECOND = 1_000_000_000
OURS, THEIRS = 100, 200


def driver(*percents: tuple[int, int], running: tuple[int, ...] = (OURS, THEIRS)) -> Gpu:
    gpu = full()
    gpu.answers |= {
        "nvmlDeviceGetComputeRunningProcesses": [process(pid, GIB) for pid in running],
        "nvmlDeviceGetProcessUtilization": [share(pid, 5, percent) for pid, percent in percents],
    }
    return gpu


def seen(gpu: Gpu, *, busy_ns: int = SECOND) -> Neighbours:
    """What is known after a second, in which steps took busy_ns."""
    library = Library(gpu)
    library.nvmlInit()
    neighbours = Neighbours(questions(library, ["GPU-1"], {OURS}), 0)
    neighbours.ours(busy_ns)
    neighbours.look(SECOND)
    return neighbours


def test_a_program_with_a_gpu_of_its_own_has_all_of_its_time() -> None:
    alone = seen(driver((OURS, 40), running=(OURS,)))
    assert (alone.ours(1_234), alone.is_shared) == (1_234, False)


def test_two_programs_that_never_rest_have_half_of_what_their_steps_took() -> None:
    shared = seen(driver((OURS, 50), (THEIRS, 50)))
    assert (shared.ours(1_000), shared.is_shared) == (500, True)


def test_a_neighbour_that_rests_takes_no_turn() -> None:
    shared = seen(driver((OURS, 40)), busy_ns=SECOND * 4 // 10)
    assert (shared.ours(1_000), shared.is_shared) == (1_000, True)


def test_turns_are_taken_to_be_equal_where_nothing_of_ours_was_counted_yet() -> None:
    assert (
        seen(driver((THEIRS, 90), (300, 5), running=(OURS, THEIRS, 300))).ours(1_000_000) == 333_333
    )


@pytest.mark.parametrize("error", [pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission])
def test_where_use_is_not_counted_all_is_ours_and_marked(error: type[pynvml.NVMLError]) -> None:
    gpu = driver()
    gpu.deny(error, "nvmlDeviceGetProcessUtilization")  # as of a MIG instance
    assert (seen(gpu).ours(1_000), seen(gpu).is_shared) == (1_000, True)


def test_in_a_container_that_numbers_processes_itself_others_are_seen_and_not_counted() -> None:
    shared = seen(driver((7, 50), (8, 50), running=(7, 8)))
    assert (shared.ours(1_000), shared.is_shared) == (1_000, True)


def test_rubbish_in_the_drivers_buffer_is_nobodys_use() -> None:
    shared = seen(driver((OURS, 25), (THEIRS, 75), (THEIRS, 4_000_000), (999, 80)))
    assert shared.ours(1_000) == 250


def test_a_driver_that_stops_answering_changes_nothing() -> None:
    library = Library(gpu := driver((OURS, 50), (THEIRS, 50)))
    library.nvmlInit()
    neighbours = Neighbours(questions(library, ["GPU-1"], {OURS}), 0)
    neighbours.ours(SECOND)
    neighbours.look(SECOND)
    gpu.failure = pynvml.NVMLError_Unknown
    neighbours.ours(SECOND)
    neighbours.look(2 * SECOND)
    assert (neighbours.ours(1_000), neighbours.is_shared) == (500, True)


uses = st.builds(Use, st.none() | st.integers(0, 100).map(lambda n: n / 100), st.integers(0, 3))


@given(st.lists(st.tuples(uses, st.lists(st.integers(0, SECOND), max_size=3)), max_size=10))
def test_no_step_is_charged_more_than_it_took_or_less_than_nothing(
    windows: list[tuple[Use, list[int]]],
) -> None:
    said: list[Use] = []
    neighbours = Neighbours(lambda: said[-1:], 0)
    for place, (use, steps) in enumerate(windows, start=1):
        said.append(use)
        for took_ns in steps:
            assert 0 <= neighbours.ours(took_ns) <= took_ns
        neighbours.look(place * SECOND)
        assert neighbours.is_shared == (use.others > 0)
        assert neighbours.is_shared or neighbours.parts == PARTS


H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("product", "environment", "name"),
    [
        (H100, {"CUDA_VISIBLE_DEVICES": "3"}, "GPU-u"),
        (f"{H100} MIG 1g.10gb", {"CUDA_VISIBLE_DEVICES": "MIG-a"}, "MIG-a"),
        (f"{H100} MIG 1g.10gb", {"NVIDIA_VISIBLE_DEVICES": "MIG-b,MIG-c"}, "MIG-b"),
        (f"{H100} MIG 1g.10gb", {}, "MIG-u"),
    ],
)
def test_a_device_is_named_as_the_driver_names_it(
    product: str, environment: dict[str, str], name: str
) -> None:
    assert name_of(product, "u", environment) == name
