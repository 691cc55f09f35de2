"""The `costwatch` command: Django's commands with our settings, and `up`, which makes those settings first."""

import os
import sys


def main() -> None:
    if sys.argv[1:2] == ["up"]:
        from costwatch.embedded.up import main as up

        sys.exit(up(sys.argv[2:]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(["costwatch", *sys.argv[1:]])


if __name__ == "__main__":
    main()
