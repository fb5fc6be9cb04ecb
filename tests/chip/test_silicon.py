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
