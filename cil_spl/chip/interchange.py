"""A chip network as one file: numpy arrays and a JSON header, nothing that could run code when it is read."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_sealed, without_checksum, write_sealed
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination, check_network

FORMAT = 3  # 1 had no checksum, 2 no v_init; both are read as well, and 2 is written where every v_init is 0
KIND = "cilspl chip network"


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
        RequestError: no such file, not a chip network, damaged, or of another format version.
    """
    path = Path(path)
    try:
        archive, checked = read_sealed(path)
        with np.load(io.BytesIO(archive), allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if not isinstance(header, dict) or header.get("kind") != KIND:
                raise RequestError(f"{path}: not a chip network")
            version = header.get("format")
            if version not in range(1, FORMAT + 1):
                raise RequestError(
                    f"{path}: chip network of format {version}, this version reads 1 to {FORMAT}; "
                    "make it again with `cilspl run`, or read it with the version that wrote it"
                )
            if not checked:
                without_checksum(path, version, first=2)
            weights = [file[f"weight_{i}"] for i in range(len(header["layers"]))]
        network = _network(header, weights)
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file; a run writes its chip network as chip.npz") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: not a chip network, or cut short ({error})") from None
    try:
        check_network(network)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
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


def _network(header: dict[str, Any], weights: list[np.ndarray]) -> ChipNetwork:
    layers = []
    for about, weight in zip(header["layers"], weights, strict=True):
        destinations = tuple(
            Destination(int(d["layer"]), _pair(d["pool"]), int(d["feature_shift"])) for d in about["destinations"]
        )
        layers.append(
            ChipLayer(
                name=str(about["name"]),
                weight=weight,
                stride=_pair(about["stride"]),
                padding=_pair(about["padding"]),
                input_shape=_triple(about["input_shape"]),
                threshold=int(about["threshold"]),
                min_v_mem=int(about["min_v_mem"]),
                reset=str(about["reset"]),
                scale=float(about["scale"]),
                destinations=destinations,
                core=None if about["core"] is None else int(about["core"]),
                v_init=int(about.get("v_init", 0)),
            )
        )
    readout = None if header["readout"] is None else tuple(int(k) for k in header["readout"])
    return ChipNetwork(tuple(layers), _triple(header["input_shape"]), readout)


def _pair(values: list[int]) -> tuple[int, int]:
    y, x = values
    return int(y), int(x)


def _triple(values: list[int]) -> tuple[int, int, int]:
    c, y, x = values
    return int(c), int(y), int(x)
