"""python -m serving: see `python -m serving --help`."""

import os
import sys

from serving.server.options import read_options


def main() -> int:
    options = read_options(sys.argv[1:], os.environ)
    # torch takes seconds to import; --help and a wrong option do not wait for it
    from serving.server.run import serve

    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
