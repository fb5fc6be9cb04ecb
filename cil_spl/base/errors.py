"""The one error that a user can cause."""


class RequestError(ValueError):
    """What was asked for cannot be done as asked.

    The message names the key or file, its value, what is allowed and what to do. The command line
    prints it without a traceback and exits with 2.
    """
