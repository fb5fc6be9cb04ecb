"""A chip network as a file: everything comes back, and nothing foreign is taken."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip.interchange import load, save
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.placement import spread_readout


def assert_networks_equal(a: ChipNetwork, b: ChipNetwork) -> None:
    assert (a.input_shape, a.readout) == (b.input_shape, b.readout)
    assert len(a.layers) == len(b.layers)
    for mine, other in zip(a.layers, b.layers, strict=True):
        for field in fields(mine):
            if field.name == "weight":
                np.testing.assert_array_equal(mine.weight, other.weight)
                assert other.weight.dtype == np.int8
            else:
                assert getattr(mine, field.name) == getattr(other, field.name), field.name


@pytest.mark.parametrize("seed", range(10))
def test_everything_comes_back(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_graph(rng) if seed % 2 else networks.random_chain(rng, 3)
    save(network, tmp_path / "chip.npz")
    assert_networks_equal(network, load(tmp_path / "chip.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["chip.npz"]


def test_the_readout_comes_back(tmp_path: Path) -> None:
    network = spread_readout(networks.single(np.ones((3, 1, 1, 1)), (1, 1, 1)))
    save(network, tmp_path / "chip.npz")
    assert load(tmp_path / "chip.npz").readout == (0, 4, 8)


def one() -> ChipNetwork:
    return networks.single(np.ones((3, 1, 1, 1)), (1, 1, 1), name="conv")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    save(one(), tmp_path / "chip.npz")
    whole = (tmp_path / "chip.npz").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(RequestError, match=r"cut\.npz"):
            load(tmp_path / "cut.npz")


def test_no_flipped_bit_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chip.npz"
    save(networks.random_chain(np.random.default_rng(1), 2), path)
    whole = path.read_bytes()
    drawn = np.random.default_rng(0).choice(len(whole), 300, replace=False).tolist()
    for place in (*drawn, *range(len(whole) - 110, len(whole))):  # the archive's end and the checksum, each byte
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(RequestError, match=r"chip\.npz: .*(damaged|cut short)"):
            load(path)
    assert not caplog.records


def test_a_file_without_a_checksum_is_read_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(one(), tmp_path / "chip.npz")
    changed(tmp_path / "chip.npz", tmp_path / "old.npz", format=1)
    with caplog.at_level(logging.WARNING):
        assert_networks_equal(load(tmp_path / "old.npz"), one())
        load(tmp_path / "old.npz")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'old.npz'}: an earlier version wrote it without a checksum")
    changed(tmp_path / "chip.npz", tmp_path / "gone.npz")
    with pytest.raises(RequestError, match=r"gone\.npz: damaged or changed"):
        load(tmp_path / "gone.npz")


def test_numpy_alone_reads_it(tmp_path: Path) -> None:
    save(one(), tmp_path / "chip.npz")
    with np.load(tmp_path / "chip.npz", allow_pickle=False) as file:
        assert file["weight_0"].dtype == np.int8
        assert json.loads(str(file["header"]))["format"] == 2


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        load(tmp_path / "none.npz")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(RequestError, match=r"foreign\.npz: not a chip network"):
        load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "pickle.npz", header=np.array([{"kind": "x"}], dtype=object))
    with pytest.raises(RequestError, match=r"pickle\.npz: not a chip network"):
        load(tmp_path / "pickle.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(RequestError, match=r"text\.npz: not a chip network"):
        load(tmp_path / "text.npz")


def changed(path: Path, new: Path, **header: object) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["header"] = np.array(json.dumps({**json.loads(str(arrays["header"])), **header}))
    np.savez(new, **arrays)


def test_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    save(one(), tmp_path / "chip.npz")
    changed(tmp_path / "chip.npz", tmp_path / "new.npz", format=4)
    with pytest.raises(RequestError, match="chip network of format 4, this version reads 1 to 3"):
        load(tmp_path / "new.npz")


def test_a_network_that_no_chip_could_run_is_refused(tmp_path: Path) -> None:
    save(one(), tmp_path / "chip.npz")
    changed(tmp_path / "chip.npz", tmp_path / "bad.npz", input_shape=[2, 1, 1], format=1)
    with pytest.raises(RequestError, match=r"bad\.npz: chip network: input"):
        load(tmp_path / "bad.npz")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(one(), tmp_path / "chip.npz")

    def full(*args: object, **arrays: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save(spread_readout(one()), tmp_path / "chip.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["chip.npz"]
    assert load(tmp_path / "chip.npz").readout is None


# Mistakes of any writer, in files without a checksum


def two() -> ChipNetwork:
    network = networks.active_chain(np.random.default_rng(0))
    return replace(network, layers=(replace(network.layers[0], name="first"), network.layers[1]))


Path_ = tuple[str | int, ...]
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**31,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "x",
    [],
    [1],
    [0, 0],
    [1, 1, 1],
    {},
)
NUMBERS: tuple[Path_, ...] = (
    ("layers", 0, "threshold"), ("layers", 0, "min_v_mem"), ("layers", 1, "stride"), ("layers", 0, "padding"),
    ("layers", 0, "input_shape"), ("layers", 0, "destinations"), ("layers", 0, "destinations", 0, "pool"),
    ("layers", 0, "destinations", 0, "layer"), ("layers", 0, "destinations", 0, "feature_shift"), ("input_shape",),
    ("layers", 1, "reset"), ("layers", 0, "scale"), ("layers",), ("layers", 1), ("kind",), ("format",),
)  # fmt: skip
SOUND: dict[Path_, tuple[Any, ...]] = {
    ("layers", 0, "scale"): (2**31, 1.5),  # any number above 0
    ("layers", 0, "min_v_mem"): (-1,),
    ("layers", 0, "padding"): ([0, 0],),
}


def odd_file(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> Path:
    save(two(), tmp_path / "chip.npz")
    with np.load(tmp_path / "chip.npz") as file:
        arrays = dict(file)
    header = json.loads(str(arrays.pop("header"))) | {"format": 1}
    change(header, arrays)
    np.savez(tmp_path / "odd.npz", header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    return tmp_path / "odd.npz"


@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(map(str, place)))
def test_values_of_another_kind_are_refused_in_one_line(place: Path_, tmp_path: Path) -> None:
    for value in ODD_VALUES:
        if value in SOUND.get(place, ()) and not isinstance(value, bool):
            continue

        def change(header: dict[str, Any], _: dict[str, np.ndarray], value: object = value) -> None:
            part: Any = header
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value

        with pytest.raises(RequestError, match=r"odd\.npz: ") as caught:
            load(odd_file(tmp_path, change))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, _: h.update(layers=[]), r"layers=\[\]; needed is at least one layer"),
        (lambda h, _: h["layers"][0].update(stride=[0, 1]), r"layer first: stride=\(0, 1\)"),
        (lambda h, _: h["layers"][0].update(threshold=437.5), r"layer first: threshold=437\.5; needed is a whole"),
        (lambda h, _: h["layers"][0].update(scale=float("nan")), "layer first: scale=nan"),
        (lambda h, _: h["layers"][0].pop("stride"), "layer first: stride is missing"),
        (lambda h, _: h["layers"][0].update(sride=[1, 1]), "layer first: sride is no key of it"),
        (lambda h, _: h["layers"][0].update(core="3"), "layer first: core=3; needed is a whole number"),
        (lambda h, _: h["layers"][0].update(name="layer"), "layer layer: 2 layers have this name; names must differ"),
        (lambda h, _: h.update(readout=[-1, -1]), r"readout=\[-1, -1\]"),
        (lambda h, _: h.update(readout=[0.5]), r"readout=\[0\.5\]; needed is a list of whole numbers"),
        (lambda _, a: a.pop("weight_1"), "it has 2 layers and the arrays weight_0; needed is weight_0"),
        (lambda _, a: a.update(weight_0=a["weight_0"].astype(float)), "layer first: weight is float64"),
        (lambda _, a: a.update(weight_0=a["weight_0"][:, :1]), "layer first: weight takes 1 features"),
        (lambda _, a: a.update(weight_0=a["weight_0"].astype(object)), "object in place of numbers"),
        (lambda _, a: a.update(extra=np.zeros(1)), "the arrays weight_0, weight_1, extra"),
    ],
    ids=range(15),
)
def test_a_mistake_is_named_with_its_layer(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"odd\.npz: .*{message}"):
        load(odd_file(tmp_path, change))


def test_a_layer_without_weights_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = two()
    silent = replace(network.layers[0], weight=np.zeros_like(network.layers[0].weight))
    save(replace(network, layers=(silent, network.layers[1])), tmp_path / "chip.npz")
    with caplog.at_level(logging.WARNING):
        load(tmp_path / "chip.npz")
    (record,) = caplog.records
    assert "chip.npz: layer first: every weight is 0, so that it never fires" in record.getMessage()


def test_deep_or_huge_headers_are_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"kind": 1', "1" * 10_000, "NaN"):
        np.savez(tmp_path / "odd.npz", header=np.array(text))
        with pytest.raises(RequestError, match=r"odd\.npz: not a chip network"):
            load(tmp_path / "odd.npz")
    np.savez_compressed(tmp_path / "odd.npz", header=np.array("x"), weight_0=np.zeros(2**29, np.int8))
    with pytest.raises(RequestError, match=r"its arrays would take 536871\d\d\d bytes; at most 268435456 are read"):
        load(tmp_path / "odd.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chip_stride0.npz", r"layer conv1: stride=\(0, 1\)"),
        ("chip_layers_empty.npz", r"layers=\[\]"),
        ("chip_scale_nan.npz", "layer conv1: scale=nan"),
    ],
)
def test_small_inputs_that_failed(name: str, message: str, shared: Path) -> None:
    path = shared / "cases" / "chip" / name
    if not path.exists():
        pytest.skip("needs the small inputs that failed, in cases/ of the reference data")
    with pytest.raises(RequestError, match=message):
        load(path)
