"""The `costwatch-collect` command.

costwatch-collect run --team search python app.py     collect what a program uses, without changing it
costwatch-collect path                                the folder that does it, for PYTHONPATH in a container
costwatch-collect devices                             report this machine's GPUs, their processes and its CPU
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from collectors.start import STARTED

AUTOLOAD = Path(__file__).parent / "autoload"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as shells say it
_VARIABLES = {
    "team": "COSTWATCH_TEAM",
    "feature": "COSTWATCH_FEATURE",
    "customer": "COSTWATCH_CUSTOMER",
    "endpoint": "COSTWATCH_ENDPOINT",
    "key": "COSTWATCH_KEY",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the program, print the folder, or report devices."""
    said = list(sys.argv[1:] if arguments is None else arguments)
    if said[:1] == ["devices"]:
        from collectors.devices import main as devices

        devices(said[1:])
        return
    options = _parse(said)
    if options.command == "path":
        print(AUTOLOAD)  # noqa: T201
        return
    program: list[str] = options.program[1:] if options.program[0] == "--" else options.program
    _become(program, environment(os.environ, vars(options)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="costwatch-collect",
        description="Send what a program, or a machine, uses to costwatch.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="run a program and collect its inference calls", usage=_RUN_USAGE
    )
    run.add_argument("--team", help="who pays, unless the program says so; COSTWATCH_TEAM")
    run.add_argument("--feature", help="for what; COSTWATCH_FEATURE")
    run.add_argument("--customer", help="for whom; COSTWATCH_CUSTOMER")
    run.add_argument("--endpoint", help="where to send; COSTWATCH_ENDPOINT")
    run.add_argument("--key", help="ingest key; COSTWATCH_KEY, which `ps` does not show")
    run.add_argument("program", nargs=argparse.REMAINDER, help="the program and its arguments")
    commands.add_parser("path", help="print the folder to put on PYTHONPATH")
    commands.add_parser(
        "devices", help="report this machine's GPUs, the processes on them, and its CPU"
    )
    options = parser.parse_args(arguments)
    if options.command == "run" and not [each for each in options.program if each != "--"]:
        run.error("no program; say what to run, such as: costwatch-collect run python app.py")
    return options


_RUN_USAGE = (
    "costwatch-collect run [--team TEAM] [--feature FEATURE] [--customer CUSTOMER]"
    " [--endpoint URL] [--key KEY] [--] PROGRAM [ARGUMENT ...]"
)


def environment(environ: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """The program's environment: what was said on the command line, and our folder first on PYTHONPATH."""
    said = {name: options.get(option) for option, name in _VARIABLES.items()}
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    ours = str(AUTOLOAD)
    found = {
        **environ,
        **{name: value for name, value in said.items() if value},
        "PYTHONPATH": os.pathsep.join([ours, *(path for path in paths if path != ours)]),
    }
    found.pop(STARTED, None)
    return found


def _become(program: Sequence[str], environ: Mapping[str, str]) -> None:
    """Replace this process, so that signals and the exit code are the program's. Exits where it cannot."""
    path = shutil.which(program[0], path=environ.get("PATH"))
    if path is None:
        _give_up(_NOT_FOUND, f"{program[0]!r}: no such program on PATH")
    try:
        os.execve(path, [*program], environ)  # noqa: S606  the user's own program, without a shell
    except OSError as error:
        _give_up(_NOT_EXECUTABLE, f"{program[0]!r} cannot be run: {error.strerror}")


def _give_up(code: int, why: str) -> NoReturn:
    print(f"costwatch-collect: {why}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


if __name__ == "__main__":
    main()
