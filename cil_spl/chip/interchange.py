"""A chip network as one file: numpy arrays and a JSON header, nothing that could run code when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_sealed, warn_once, without_checksum, write_sealed
from cil_spl.base.npz import MOST_BYTES, check_file, read_arrays
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination, check_network

FORMAT = 3  # 1 had no checksum, 2 no v_init; both are read as well, and 2 is written where every v_init is 0
KIND = "cilspl chip network"
_KEYS = (
    "name", "stride", "padding", "input_shape", "threshold", "min_v_mem", "reset", "scale", "core", "destinations",
    "v_init",
)  # fmt: skip
_NONE = np.zeros(0)


def save(network: ChipNetwork, path: Path | str) -> None:
    """Write ``network`` to ``path`` (.npz), whole or not at all, with a checksum; ``np.load`` reads it as well."""
    path = Path(path)
    header = {
        "kind": KIND,
        "format": FORMAT if any(layer.v_init for layer in network.layers) else 2,
        "input_shape": network.input_shape,
        "readout": network.readout,
        "layers": [_describe(layer) for layer in network.layers],
    }
    arrays: dict[str, Any] = {f"weight_{i}": layer.weight for i, layer in enumerate(network.layers)}
    write_sealed(path, lambda file: np.savez(file, header=np.array(json.dumps(header)), **arrays))


def load(path: Path | str) -> ChipNetwork:
    """Read a network that :func:`save` wrote.

    Raises:
        RequestError: no such file, not a chip network, damaged, of another format version, or one that no chip could
            run; names the file, and the layer and its value.
    """
    path = Path(path)
    check_file(path, MOST_BYTES, "a chip network; a run writes its own as chip.npz")
    try:
        archive, checked = read_sealed(path)
        arrays = read_arrays(archive)
        header = json.loads(str(arrays.pop("header"))) if arrays.get("header", _NONE).dtype.kind == "U" else None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path}: not a chip network, or cut short ({error})") from None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise RequestError(f"{path}: not a chip network")
    version = header.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise RequestError(
            f"{path}: chip network of format {version}, this version reads 1 to {FORMAT}; "
            "make it again with `cilspl run`, or read it with the version that wrote it"
        )
    if not checked:
        without_checksum(path, version, first=2)
    try:
        network = _network(header, arrays)
        check_network(network)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    for layer in network.layers:
        if not layer.weight.any():
            warn_once(f"{path}: layer {layer.name}: every weight is 0, so that it never fires")
    return network


def _describe(layer: ChipLayer) -> dict[str, Any]:
    about = {"v_init": int(layer.v_init)} if layer.v_init else {}
    return about | {
        "name": layer.name,
        "stride": layer.stride,
        "padding": layer.padding,
        "input_shape": layer.input_shape,
        "threshold": int(layer.threshold),
        "min_v_mem": int(layer.min_v_mem),
        "reset": layer.reset,
        "scale": float(layer.scale),
        "core": layer.core,
        "destinations": [
            {"layer": d.layer, "pool": d.pool, "feature_shift": d.feature_shift} for d in layer.destinations
        ],
    }


def _network(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> ChipNetwork:
    top = _Part("chip network", header, ("kind", "format", "input_shape", "readout", "layers"))
    layers = top.parts("layers")
    if not layers:
        raise top.refuse("layers", "at least one layer")
    names = [f"weight_{k}" for k in range(len(layers))]
    if set(arrays) != set(names):
        raise RequestError(
            f"chip network: it has {len(layers)} layers and the arrays {', '.join(arrays) or 'none'}; needed is "
            "weight_0 for the first, and so on"
        )
    called = [about.get("name") for about in layers if isinstance(about, dict)]
    for name in called:
        if called.count(name) > 1:
            raise RequestError(
                f"chip network: layer {name}: {called.count(name)} layers have this name; names must differ"
            )
    readout = header.get("readout")
    return ChipNetwork(
        tuple(_layer(about, arrays[name]) for about, name in zip(layers, names, strict=True)),
        cast("tuple[int, int, int]", top.wholes("input_shape", 3)),
        None if readout is None else top.wholes("readout", None),
    )


def _layer(about: Any, weight: np.ndarray) -> ChipLayer:
    name = about.get("name") if isinstance(about, dict) else None
    part = _Part(f"chip network: layer {name}", about, tuple(key for key in _KEYS if key != "v_init"), ("v_init",))
    destinations = []
    for one in part.parts("destinations"):
        to = _Part(f"{part.where}: destinations", one, ("layer", "pool", "feature_shift"))
        pool = cast("tuple[int, int]", to.wholes("pool", 2))
        destinations.append(Destination(to.whole("layer"), pool, to.whole("feature_shift")))
    return ChipLayer(
        name=part.text("name"),
        weight=weight,
        stride=cast("tuple[int, int]", part.wholes("stride", 2)),
        padding=cast("tuple[int, int]", part.wholes("padding", 2)),
        input_shape=cast("tuple[int, int, int]", part.wholes("input_shape", 3)),
        threshold=part.whole("threshold"),
        min_v_mem=part.whole("min_v_mem"),
        reset=part.text("reset"),
        scale=part.number("scale"),
        destinations=tuple(destinations),
        core=None if about["core"] is None else part.whole("core"),
        v_init=part.whole("v_init") if "v_init" in about else 0,
    )


class _Part:
    """A mapping of a file, whose values are taken as they are or refused: nothing is rounded or converted.

    Raises:
        RequestError: a key is missing or unknown, or its value is of another type.
    """

    def __init__(self, where: str, about: Any, needs: tuple[str, ...], may: tuple[str, ...] = ()) -> None:
        self.where, self.about = where, about
        if not isinstance(about, dict):
            raise RequestError(f"{where}: {shown(about)} in place of names and values")
        for key in needs:
            if key not in about:
                raise RequestError(f"{where}: {key} is missing")
        for key in about:
            if key not in (*needs, *may):
                raise RequestError(f"{where}: {key} is no key of it; allowed are {', '.join((*needs, *may))}")

    def refuse(self, key: str, needed: str) -> RequestError:
        return RequestError(f"{self.where}: {key}={shown(self.about[key])}; needed is {needed}")

    def text(self, key: str) -> str:
        value = self.about[key]
        if not isinstance(value, str):
            raise self.refuse(key, "a text")
        return value

    def whole(self, key: str) -> int:
        value = self.about[key]
        if type(value) is not int:
            raise self.refuse(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        value = self.about[key]
        if type(value) is int and abs(value) < 2**53:
            return float(value)
        if not isinstance(value, float):
            raise self.refuse(key, "a number")
        return value

    def wholes(self, key: str, n: int | None) -> tuple[int, ...]:
        values = self.about[key]
        if not isinstance(values, list) or n not in (None, len(values)) or not all(type(v) is int for v in values):
            raise self.refuse(key, f"a list of {n or ''} whole numbers".replace("  ", " "))
        return tuple(values)

    def parts(self, key: str) -> list[Any]:
        values = self.about[key]
        if not isinstance(values, list):
            raise self.refuse(key, "a list")
        return values
