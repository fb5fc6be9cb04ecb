"""The command line: the first word chooses a subcommand; nothing heavy is imported before that."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cil_spl import __version__
from cil_spl.base.errors import RequestError, on_one_line
from cil_spl.base.suggestions import close

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "run": "train, quantise, deploy, evaluate and track; -m sweeps",
    "table": "results table of the tracked runs, grouped over seeds",
    "runs": "the runs in a folder, and what they take of the disk",
    "evaluate": "a run's network on other data, targets, dies",
    "data": "describe, fetch or picture a data set; size of the cache",
    "predict": "what a tracked network answers to a recording or image of your own",
    "validate": "compose and cross-check a config without running it",
    "ls": "what there is: methods, models, datasets, targets, experiments",
    "chip": "agreement with a real chip and with time steps; what the cores hold",
    "restore": "make the tracking copy of a run again from its folder",
    "doctor": "versions, devices, tracking store, folders",
}

HELP = f"""\
cilspl {__version__}: train spiking networks with a neuromorphic chip in the loop

Usage: cilspl COMMAND [...]

{chr(10).join(f"  {name:<10}{text}" for name, text in COMMANDS.items())}

  cilspl COMMAND --help     what a command takes
  cilspl --version          this version
  eval "$(cilspl -sc install=bash)"   tab completion (zsh and fish alike)

Begin with:  cilspl run
A run is named by its id, the beginning of it, or its folder.
Exit codes: 0 done, 1 the run failed, 2 the request was wrong.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _answer(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:  # `cilspl table | head`; a full disk, a lost mount
        with contextlib.suppress(OSError, AttributeError):  # no file where a program has put another thing there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write has no reader
        if not isinstance(error, BrokenPipeError):
            complain(f"{words[0]}: {error}")
        return WRONG if error.errno == errno.ENAMETOOLONG else FAILED  # whoever typed such a name meant another


def _answer(words: list[str]) -> int:
    """Answer a command line."""
    if not words:
        sys.stderr.write(HELP)
        return WRONG
    odd = next((word for word in words if word.startswith("-") and on_one_line(word) != word), None)
    if odd is not None:  # argparse would print it as it is
        complain(f"{odd}: no option has such characters; leave them out")
        return WRONG
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    word, rest = words[0], words[1:]
    if word in ("-h", "--help"):
        print(HELP, end="")
        return DONE
    if word in ("-V", "--version"):
        print(f"cilspl {__version__}")
        return DONE
    if word in ("-sc", "--shell-completion", "--shell_completion"):
        return _guarded("complete", words)
    if word not in COMMANDS:
        return _unknown(word)
    return _guarded(word, rest)


def _guarded(word: str, rest: list[str]) -> int:
    """Run a subcommand; a user's mistake is one message, not a traceback."""
    try:
        return int(import_module(f"cil_spl.cli.{word}").main(rest))
    except RequestError as error:
        complain(str(error))
        return WRONG
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def complain(text: str) -> None:
    """A message to the user, on stderr, never with a password in it; of several ranks only from the first."""
    if (os.environ.get("RANK") or "0") != "0":
        return
    from cil_spl.results.store import redact

    print(f"cilspl: {redact(on_one_line(text))}", file=sys.stderr)


def extensions_option(parser: argparse.ArgumentParser) -> None:
    """``--extensions``, for commands that call what the config of a run or of a data set names."""
    parser.add_argument(
        "--extensions",
        metavar="MODULE",
        action="extend",
        default=[],
        type=lambda text: text.strip("[]").split(","),
        help="modules of your own whose functions the config may name; several with commas",
    )


def _unknown(word: str) -> int:
    meant = close(word, COMMANDS)
    if meant:
        hint = f"did you mean `cilspl {meant}`?"
    elif "=" in word or word in ("-m", "--multirun", "--cfg"):
        hint = f"did you mean `cilspl run {word}`?"
    else:
        hint = f"there are: {', '.join(COMMANDS)}"
    complain(f"{word}: no such command; {hint}")
    return WRONG
