"""A checksum of source files, by which compiled code is found again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def text_of(folder: Path) -> str:
    """A checksum of the sources in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
