"""Runs commands of unblot one after the other: `commands_driver.py JSON`, a list of lists of arguments."""

import json
import sys

from unblot.cli.parser import main

if __name__ == "__main__":
    sys.exit(max(main(command) for command in json.loads(sys.argv[1])))
