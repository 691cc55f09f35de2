"""The `costwatch` command: Django's commands with our settings."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(["costwatch", *sys.argv[1:]])


if __name__ == "__main__":
    main()
