"""Which back end there is, found out without importing samna: its package on the registry is a stub that starts pip."""

from __future__ import annotations

import contextlib
import importlib.metadata
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Literal

from cil_spl.base.errors import RequestError

BACKENDS = ("auto", "simulator", "device")
COMPILED = (".so", ".pyd", ".dylib")
NOT_REAL = (
    "target.backend=device: the real samna is not installed for this Python; the package on the public registry is a "
    "stub that fetches it from the vendor. Install it as the vendor describes, connect a board and try again, or use "
    "target.backend=simulator"
)


def samna_kind() -> Literal["absent", "stub", "foreign", "real"]:
    """Which samna is installed; a look at its files, never an import.

    Returns:
        ``stub`` is the registry's package, ``foreign`` one compiled for another Python or system, ``real`` one that
        can be imported.
    """
    try:
        files = [file.name for file in importlib.metadata.distribution("samna").files or []]
    except importlib.metadata.PackageNotFoundError:
        return "absent"
    if any(_suffix(name) in EXTENSION_SUFFIXES and not name.startswith("lib") for name in files):
        return "real"
    if any(name.endswith(COMPILED) or ".so." in name for name in files):
        return "foreign"
    return "stub"


def _suffix(name: str) -> str:
    """All of it: ``.cpython-39-x86_64-linux-gnu.so`` ends in ``.so`` too, and is of Python 3.9."""
    return name[name.find(".") :]


def samna_is_real() -> bool:
    return samna_kind() == "real"


def choose(backend: str, *, simulated: bool = False) -> str:
    """The back end to run on, ``simulator`` or ``device``: ``auto`` takes a connected board, otherwise the simulator.

    Args:
        simulated: something was asked for that the simulator alone has, so ``auto`` takes it.

    Raises:
        RequestError: ``device`` without what it needs.
    """
    if backend not in BACKENDS:
        raise RequestError(f"target.backend={backend}: allowed are {', '.join(BACKENDS)}")
    if backend == "device":
        if not samna_is_real():
            raise RequestError(NOT_REAL)
        return "device"
    if backend == "auto" and not simulated and samna_is_real():
        from cil_spl.targets import devkit

        with contextlib.suppress(Exception):  # nobody asked for a board: one that cannot even be listed is none
            return "device" if devkit.connected() else "simulator"
    return "simulator"
