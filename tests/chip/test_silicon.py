"""The rules of the chip against what a real Speck 2f answered."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.slow
def test_recordings_are_read_as_tonic_reads_them(shared: Path) -> None:
    tonic_io = pytest.importorskip("tonic.io")
    path = shared / "data" / "NMNIST" / "Test" / "1" / "00003.bin"
    other = tonic_io.read_mnist_file(str(path), dtype=np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]))
    mine = silicon.read_recording(path)
    for field in ("x", "y", "t", "p"):
        np.testing.assert_array_equal(mine[field], other[field])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cnn_sinabs\.nir: no such file"):
        silicon.load(tmp_path, tmp_path)
    (tmp_path / "cut.bin").write_bytes(bytes(7))
    with pytest.raises(RequestError, match="7 bytes, not a whole number of 5-byte events"):
        silicon.read_recording(tmp_path / "cut.bin")
