"""The `costwatch` command: Django's commands with our settings, and `up`, which makes those settings first."""

import os
import sys
from pathlib import Path


def main() -> None:
    if sys.argv[1:2] == ["up"]:
        from costwatch.embedded.up import main as up

        sys.exit(up(sys.argv[2:]))
    from costwatch import env
    from costwatch.embedded.here import use_stack_of

    use_stack_of(Path(env.text("COSTWATCH_DATA", ".data")))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(["costwatch", *sys.argv[1:]])
    except OperationalError as error:
        sys.exit(
            f"costwatch: the database cannot be used; start it with `costwatch up`, or name it: {error}"
        )


if __name__ == "__main__":
    main()
