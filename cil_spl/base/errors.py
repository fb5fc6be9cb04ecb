"""The one error that a user can cause."""

import re


class RequestError(ValueError):
    """What was asked for cannot be done as asked.

    The message names the key or file, its value, what is allowed and what to do. The command line
    prints it without a traceback and exits with 2. What a terminal would obey and not show, out of a file or a value
    that it cites, is written out: ``\\x1b`` and its like.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(on_one_line(str(message)))


def on_one_line(text: str) -> str:
    """Text with all written out that is not shown; line breaks too, but those of a list of ours, which is indented."""
    text = re.sub(r"\n(?!  )", r"\\n", text)
    return "".join(one if one.isprintable() or one == "\n" else _written(one) for one in text)


def _written(one: str) -> str:
    return " " if one in "\t\u00a0" else one.encode("unicode_escape").decode()
