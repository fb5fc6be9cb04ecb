"""Where things are kept that can be made again: cached data sets, and the kernels that numba compiles."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

CACHE_VARIABLE = "CILSPL_CACHE"
KERNEL_VARIABLE = "NUMBA_CACHE_DIR"  # numba's own
_PACKAGE = Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """``$CILSPL_CACHE``, or the user's cache folder; it need not exist yet."""
    import platformdirs

    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("cilspl")).expanduser().absolute()


def choose_kernel_folder() -> None:
    """Tell numba, before it is imported, where to keep compiled kernels, unless the user has.

    Beside the source where that can be written to; else in the cache folder, and where not even that can be, in the
    folder for temporary files: numba refuses to import a kernel that it can keep nowhere.
    """
    if os.environ.get(KERNEL_VARIABLE) or _beside_the_source():
        return
    temporary = Path(tempfile.gettempdir()) / f"cilspl-kernels-{os.getuid() if hasattr(os, 'getuid') else 0}"
    for folder in (cache_folder() / "kernels", temporary):
        if can_be_written(folder, make=True):
            os.environ[KERNEL_VARIABLE] = str(folder)
            return


def kernel_folder() -> Path:
    """Where compiled kernels are kept."""
    return Path(os.environ.get(KERNEL_VARIABLE) or _PACKAGE)


def _beside_the_source() -> bool:
    return all(can_be_written(_PACKAGE / room / "__pycache__") for room in ("chip", "data", "models"))


def can_be_written(folder: Path, *, make: bool = False) -> bool:
    """Whether a file can be made in a folder, or in the nearest one above that exists; the folder is made if asked."""
    with contextlib.suppress(OSError):
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return False
