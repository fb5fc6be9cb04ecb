"""The rules of the chip against what a real Speck 2f answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.chip import silicon
from cil_spl.chip.silicon import Silicon


@pytest.fixture(scope="module")
def real(shared: Path) -> Silicon:
    return silicon.load(shared / "data" / "speck2f", shared / "data" / "NMNIST")


def test_scale_and_threshold_are_those_of_the_vendor(real: Silicon) -> None:
    layer = real.network().layers[0]
    assert round(layer.scale, 2) == 71.54
    assert (layer.threshold, layer.min_v_mem, layer.weight.min()) == (72, -72, -128)


def test_we_answer_as_the_chip(real: Silicon) -> None:
    found = silicon.replay(real.network(), real)
    digit_1 = found.one(found.names.index("Test/1/00003.bin"))
    assert digit_1.exact == 1.0
    assert digit_1.ours.size == 4096
    assert found.difference <= 0.010
    assert found.exact > 0.97


@pytest.mark.slow
def test_every_other_rule_fits_worse(real: Silicon) -> None:
    rows = silicon.alternatives(real)
    rules = rows.pop("the rules of the chip")
    # The published layer has no weight above its threshold, so one event never brings a neuron to two spikes.
    assert rows.pop("all spikes at once").difference == rules.difference
    for name, other in rows.items():
        assert other.difference > rules.difference, name


def test_step_by_step_is_the_simulator(real: Silicon) -> None:
    one = Silicon(real.layers, real.input_shape, real.names[1:2], real.recordings[1:2], real.counts[1:2])
    layer = real.network().layers[0]
    np.testing.assert_array_equal(silicon._step_by_step(layer, one).ours, silicon.replay(real.network(), one).ours)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cnn_sinabs\.nir: no such file"):
        silicon.load(tmp_path, tmp_path)


def test_a_damaged_recording_is_named(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"00004\.bin: no such file; chip verify needs the recordings"):
        silicon.load(shared / "data" / "speck2f", tmp_path)
    cut = tmp_path / "Test" / "0" / "00004.bin"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(bytes(7))
    with pytest.raises(RequestError, match=r"00004\.bin: 7 bytes, not a whole number of 5-byte events"):
        silicon.load(shared / "data" / "speck2f", tmp_path)
    cut.write_bytes(bytes([34, 1, 0, 0, 5]))
    with pytest.raises(RequestError, match=r"00004\.bin: event 0 has x=34"):
        silicon.load(shared / "data" / "speck2f", tmp_path)


# Counts that are damaged, or of something else


def counts(**changes: Any) -> dict[str, Any]:
    whole = {"recording": np.array(["Test/0/1.bin", "Test/1/2.bin"]), "counts": np.ones((2, 3, 4, 4), np.uint16)}
    return {name: value for name, value in (whole | changes).items() if value is not None}


def test_counts_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **counts(digit=np.zeros(2)))
    names, found = silicon.read_counts(tmp_path / "a.npz")
    assert names == ("Test/0/1.bin", "Test/1/2.bin")
    assert (found.dtype, found.shape, found.sum()) == (np.int64, (2, 3, 4, 4), 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recording": None}, "recording is missing, it holds counts"),
        ({"counts": None}, "counts is missing, it holds recording"),
        ({"recording": np.array(["a"])}, "recording names 1, counts has 2 maps"),
        ({"recording": np.array([1, 2])}, r"recording is int64 \(2,\), needed is a list of names"),
        ({"recording": np.array("a")}, "recording is <U1"),
        ({"recording": np.array(["a", "a"])}, "recording 'a', needed are paths .* each once"),
        ({"recording": np.array(["a", "../b"])}, r"recording '\.\./b', needed are paths below"),
        ({"recording": np.array(["a", "/etc/passwd"])}, "recording '/etc/passwd'"),
        ({"recording": np.array(["a", ""])}, "recording ''"),
        ({"recording": np.array(["a", "b" * 300])}, "recording 'b"),
        ({"recording": np.array(["a", "b\nc"])}, "recording 'b"),
        ({"recording": np.array(["a", "b"], object)}, "object in place of numbers or text"),
        ({"counts": np.ones((2, 3, 4, 4))}, r"counts is float64 .*, needed are whole numbers"),
        ({"counts": np.full((2, 3, 4, 4), np.nan)}, "counts is float64"),
        ({"counts": np.ones((2, 3, 4), int)}, "needed are whole numbers"),
        ({"counts": np.ones((0, 3, 4, 4), int)}, "recording names 2|needed are whole numbers"),
        ({"counts": -np.ones((2, 3, 4, 4), int)}, "counts holds -1, allowed is 0"),
        ({"counts": np.full((2, 3, 4, 4), 2**63, np.uint64)}, "counts holds 9223372036854775808"),
        ({"counts": np.zeros((2, 3, 4, 4), int)}, "counts are all 0"),
    ],
    ids=range(19),
)
def test_odd_counts_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **counts(**changes))
    with pytest.raises(RequestError, match=rf"a\.npz: .*({message})") as caught:
        silicon.read_counts(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_counts_cut_short_or_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez(path, **counts(counts=rng.integers(0, 9, (2, 3, 4, 4))))
    whole = path.read_bytes()
    for cut in rng.integers(0, len(whole), 50).tolist():
        path.write_bytes(whole[:cut])
        with pytest.raises(RequestError, match=r"a\.npz: not an \.npz archive of counts, or damaged"):
            silicon.read_counts(path)
    same = silicon.read_counts
    np.savez(path, **counts(counts=rng.integers(0, 9, (2, 3, 4, 4))))
    whole, expected = path.read_bytes(), same(path)
    for place in rng.integers(0, len(whole), 300).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = same(path)
        except RequestError:
            continue
        assert found[0] == expected[0]  # what the archive's checksums leave out is no part of the arrays
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_network_of_another_shape_is_named(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "speck2f"
    (tmp_path / silicon.NETWORK).write_bytes((folder / silicon.NETWORK).read_bytes())
    np.savez(tmp_path / silicon.COUNTS, **counts())
    message = r"counts has the shape \(2, 3, 4, 4\); needed is one map \(16, 16, 16\) per recording, as layer 0 of"
    with pytest.raises(RequestError, match=message):
        silicon.load(tmp_path, shared / "data" / "NMNIST")


def test_other_rules_keep_what_happens_after_a_spike(real: Silicon) -> None:
    """A network that returns to a value, step by step in numpy and on the simulated chip."""
    layers = [replace(real.layers[0], reset="zero", v_init=0.5, threshold=1.5, min_v_mem=-0.5)]
    one = Silicon(layers, real.input_shape, real.names[:1], [real.recordings[0][:500]], real.counts[:1])
    found = silicon._step_by_step(one.network().layers[0], one).ours
    np.testing.assert_array_equal(found, silicon.replay(one.network(), one).ours)
    assert found.any()
