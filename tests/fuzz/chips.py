"""Networks for the chip and what a chip counted: chip networks, NIR, counts."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.files import seal_of, write_sealed
from cil_spl.chip import interchange, nirfile, nirgraph, silicon
from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.chip.nirgraph import Node
from cil_spl.chip.program import program_of
from tests.fuzz import damage
from tests.fuzz.kinds import Damage, Files, Kind


def network(reset: str = "subtract") -> ChipNetwork:
    """A chain of two layers."""
    rng = np.random.default_rng(0)

    def layer(name: str, shape: tuple[int, ...], given: tuple[int, int, int], **more: Any) -> ChipLayer:
        weight = rng.integers(-128, 128, shape).astype(np.int8)
        options = {"stride": (1, 1), "padding": (0, 0), "threshold": 100, "min_v_mem": -100} | more
        return ChipLayer(name=name, weight=weight, input_shape=given, reset=reset, scale=100.0, **options)

    first = layer("conv", (4, 2, 3, 3), (2, 8, 8), padding=(1, 1), destinations=(Destination(1, (2, 2)),))
    return ChipNetwork((first, layer("out", (3, 4, 4, 4), (4, 4, 4))), (2, 8, 8))


def _used(found: ChipNetwork) -> ChipNetwork:
    """A network that was read, made ready to run."""
    program_of(found)
    return found


# Chip networks


def _chip(folder: Path) -> list[Path]:
    interchange.save(network(), folder / "chip.npz")
    return [folder / "chip.npz"]


def _chip_header(rng: random.Random, path: Path) -> str:
    """Another header; or arrays of other types and shapes."""
    with np.load(path) as held:
        arrays = dict(held)
    header, told = json.loads(str(arrays["header"])), ""
    if rng.random() < 0.75:
        header, told = damage.edited(rng, header)
        arrays["header"] = np.array(json.dumps(header))
    else:
        name = rng.choice(list(arrays))
        choices = (
            *damage.ARRAYS, lambda: np.zeros((4, 2, 3, 3), "i1"), lambda: np.ones((4, 2, 3, 3), "i2"),
            lambda: np.ones((1, 1, 1, 1), "i1"), lambda: np.ones((4, 2, 3, 3), "f4"), lambda: np.array("[" * 5000),
            lambda: np.array("9" * 5000),
        )  # fmt: skip
        arrays[name] = rng.choice(choices)()
        told = f"{name}: {arrays[name].dtype} {arrays[name].shape}"
    seals = rng.random() < 0.7
    if seals:
        write_sealed(path, lambda file: np.savez(file, **arrays))
    else:
        np.savez(path, **arrays)
    return told + ("" if seals else ", without a checksum")


# NIR


def _ours(reset: str) -> Any:
    def make(folder: Path) -> list[Path]:
        nirfile.write(network(reset), folder / "net.nir")
        return [folder / "net.nir"]

    return make


def _foreign(folder: Path) -> list[Path]:
    """As other tools write it: a file of each version, with pooling, flattening and a linear layer."""
    rng = np.random.default_rng(1)
    made = []
    for version in (nirfile.SUBTRACTS, nirfile.RESETS):
        path = folder / f"v{version}.nir"
        nirgraph.write(path, version, _nodes(rng, version), _EDGES)
        path.write_bytes(path.read_bytes()[: -len(seal_of(b""))])
        made.append(path)
    import h5py

    for path in made:
        with h5py.File(path, "r+") as file:
            del file.attrs[nirgraph.WRITER]
    return made


_EDGES = [("input", "0"), ("0", "1"), ("1", "2"), ("2", "3"), ("3", "4"), ("4", "5"), ("5", "output")]


def _nodes(rng: np.random.Generator, version: str) -> Mapping[str, Node]:
    def neurons(shape: tuple[int, ...]) -> dict[str, Any]:
        values = {"r": np.ones(shape, "f4"), "v_threshold": np.ones(shape, "f4")}
        return values | ({"v_reset": np.zeros(shape, "f4")} if version == nirfile.RESETS else {})

    two = np.array([2, 2])
    weight = rng.normal(0, 0.5, (4, 2, 3, 3)).astype("f4")
    conv = {
        "weight": weight, "bias": np.zeros(4, "f4"), "stride": np.array([1, 1]), "padding": "same",
        "dilation": np.array([1, 1]), "groups": np.array(1), "input_shape": np.array([8, 8]),
    }  # fmt: skip
    flat = {"start_dim": np.array(0), "end_dim": np.array(-1), "input_type": np.array([4, 4, 4])}
    return {
        "input": Node("Input", {"shape": np.array([2, 8, 8])}),
        "0": Node("Conv2d", conv),
        "1": Node("IF", neurons((4, 8, 8)), {"min_v_mem": np.array(-1.0)}),
        "2": Node("AvgPool2d", {"kernel_size": two, "stride": two, "padding": np.array([0, 0])}),
        "3": Node("Flatten", flat),
        "4": Node("Linear", {"weight": rng.normal(0, 0.3, (3, 64)).astype("f4")}),
        "5": Node("IF", neurons((3,))),
        "output": Node("Output", {"shape": np.array([3])}),
    }


def _read_nir(folder: Path) -> Any:
    return [_used(nirfile.read(path)) for path in sorted(folder.glob("*.nir"))] or nirfile.read(folder / "net.nir")


def _odd_value(rng: random.Random) -> Any:
    """What a node may hold in place of its value."""
    shapes = ((), (2,), (3,), (4, 8, 8), (4, 2, 3, 3), (3, 64), (2, 2), (0,))
    number = rng.choice((0, -1, 1, 1.5, np.nan, np.inf, -np.inf, 1e39, 1e-45, 1e-38, 1e30, -0.5, 2, 10**9, 2**62, 4096))
    if rng.random() < 0.6:
        return np.full(rng.choice(shapes), number)
    return rng.choice(NODE_VALUES)


NODE_VALUES: tuple[Any, ...] = (
    "x", "None", "", b"\xff", "IF", "LIF", "NIRGraph", "Output", "Input", "Affine", "same", "valid", "1.0.5", "2",
    "1.0.x", "9" * 5000, np.array([True]), np.array([1j]), np.zeros(2, [("a", "i4")]), np.array([2**24] * 3),
    np.array([2, 4096, 4096]),
)  # fmt: skip


def _hdf5(rng: random.Random, path: Path) -> str:
    """A group or a value lost, exchanged, linked, said to be huge; an edge or a value that is another."""
    import h5py

    told = []
    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 2))):
            names: list[str] = []
            file.visit(names.append)
            name = rng.choice(names)
            how = rng.choice(
                ("value",) * 6
                + ("lost", "group", "copied", "soft", "hard", "huge", "edges", "empty", "low", "bit", "attribute")
            )
            told.append(f"{name} {how}")
            try:
                _change(rng, file, name, how)
            except (LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
                told[-1] += f" ({error!r:.40})"
    return ", ".join(told)


def _change(rng: random.Random, file: Any, name: str, how: str) -> None:
    import h5py

    if how == "copied":
        file.copy(name, f"{name.rpartition('/')[0]}/new")
    elif how == "edges":
        edges = [[a, b] for a, b in file["node/edges"][()].tolist()]
        k = rng.randrange(len(edges))
        change = rng.choice(("lost", "back", "nowhere", "twice"))
        if change == "lost":
            edges.pop(k)
        elif change == "nowhere":
            edges[k][rng.randrange(2)] = b"nope"
        else:
            edges.append(edges[k] if change == "twice" else [edges[k][1], edges[0][0]])
        del file["node/edges"]
        file.create_dataset("node/edges", data=edges, dtype=h5py.string_dtype())
    elif how == "low":
        group = rng.choice(list(file["node/nodes"]))
        file[f"node/nodes/{group}/metadata/min_v_mem"] = _odd_value(rng)
    elif how == "attribute":
        file[name].attrs[rng.choice(("x", nirgraph.WRITER))] = "x"
    elif how == "bit":
        value = np.atleast_1d(file[name][()])
        raw = bytearray(value.tobytes())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        file[name][...] = np.frombuffer(bytes(raw), value.dtype).reshape(file[name].shape)
    else:
        new = _odd_value(rng)
        del file[name]
        if how == "value":
            file[name] = new
        elif how == "group":
            file.create_group(name)
        elif how == "soft":
            file[name] = h5py.SoftLink(rng.choice(("/node", "/nowhere", f"/{name}")))
        elif how == "hard":
            file[name] = file["node"]
        elif how == "huge":
            shape = rng.choice(((3000, 3000), (2**20, 2**20)))
            file.create_dataset(name, shape=shape, dtype="f4", chunks=(1000, 1000), fillvalue=rng.choice((0, 1)))
        elif how == "empty":
            file[name] = h5py.Empty("f")


# Counts


def _counts(folder: Path) -> list[Path]:
    counts = np.random.default_rng(0).integers(0, 9, (2, 4, 8, 8))
    np.savez(folder / "counts.npz", recording=np.array(["Test/0/1.bin", "Test/1/3.bin"]), counts=counts)
    return [folder / "counts.npz"]


NAMES: tuple[Any, ...] = (
    ["a", "a"], ["../a", "b"], ["/a", "b"], ["", "b"], ["a\n", "b"], ["a" * 300, "b"], [1, 2], [b"a", b"b"], "a", ["a"],
)  # fmt: skip
COUNTS = (
    -np.ones((2, 1, 1, 1)), np.full((2, 1, 1, 1), 2**62), np.zeros((2, 4, 8, 8), int), np.ones((2, 4)),
    np.ones((2, 0, 8, 8), int), np.ones((2, 4, 8, 8), bool), np.full((2, 4, 8, 8), 2**64 - 1, np.uint64),
    np.ones((2, 4, 8, 8), int),
)  # fmt: skip


def _other_counts(rng: random.Random, path: Path) -> str:
    names, counts = rng.choice(NAMES), rng.choice(COUNTS)
    np.savez(path, recording=np.array(names), counts=counts)
    return f"recording={names!r:.60}, counts {counts.dtype} {counts.shape}"


NIR_DAMAGE: tuple[Damage, ...] = (*damage.ANY, _hdf5, _hdf5)
CHIP_DAMAGE: tuple[Damage, ...] = (*damage.ANY, damage.members)


def _read_chip(folder: Path) -> Any:
    return _used(interchange.load(folder / "chip.npz"))


def _read_counts(folder: Path) -> Any:
    return silicon.read_counts(folder / "counts.npz")


KINDS: list[tuple[Kind, int]] = [
    (Files("chip network", _chip, _read_chip, CHIP_DAMAGE, (_chip_header,), ours=True), 4),
    (Files("nir of ours", _ours("subtract"), _read_nir, NIR_DAMAGE, ours=True), 2),
    (Files("nir of ours that resets", _ours("zero"), _read_nir, NIR_DAMAGE, ours=True), 1),
    (Files("nir", _foreign, _read_nir, damage.BYTES, (_hdf5,)), 4),
    (Files("counts", _counts, _read_counts, damage.ANY, (damage.members, _other_counts)), 2),
]
