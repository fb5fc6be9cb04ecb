"""The words of a command line, put so that argparse and Hydra understand them wherever they were typed."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import close, nearest

OURS = ("--dry-run", "--again", "--skip-refused", "--rows")  # of `cilspl run` itself, taken out before
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# What a value is made of, between the signs that Hydra reads: commas alone, or in a list or mapping more of them.
_PLAIN, _NESTED = re.compile(r"[^,]+"), re.compile(r"[^,\[\]{}():]+")


def for_hydra(argv: Sequence[str]) -> list[str]:
    """The words of ``cilspl run`` as Hydra takes them: options first, values that it cannot read in quotes.

    Raises:
        RequestError: an option that there is not, or that lacks its value.
    """
    from hydra._internal.utils import get_args_parser

    options, words = _sorted(get_args_parser(), argv)
    return [*options, *map(quoted, words)]


def overrides_of(argv: Sequence[str]) -> list[str]:
    """The overrides among the words of :func:`for_hydra`: no options, and no values of options."""
    from hydra._internal.utils import get_args_parser

    return _sorted(get_args_parser(), argv)[1]


def _sorted(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and the other words."""
    known = parser._option_string_actions
    options: list[str] = []
    words: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        if word == "--":
            words += left
            break
        name = word.partition("=")[0]
        fitting = [name] if name in known else [long for long in known if name[:2] == "--" and long.startswith(name)]
        if len({known[long].dest for long in fitting}) != 1:
            meant = close(name, (*known, *OURS))
            hint = f"did you mean {meant}?" if meant else "`cilspl run --help` lists them"
            raise RequestError(f"{word}: no such option; {hint}")
        options += _with_value(fitting[0] + word[len(name) :], known[fitting[0]], left)
    return options, words


def _with_value(word: str, action: argparse.Action, left: list[str]) -> list[str]:
    """An option and its value, which is taken from the words that are left where it is not in the word itself."""
    name, equals, value = word.partition("=")
    allowed = list(map(str, action.choices or ()))
    if action.nargs == 0:
        return [word]
    if not equals and action.nargs == "?":
        return [f"{name}={left.pop(0) if left and left[0] in allowed else action.const}"]
    if not equals and not left:
        raise RequestError(f"{word}: it needs a value after it; `cilspl run --help` says which")
    value = value if equals else left.pop(0)
    if allowed and value not in allowed:
        raise RequestError(f"{name} {value}: {nearest(value, allowed)}")
    return [name, value]


def quoted(word: str) -> str:
    """``name=min_körning`` as ``name='min_körning'``: Hydra reads other letters than those of ASCII in quotes only."""
    key, equals, value = word.partition("=")
    if not equals or not _NOT_ASCII.search(value) or re.search("[\"']", value):
        return word
    parts = _NESTED if re.search(r"[\[{(]", value) else _PLAIN
    return key + equals + parts.sub(lambda part: _in_quotes(part[0]), value)


def _in_quotes(text: str) -> str:
    return "'" + text.strip().replace("\\", "\\\\") + "'" if _NOT_ASCII.search(text) else text


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """What argparse makes of the words, with options before, between and after the others."""
    return parser.parse_intermixed_args(list(argv))


def check_folder() -> None:
    """Refuse to work in a folder by whose name a config would mean something else.

    Raises:
        RequestError: the path holds ``${``, or letters that are no text.
    """
    here = os.getcwd()
    try:
        here.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{here!r}: the name of this folder is no UTF-8; rename it, or work in another") from None
    if "${" in here:
        raise RequestError(
            f"{here}: the name of this folder holds ${{, which a config reads as the beginning of a key "
            "to put in; rename it, or work in another"
        )
