"""The one error that a user is meant to read."""


class UnblotError(Exception):
    """Bad input or a bad state of the world, told in one line: the value at fault and the way out.

    The command line prints it without a traceback and exits with code 2; from Python it is raised as it is.
    """
