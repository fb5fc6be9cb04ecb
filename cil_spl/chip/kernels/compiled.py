"""The two functions that Python calls; they alone are kept on disk.

What they call is compiled with them, never kept by itself. How they are found again: :mod:`cil_spl.base.sources`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numba import njit

from cil_spl.base.sources import BASE, text_of
from cil_spl.chip.kernels.chain import run_chain
from cil_spl.chip.kernels.depth_first import run_depth_first


def _kept(sources: str) -> tuple[Any, Any]:
    @njit(nogil=True, cache=True)
    def chain(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
        _ = sources
        run_chain(counter, recordings, tables, order, answer, die)

    @njit(nogil=True, cache=True)
    def depth_first(counter, recordings, tables, order, answer, die):  # type: ignore[no-untyped-def]
        _ = sources
        run_depth_first(counter, recordings, tables, order, answer, die)

    return chain, depth_first


chain, depth_first = _kept(text_of(Path(__file__).parent, BASE / "threads.py", BASE / "bits.py"))
