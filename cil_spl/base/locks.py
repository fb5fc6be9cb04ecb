"""Whether the process that works in a folder is still there: it holds a lock, which ends with it, however it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LOCK_FILE = ".lock"
WAIT_S = 5.0  # somebody who looks whether the lock is held holds it for an instant


def hold(folder: Path) -> Any:
    """Hold the folder's lock until ``release()`` of what is returned, or the end of the process; None if it is taken.

    Raises:
        OSError: the folder cannot be written to.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=WAIT_S)
    except filelock.Timeout:
        return None
    return lock


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder's lock; also true where that cannot be found out."""
    import filelock

    if not (folder / LOCK_FILE).exists():
        return False
    try:
        filelock.FileLock(folder / LOCK_FILE).acquire(timeout=0).lock.release()
    except (filelock.Timeout, OSError, NotImplementedError):
        return True
    return False
