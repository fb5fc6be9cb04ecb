"""Which thresholds and lower bounds of a config's neurons the chip's rule can round. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cil_spl.base.errors import RequestError


def check_neurons(neuron: Mapping[str, Any], init_rate: float = 1.0) -> None:
    """Refuse neurons without a lower bound, and a threshold or bound so far from 0 that all else rounds to 0.

    A core has one scale for its weights and its 16-bit states, and what is below half a step rounds to 0. Fresh weights
    are scaled so that a neuron's input has the spread ``init_rate``: one weight is at most about as large.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    if neuron["min_v_mem"] is None:
        raise RequestError(
            "model.neuron.min_v_mem=null: quantising needs a lower bound, or the scale is spent on it and every weight "
            "rounds to zero; use model.neuron.min_v_mem=-1, or a lower one"
        )
    start = float(neuron.get("v_init") or 0.0)
    if start >= float(neuron["spike_threshold"]):
        raise RequestError(
            f"model.neuron.v_init={start:g}: must be below model.neuron.spike_threshold={neuron['spike_threshold']:g}; "
            "on a chip a neuron fires at an event only"
        )
    steps = 2 * (2**15 - 1)
    threshold = float(neuron["spike_threshold"])
    for name, beside in (("spike_threshold", init_rate), ("min_v_mem", min(init_rate, threshold))):
        value, largest = float(neuron[name]), steps * beside
        if abs(value) > largest:
            bound = f"at most {largest:g}" if value > 0 else f"at least {-largest:g}"
            what = f"a weight of {init_rate:g} (method.init_rate), as large as fresh ones are,"
            raise RequestError(
                f"model.neuron.{name}={value:g}: must be {bound}; beyond it the chip's 16-bit states leave a scale at "
                f"which {what if beside == init_rate else 'model.neuron.spike_threshold'} rounds to 0"
            )
