"""The rounding rule: float weights and thresholds of a core → the chip's integers.

One scale k per core, shared by the weights and both thresholds: the largest factor with which the weights fit
8 bits and the thresholds 16 bits. Then everything is rounded (half to even), as sinabs does for Speck:

    k = min(k_w, k_v);   k_w = 127 / max(W) or 128 / |min(W)|, whichever end is the tighter;  k_v alike with 16 bits
    W_int = round(k W),   theta_int = round(k theta),   v_min_int = round(k v_min)

Everything is float32, and written with what numpy arrays and torch tensors have in common: both give the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from cil_spl.base.errors import RequestError


@dataclass(frozen=True)
class Precision:
    """How many bits a core's numbers have, and whether training already rounds to them; the config group ``quantize``.

    A Speck has 8 for weights and 16 for states; fewer bits of the weights fit it as well.
    """

    bits: Annotated[int, Ge(2), Le(8)] = 8
    state_bits: Annotated[int, Ge(8), Le(16)] = 16
    aware: bool = False


CHIP = Precision()
KEYS = ("model.neuron.spike_threshold", "model.neuron.min_v_mem")  # where a run's thresholds come from


@dataclass(frozen=True)
class Integers:
    """A core's numbers: ``weight`` int8-valued in the shape given, thresholds, and the scale."""

    weight: Any
    threshold: Any
    min_v_mem: Any
    scale: Any
    limited_by: str


def to_integers(
    weight: Any,
    spike_threshold: Any,
    min_v_mem: Any,
    precision: Precision = CHIP,
    keys: tuple[str, str] = KEYS,
    scaled_by: str = "",
) -> Integers:
    """The chip's rule for one core; float32 in, float32 whole numbers out.

    Args:
        weight: array or tensor of any shape.
        spike_threshold, min_v_mem: of the same kind and place, one number each.
        precision: bits of weights and states.
        keys: names of the threshold and the lower bound, for messages.
        scaled_by: the option, with its value, that says how large the weights are beside the threshold, for messages.

    Raises:
        RequestError: a weight or a threshold is not a finite number; the threshold rounds to 0.
    """
    high, low = weight.max(), weight.min()
    if not (math.isfinite(high) and math.isfinite(low)):
        raise RequestError("a weight is not a finite number: the training has diverged (lower method.lr)")
    by_weight = scale_to_fit(high, low, precision.bits)
    by_threshold = scale_to_fit(max(spike_threshold, min_v_mem), min(spike_threshold, min_v_mem), precision.state_bits)
    weights_limit = bool(by_weight <= by_threshold)
    scale = by_weight if weights_limit else by_threshold
    threshold = (spike_threshold * scale).round()
    if not abs(threshold - 2**15) < 2**15:  # from 1 on, and a number: one question, as a GPU answers each slowly
        limit = precision.bits if weights_limit else None
        raise _no_threshold(float(spike_threshold), float(min_v_mem), float(high), float(low), limit, keys, scaled_by)
    return Integers(
        weight=(weight * scale).round(),
        threshold=threshold,
        min_v_mem=(min_v_mem * scale).round(),
        scale=scale,
        limited_by="weights" if weights_limit else "thresholds",
    )


def _no_threshold(
    threshold: float, bound: float, high: float, low: float, bits: int | None, keys: tuple[str, str], scaled_by: str
) -> RequestError:
    """Why there is none, and what to do; ``bits`` of the weights where these limit the scale."""
    for key, value in zip(keys, (threshold, bound), strict=True):
        if not math.isfinite(value):
            return RequestError(f"{key}={value:g}: needed is a finite number")
    if threshold <= 0:
        return RequestError(f"{keys[0]}={threshold:g}: must be above 0, or neurons fire without end; raise it")
    largest = f"weights up to {max(abs(high), abs(low)):g}"
    if threshold < 1e-30:
        return RequestError(f"{keys[0]}={threshold:g}, beside {largest}, is too small for float32; scale both up")
    if bits is not None:
        enough = [n for n in range(bits + 1, 9) if round(threshold * float(scale_to_fit(high, low, n)))]
        if enough:
            return RequestError(
                f"quantize.bits={bits}: {keys[0]}={threshold:g} rounds to 0 beside {largest}, and such neurons fire "
                f"without end; use quantize.bits={enough[0]} or more"
            )
        if scaled_by:
            return RequestError(
                f"{scaled_by}: it makes {largest}, beside which {keys[0]}={threshold:g} rounds to 0, and such neurons "
                "fire without end; lower it"
            )
    beside = largest if bits is not None else f"{keys[1]}={bound:g}"
    return RequestError(
        f"{keys[0]}={threshold:g} rounds to 0 beside {beside}, and such neurons fire without end; raise it"
    )


def warnings_of(where: str, integers: Integers, precision: Precision = CHIP) -> list[str]:
    """What the user should know about a core's integers.

    Args:
        where: names the layer.
    """
    found = []
    if integers.limited_by == "thresholds":
        used = int(abs(integers.weight).max())
        levels = 2 ** (precision.bits - 1) - 1
        what = f"the weights use only {used} of {levels} levels" if used else "every weight rounds to 0"
        found.append(
            f"{where}: the thresholds, not the weights, limit the scale; {what}. Train with a lower spike_threshold or "
            "larger weights."
        )
    if int(integers.min_v_mem) == 0:
        found.append(f"{where}: the lower threshold is 0, a known bug of the chip; use -1 or lower")
    return found


def scale_to_fit(high: Any, low: Any, bits: int) -> Any:
    """The largest factor with which values from ``low`` to ``high`` fit ``bits`` signed bits; infinite for zeros."""
    top, bottom = 2 ** (bits - 1) - 1, 2 ** (bits - 1)
    with np.errstate(divide="ignore", over="ignore"):
        # torch divides a number by a tensor in these two steps; written out, numpy gives the same bits.
        if abs(low) <= abs(high) * (bottom / top):
            return abs(1 / high * top)
        return abs(1 / low * bottom)
