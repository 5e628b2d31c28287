"""`python -m unblot`: the command line."""

import sys

from unblot.cli.parser import main

sys.exit(main())
