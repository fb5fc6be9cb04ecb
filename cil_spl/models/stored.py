"""A plan as a file holds it: every name, number and size is checked before a layer is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.options import checked
from cil_spl.models.kinds import BUILT_IN, NORMS
from cil_spl.models.options import Neuron

MOST_LAYERS, MOST_SIZE = 1000, 2**20
# The parameters that each built-in kind must have; its others have defaults.
NEEDS = {
    "conv": ("out_channels", "kernel_size"), "linear": ("out_features",), "avgpool": ("kernel_size",),
    "sumpool": ("kernel_size",), "norm": ("norm",), "weigh_time": ("decay",),
}  # fmt: skip
LEAST = {"out_channels": 1, "out_features": 1, "kernel_size": 1, "stride": 1, "padding": 0}
SINGLE = ("out_channels", "out_features")


def check_stored(found: Any) -> None:
    """Refuse what is not as :meth:`cil_spl.models.plan.Plan.as_dict` writes it.

    Raises:
        RequestError: names the layer, the key and its value.
    """
    if not isinstance(found, Mapping) or not {"name", "input_shape", "layers"} <= set(found):
        raise RequestError(f"plan: {shown(found)} in place of name, input_shape and layers")
    if not isinstance(found["name"], str):
        raise RequestError(f"plan: name={shown(found['name'])}; needed is a text")
    shape = found["input_shape"]
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(_is_size(n, 1) for n in shape):
        raise RequestError(f"plan: input_shape={shown(shape)}; needed are 3 whole numbers from 1 (C, H, W)")
    layers = found["layers"]
    if not isinstance(layers, list | tuple) or not 0 < len(layers) <= MOST_LAYERS:
        raise RequestError(f"plan: layers={shown(layers)}; needed is a list of 1 to {MOST_LAYERS}")
    for i, layer in enumerate(layers):
        _check_layer(i, layer)


def _check_layer(i: int, layer: Any) -> None:
    where = f"plan: layer {i}"
    if not isinstance(layer, Mapping) or not {"name", "kind", "params", "inputs"} <= set(layer):
        raise RequestError(f"{where}: {shown(layer)} in place of name, kind, params and inputs")
    for key in ("name", "kind"):
        if not isinstance(layer[key], str) or not layer[key]:
            raise RequestError(f"{where}: {key}={shown(layer[key])}; needed is a text")
    where = f"plan: layer {layer['name']} ({layer['kind']})"
    inputs, params = layer["inputs"], layer["params"]
    if not isinstance(inputs, list | tuple) or not all(isinstance(name, str) for name in inputs):
        raise RequestError(f"{where}: inputs={shown(inputs)}; needed is a list of layers' names")
    if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
        raise RequestError(f"{where}: params={shown(params)}; needed are names and values")
    for key in NEEDS.get(layer["kind"], ()):
        if key not in params:
            raise RequestError(f"{where}: {key} is missing")
    if layer["kind"] == "neuron":  # what a method has made of the config's neurons
        checked(Neuron, params, where)
    if layer["kind"] in BUILT_IN:
        for key, least in LEAST.items():
            value = params.get(key, least)
            sizes = value if isinstance(value, list | tuple) and key not in SINGLE and len(value) == 2 else (value,)
            if not all(_is_size(size, least) for size in sizes):
                raise RequestError(f"{where}: {key}={shown(value)}; needed are whole numbers from {least} on")
        scale = params.get("standardise")
        if scale is not None and (type(scale) not in (int, float) or not 0 < scale < math.inf):
            raise RequestError(f"{where}: standardise={shown(scale)}; needed is a number above 0")
        if params.get("norm", NORMS[0]) not in NORMS:
            raise RequestError(f"{where}: norm={shown(params['norm'])}; allowed are {', '.join(NORMS)}")


def _is_size(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= MOST_SIZE
