"""Native code for CPUs: the C files in serving/kernels/native, compiled by the machine that runs them.

    library     the compiled code, or None where it can't be had: then plain torch computes the same, more slowly
    function    one function of it, with the types of its arguments
    usable_on   whether it computes with a tensor's numbers

The compiled file stays in the user's cache folder (XDG_CACHE_HOME, else ~/.cache) under a name made of the sources,
the compiler's options and the processor, so that a start after the first takes no time. COSTWATCH_NATIVE=no in the
environment turns native code off.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).with_name("native")
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 300
# Sums keep the order that the sources give them: no -ffast-math. Nobody reads errno or floating point traps.
_OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
# From the fastest to what every compiler knows.
_VARIANTS = (("-march=native", "-fopenmp"), ("-march=native",), ("-fopenmp",), ())

_ARGUMENTS = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int64,
    "f": ctypes.c_float,
}


# As numbers.h counts them.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.float8_e4m3fn: 3}


class NotCompiled(RuntimeError):
    """No compiler made a library of the sources; the message has what the last one said."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled code, which drops the GIL while it runs. None, with one line in the log, where there is none."""
    if os.environ.get("COSTWATCH_NATIVE", "").lower() == "no":
        logger.info(
            "COSTWATCH_NATIVE=no: this CPU computes with plain torch, at about half the speed"
        )
        return None
    try:
        return ctypes.CDLL(str(compiled(cache_folder())))
    except (NotCompiled, OSError) as reason:
        logger.warning(
            "no native code for this CPU, plain torch takes about twice as long: %s", reason
        )
        return None


@functools.cache
def function(name: str, arguments: str) -> Callable[..., None] | None:
    """A function that returns nothing; None where there is no native code.

    arguments   a letter each: p an address (Tensor.data_ptr() or None), i a whole number (int64_t), f a float.
    """
    code = library()
    if code is None:
        return None
    found = getattr(code, name)
    found.argtypes = [_ARGUMENTS[letter] for letter in arguments]
    found.restype = None
    call: Callable[..., None] = found
    return call


def usable_on(tensor: Tensor) -> bool:
    """Whether native code can compute with this tensor's numbers."""
    on_cpu = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and library() is not None


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "costwatch" / "native"


def compiled(folder: Path, compilers: Sequence[str] = _COMPILERS) -> Path:
    """The library in folder, compiled unless it lies there. Raises NotCompiled."""
    file = folder / f"{_fingerprint()}.so"
    if not file.exists():
        _compile_into(file, compilers)
    return file


def _sources() -> list[Path]:
    return sorted(_SOURCES.glob("*.c"))


def _fingerprint() -> str:
    """Another source, option, processor or OpenMP of torch asks for another library."""
    known = [*_OPTIONS, *(word for variant in _VARIANTS for word in variant), _processor()]
    known += [*_openmp_of_torch()]
    files = [*_sources(), *sorted(_SOURCES.glob("*.h"))]
    content = b"\0".join(file.read_bytes() for file in files)
    return hashlib.blake2b("\0".join(known).encode() + content, digest_size=12).hexdigest()


def _processor() -> str:
    """What -march=native goes by: the same home may be mounted on several kinds of machine."""
    named = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    wanted = [line for line in lines if line.split("\t", 1)[0].strip(" :") in named]
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *wanted])


def _openmp_of_torch() -> list[str]:
    """torch's own OpenMP, to link with: two libraries would keep two pools of spinning threads."""
    torch_folder = Path(torch.__file__).parent
    folders = (torch_folder / "lib", torch_folder.parent / "torch.libs")
    return [str(file) for folder in folders for file in sorted(folder.glob("libgomp*.so*"))][:1]


def _compile_into(file: Path, compilers: Sequence[str]) -> None:
    """Compile beside and rename: a file under the final name is always whole, whoever else is compiling."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as beside:
        made = Path(beside) / file.name
        _compile(made, compilers)
        made.rename(file)


def _compile(target: Path, compilers: Sequence[str]) -> None:
    said = f"there is no C compiler ({', '.join(compilers)}); install one, such as: apt-get install gcc"
    for command in _commands(target, compilers):
        done = subprocess.run(  # noqa: S603  a compiler of this machine, and sources of our own
            command, capture_output=True, text=True, check=False, timeout=_COMPILE_SECONDS
        )
        if done.returncode == 0:
            return
        said = f"'{' '.join(command)}' said: {done.stderr.strip()[:2000]}"
    raise NotCompiled(said)


def _commands(target: Path, compilers: Sequence[str]) -> Iterator[list[str]]:
    sources = [str(file) for file in _sources()]
    for compiler in filter(None, map(shutil.which, compilers)):
        for variant in _VARIANTS:
            openmp = _openmp_of_torch() if "-fopenmp" in variant else []
            first = ["-Wl,--as-needed", *openmp] if openmp else []
            yield [compiler, *_OPTIONS, *variant, "-o", str(target), *sources, *first, "-lm"]
