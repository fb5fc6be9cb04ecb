"""Which back end there is, found out without importing samna: its package on the registry is a stub that starts pip."""

from __future__ import annotations

import contextlib
import importlib.metadata

from cil_spl.base.errors import RequestError

BACKENDS = ("auto", "simulator", "device")
COMPILED = (".so", ".pyd", ".dylib")


def samna_is_real() -> bool:
    """Whether the installed samna holds its compiled library; a look at its files, never an import."""
    try:
        files = importlib.metadata.files("samna") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(str(file).endswith(COMPILED) for file in files)


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
            raise RequestError(
                "target.backend=device: the real samna is not installed; the package on the public registry is a stub "
                "that fetches it from the vendor. Install it as the vendor describes, connect a board and try again, "
                "or use target.backend=simulator"
            )
        return "device"
    if backend == "auto" and not simulated and samna_is_real():
        from cil_spl.targets import devkit

        with contextlib.suppress(Exception):  # nobody asked for a board: one that cannot even be listed is none
            return "device" if devkit.connected() else "simulator"
    return "simulator"
