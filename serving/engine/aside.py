"""Work that leaves no threads behind."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> T:
    """What work() returns, or raises, from a thread that ends with it.

    GNU's OpenMP, which torch and our native code compute with, keeps a team of threads for each thread that ever
    computed, until that one ends. With more of them in the process than there are processors its threads go to sleep
    at once between two products instead of waiting a moment for the next one (gomp_throttled_spin_count_var in
    libgomp's env.c), and waking them takes longer than a small model's product. So what computes before the engine's
    thread does, such as loading, is done aside.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="aside") as thread:
        return thread.submit(work).result()
