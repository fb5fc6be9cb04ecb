"""How messages are worded: what was meant, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(word: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed are {', '.join(allowed)}"
