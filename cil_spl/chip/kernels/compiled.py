"""The two functions that Python calls; they alone are kept on disk.

numba compiles a kept function again when its own file has changed, and knows nothing of the files of the functions that
it calls. So those are compiled with it, never kept by themselves, and the text of all files here belongs to what it is
found by: numba reads that off the variables of the function around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numba import njit

from cil_spl.base.sources import text_of
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


chain, depth_first = _kept(text_of(Path(__file__).parent))
