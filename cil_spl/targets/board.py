"""Which back end there is, found out without importing samna: its package on the registry is a stub that starts pip."""

from __future__ import annotations

import importlib.metadata

from cil_spl.errors import RequestError

BACKENDS = ("auto", "simulator", "device")
COMPILED = (".so", ".pyd", ".dylib")


def samna_is_real() -> bool:
    """Whether the installed samna holds its compiled library; a look at its files, never an import."""
    try:
        files = importlib.metadata.files("samna") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(str(file).endswith(COMPILED) for file in files)


def choose(backend: str) -> str:
    """The back end to run on: ``simulator`` or ``device``.

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
        raise RequestError(
            "target.backend=device: driving a board is not part of this version; use target.backend=simulator"
        )
    return "simulator"
