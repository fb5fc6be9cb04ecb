"""How messages are worded: what was meant, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def close(word: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed word that was probably meant; None where none is near.

    Args:
        cutoff: from 0, anything goes, to 1, the very word.
    """
    import difflib

    return next(iter(difflib.get_close_matches(word, list(allowed), n=1, cutoff=cutoff)), None)


def nearest(word: str, allowed: Iterable[str], parent: str = "") -> str:
    """The end of a message about an unknown word: ``did you mean method.lr? allowed are lr, loss``.

    Args:
        parent: key, with dots, that the word stands below.
    """
    allowed = list(allowed)
    meant = close(word, allowed)
    hint = f"did you mean {parent}{'.' if parent else ''}{meant}? " if meant else ""
    return f"{hint}allowed are {', '.join(allowed)}"
