"""Python runs this at its start where this folder is on PYTHONPATH: collectors.start, then whose place it took.

It must work in any Python, also one that knows nothing of costwatch, and must never keep a program from starting.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib would cost every start 10 ms


def _load_the_next() -> None:
    """The distribution's or the user's own sitecustomize, which ours stands before."""
    import importlib.machinery
    import importlib.util

    elsewhere = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _start() -> None:
    try:
        from collectors.start import start
    except Exception as error:
        if not os.environ.get("COSTWATCH_COLLECT_STARTED"):
            why = f"{type(error).__name__}: {error}"
            print(f"costwatch: nothing of {sys.executable} is collected; {why}", file=sys.stderr)  # noqa: T201
        return
    start()


_load_the_next()
_start()
