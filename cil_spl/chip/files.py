"""A chip network as one file: arrays and plain numbers, no code in it, with a format version."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.errors import RequestError

FORMAT = 1


def save(network: ChipNetwork, path: Path | str) -> None:
    """Write whole or not at all."""
    path = Path(path)
    header: dict[str, Any] = {"format": FORMAT, "input_shape": network.input_shape, "layers": []}
    arrays = {}
    for i, layer in enumerate(network.layers):
        plain = asdict(layer)
        arrays[f"weight{i}"] = plain.pop("weight")
        header["layers"].append(plain)
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        np.savez_compressed(file, header=text, **arrays)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def load(path: Path | str) -> ChipNetwork:
    """Read what :func:`save` wrote.

    Raises:
        RequestError: no such file, not such a file, damaged, or of another format; it is named.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            header = json.loads(data["header"].tobytes())
            version = header["format"]
            weights = {i: data[f"weight{i}"] for i in range(len(header["layers"]))}
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path}: not a chip network of cilspl, or damaged ({type(error).__name__})") from None
    if version != FORMAT:
        raise RequestError(f"{path}: format {version}; this version reads {FORMAT}")
    layers = []
    for i, plain in enumerate(header["layers"]):
        destinations = tuple(
            Destination(d["layer"], tuple(d["pool"]), d["feature_shift"]) for d in plain["destinations"]
        )
        sizes = {key: tuple(plain[key]) for key in ("stride", "padding", "input_shape")}
        layers.append(ChipLayer(**(plain | sizes | {"weight": weights[i], "destinations": destinations})))
    return ChipNetwork(tuple(layers), tuple(header["input_shape"]))
