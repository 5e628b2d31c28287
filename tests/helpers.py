"""What several tests of the command line use."""

import re

from unblot.cli.parser import main

TINY = ["--network", "unet:width=16,multipliers=1,blocks=1,attention=", "--steps", "4", "--batch-size", "8"]

TINY_RUN = {"network": "unet:width=16,multipliers=1,blocks=1,attention=", "steps": 4, "batch_size": 8}


def refused(capsys, *argv) -> str:
    """The one line of complaint about these arguments."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as e:
        code = e.code
    told = capsys.readouterr().err
    assert code == 2
    assert told.count("\n") == 1, told
    assert "Traceback" not in told
    assert re.match(r"unblot( \w+)*: error: ", told)
    return told
