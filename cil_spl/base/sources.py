"""A checksum of source files, by which compiled code is found again.

numba compiles a kept function again when its own file has changed, and knows nothing of the files of the functions that
it calls. It tells functions of one file apart by the variables around them; so a function that is kept names there the
checksum of all that is compiled with it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

BASE = Path(__file__).parent


def text_of(*paths: Path) -> str:
    """A checksum of source files, and of those in folders."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()
