"""The command `unblot`, also as `python -m unblot`."""

import sys

from unblot.system.huge_pages import start_again_asking


def run() -> int:
    """The command line; its exit code."""
    if sys.argv[1:2] == ["train"]:
        start_again_asking()  # before anything large is imported
    from unblot.cli.parser import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
