"""Compiled functions in several threads, which take their pieces of the work from a counter."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def next_of(typing_context, counter):  # type: ignore[no-untyped-def]
    """counter[0] before it is raised by one, safe between threads."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


def in_threads(kernel: Any, pieces: int, *args: Any) -> None:
    """Run a kernel that takes its pieces from a counter, in as many threads as torch has, or as there are pieces.

    Args:
        kernel: compiled without the interpreter's lock; takes the counter, and then ``args``.
    """
    import torch

    counter = np.zeros(1, np.int64)
    others = min(torch.get_num_threads(), pieces) - 1
    waiting = [_pool(os.getpid()).submit(kernel, counter, *args) for _ in range(others)]
    kernel(counter, *args)
    for one in waiting:
        one.result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of the one that it was forked from are not there."""
    return ThreadPoolExecutor(1024, thread_name_prefix="cilspl")
