"""A checksum of source files, by which compiled code is found again.

numba compiles a kept function again when its own file has changed, and knows nothing of the files of the functions that
it calls. It tells functions of one file apart by the variables around them; so a function that is kept names there the
checksum of all that is compiled with it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

BASE = Path(__file__).parent


def text_of(*paths: Path) -> str:
    """A checksum of source files, and of those in folders."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()


_said: set[str] = set()


def say_if_it_compiles(kernel: Any, what: str) -> None:
    """Say once, where someone may be waiting, that functions are compiled which are not on disk yet.

    Args:
        kernel: one that numba keeps.
        what: its functions belong to.
    """
    name = kernel.py_func.__name__
    if what in _said or kernel.signatures:
        return
    if not any(Path(kernel.stats.cache_path).glob(f"{Path(kernel.py_func.__code__.co_filename).stem}.*.{name}-*.nbi")):
        _said.add(what)
        print(f"compiling {what} (once; some 20 seconds)", file=sys.stderr, flush=True)
