"""Energy is charged to the last microjoule that was read, and none to who only waited."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.accounting.energy import EnergyBooks, _powercap_counter, find_counter
from serving.accounting.neighbours import PARTS

SECOND = 1_000_000_000
windows = st.lists(
    st.tuples(
        st.integers(0, 10**9),  # µJ of the window
        st.lists(st.integers(0, SECOND), max_size=4),  # device time of its requests
        st.integers(1, 3 * SECOND),  # how long it is
        st.sampled_from([(PARTS, False), (PARTS // 3, True), (0, True)]),  # whose the device is
    ),
    max_size=30,
)


class FakeCounter:
    def __init__(self) -> None:
        self.uj = 12_345
        self.fails = False

    def __call__(self) -> int:
        if self.fails:
            raise OSError("the counter is out of reach")
        return self.uj


@given(windows)
def test_no_microjoule_is_lost_or_charged_twice(
    windows: list[tuple[int, list[int], int, tuple[int, bool]]],
) -> None:
    counter = FakeCounter()
    books, now_ns, busy_ns, charged = EnergyBooks(counter, 0), 0, 0, 0
    for energy_uj, works, length_ns, (parts, is_shared) in windows:
        now_ns += length_ns
        for device_ns in works:
            charged += books.charge(device_ns)
            busy_ns += device_ns
        counter.uj += energy_uj
        books.look(now_ns, busy_ns, parts, is_shared=is_shared)
        assert books.charged_uj == charged
        assert min(books.idle_uj, books.others_uj) >= 0
    now_ns += SECOND
    books.look(now_ns, busy_ns)
    read_uj = books.charged_uj + books.idle_uj + books.others_uj + books.left_uj
    assert read_uj == counter.uj - 12_345


def test_a_counter_that_fails_for_a_while_loses_nothing_and_stops_nobody() -> None:
    counter = FakeCounter()
    books = EnergyBooks(counter, 0)
    counter.fails = True
    for second in (1, 2):
        counter.uj += 7_000
        books.charge(SECOND // 2)
        books.look(second * SECOND, second * SECOND // 2)
    counter.fails = False
    books.look(3 * SECOND, SECOND)
    assert books.charged_uj + books.idle_uj + books.left_uj == 14_000


def test_what_the_device_takes_idle_is_nobodys() -> None:
    counter = FakeCounter()
    books = EnergyBooks(counter, 0)
    counter.uj += 50_000_000  # 50 W, doing nothing
    books.look(SECOND, 0)
    for second in range(2, 12):
        books.charge(SECOND // 2)
        counter.uj += 50_000_000 + 100_000_000  # and 100 J for half a second's work
        books.look(second * SECOND, (second - 1) * SECOND // 2)
    assert books.idle_uj == 11 * 50_000_000
    # the first window's work had no price yet; the next ones made up for it
    assert books.charged_uj + books.left_uj == 10 * 100_000_000
    assert books.charge(SECOND // 2) == pytest.approx(100_000_000, rel=0.01)


def test_what_others_make_the_device_take_is_theirs() -> None:
    counter = FakeCounter()
    books = EnergyBooks(counter, 0)
    counter.uj += 50_000_000  # 50 W, nobody doing anything
    books.look(SECOND, 0)
    counter.uj += 350_000_000  # they compute, and we don't
    books.look(2 * SECOND, 0, is_shared=True)
    assert (books.idle_uj, books.others_uj, books.left_uj) == (100_000_000, 300_000_000, 0)
    counter.uj += 350_000_000  # both do, each half of the time
    books.look(3 * SECOND, SECOND // 2, PARTS // 2, is_shared=True)
    assert (books.others_uj, books.left_uj) == (450_000_000, 150_000_000)
    assert books.charge(SECOND // 2) == 150_000_000


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, counted with it
    (zone / "max_energy_range_uj").write_text("1000")
    (zone / "energy_uj").write_text("900")
    read_uj = _powercap_counter(tmp_path)
    assert read_uj is not None
    before = read_uj()
    (zone / "energy_uj").write_text("100")
    assert read_uj() - before == 200


def test_a_machine_without_a_counter_tells_no_energy(tmp_path: Path) -> None:
    assert _powercap_counter(tmp_path) is None
    assert find_counter("cuda", ["GPU-1"]) is None
