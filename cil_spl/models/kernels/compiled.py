"""The functions that Python calls, each run by several threads at once; they alone are kept on disk.

How they are found again: :mod:`cil_spl.base.sources`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numba import njit

from cil_spl.base.sources import BASE, text_of
from cil_spl.base.threads import next_of
from cil_spl.models.kernels import block, neurons

SPAN = 2048  # neurons whose state stays in the first-level cache


def _neurons(sources: str) -> tuple[Any, ...]:
    """Neurons alone, ``SPAN`` at a time.

    Shapes: current, spikes, u, counts, states, kept, grad, delta (T, N); v, carried (N,).
    """

    @njit(nogil=True, cache=True)
    def run(counter, current, v, spikes, u, p):  # type: ignore[no-untyped-def]
        _ = sources
        while True:
            a = next_of(counter) * SPAN
            b = min(len(v), a + SPAN)
            if a >= b:
                return
            for t in range(len(current)):
                neurons.step(current[t, a:b], v[a:b], spikes[t, a:b], u[t, a:b], p)

    @njit(nogil=True, cache=True)
    def back(counter, grad, u, carried, delta, p):  # type: ignore[no-untyped-def]
        _ = sources
        while True:
            a = next_of(counter) * SPAN
            b = min(len(carried), a + SPAN)
            if a >= b:
                return
            for before in range(len(grad)):
                t = len(grad) - 1 - before
                neurons.back(grad[t, a:b], u[t, a:b], carried[a:b], delta[t, a:b], p)

    @njit(nogil=True, cache=True)
    def observed_run(counter, current, v, counts, states, u, kept, p):  # type: ignore[no-untyped-def]
        _ = sources
        while True:
            a = next_of(counter) * SPAN
            b = min(len(v), a + SPAN)
            if a >= b:
                return
            for t in range(len(current)):
                seen = states[t, a:b] if len(states) else v[:0]
                neurons.observed_step(current[t, a:b], v[a:b], counts[t, a:b], seen, u[t, a:b], kept[t, a:b], p)

    @njit(nogil=True, cache=True)
    def observed_back(counter, grad, u, kept, carried, delta, p):  # type: ignore[no-untyped-def]
        _ = sources
        while True:
            a = next_of(counter) * SPAN
            b = min(len(carried), a + SPAN)
            if a >= b:
                return
            for before in range(len(grad)):
                t = len(grad) - 1 - before
                neurons.observed_back(grad[t, a:b], u[t, a:b], kept[t, a:b], carried[a:b], delta[t, a:b], p)

    return run, back, observed_run, observed_back


def _blocks(sources: str) -> tuple[Any, Any]:
    """Recordings of a batch through a convolution, neurons and pooling, in ``chunks``; see :mod:`.block`."""

    @njit(nogil=True, cache=True)
    def forward(counter, chunks, x, start, seen, weights, out, end, total, saved, part, shape, pixels, p):  # type: ignore[no-untyped-def]
        _ = sources
        batch = x.shape[1]
        room = block.scratch(x, shape, 0, len(seen.counts) > 0, len(total) > 0)
        while True:
            chunk = next_of(counter)
            if chunk >= chunks:
                return
            for b in range(chunk * batch // chunks, (chunk + 1) * batch // chunks):
                block.forward(x, b, start, seen, weights, out, end, total, saved, room, part, shape, pixels, p)

    @njit(nogil=True, cache=True)
    def backward(  # type: ignore[no-untyped-def]
        counter, x, start, seen, weights, grad, carried, saved, by_x, by_weight, by_bias, part, shape, pixels, p,
    ):  # fmt: skip
        _ = sources
        batch, chunks = x.shape[1], len(by_bias)
        room = block.scratch(x, shape, part, len(seen.counts) > 0, False)
        while True:
            chunk = next_of(counter)
            if chunk >= chunks:
                return
            for b in range(chunk * batch // chunks, (chunk + 1) * batch // chunks):
                block.backward(
                    x, b, start, seen, weights, grad, carried, saved, by_x, by_weight.runs[chunk],
                    by_weight.dense[chunk], by_bias[chunk], room, part, shape, pixels, p,
                )  # fmt: skip

    return forward, backward


_sources = text_of(Path(__file__).parent, BASE / "threads.py", BASE / "bits.py")
run, back, observed_run, observed_back = _neurons(_sources)
forward, backward = _blocks(_sources)
