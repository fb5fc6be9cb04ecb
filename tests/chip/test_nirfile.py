"""NIR: what is written comes back as the same integers, and what it cannot say is said."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip import nirfile
from cil_spl.chip.network import ChipNetwork, Destination


def chain() -> ChipNetwork:
    """Two layers whose weights reach the end of 8 bits, so that the scale of the file is the one they came with."""
    rng = np.random.default_rng(0)
    weight = [rng.integers(-100, 128, (4, 2, 3, 3)), rng.integers(-100, 128, (3, 4, 4, 4))]
    for w in weight:
        w.flat[0] = 127
    a = networks.layer(weight[0], (2, 8, 8), padding=(1, 1), threshold=90, min_v_mem=-45, name="conv")
    b = networks.layer(weight[1], (4, 4, 4), threshold=60, min_v_mem=-60, name="out")
    a = replace(a, scale=45.0, destinations=(Destination(1, (2, 2)),))
    return ChipNetwork((a, replace(b, scale=30.0)), (2, 8, 8))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    network = chain()
    warnings = nirfile.write(network, tmp_path / "a.nir")
    assert len(warnings) == 2
    again = nirfile.read(tmp_path / "a.nir")
    for mine, other in zip(network.layers, again.layers, strict=True):
        np.testing.assert_array_equal(mine.weight, other.weight)
        for name in ("name", "stride", "padding", "input_shape", "threshold", "min_v_mem", "destinations"):
            assert getattr(mine, name) == getattr(other, name), name
        assert abs(mine.scale - other.scale) < 1e-4


def test_the_published_network_is_read(shared: Path) -> None:
    network = nirfile.read(shared / "data" / "speck2f" / "cnn_sinabs.nir")
    assert [layer.output_shape for layer in network.layers] == [
        (16, 16, 16), (16, 16, 16), (8, 8, 8), (256, 1, 1), (10, 1, 1),
    ]  # fmt: skip
    assert [layer.destinations[0].pool for layer in network.layers[:-1]] == [(1, 1), (2, 2), (2, 2), (1, 1)]


def test_what_nir_or_the_chip_cannot_say_is_refused(tmp_path: Path) -> None:
    network = chain()
    zero = replace(network, layers=(replace(network.layers[0], reset="zero"), network.layers[1]))
    with pytest.raises(RequestError, match="layer conv: NIR's integrate-and-fire subtracts"):
        nirfile.write(zero, tmp_path / "a.nir")
    with pytest.raises(RequestError, match="only chains"):
        nirfile.write(networks.random_graph(np.random.default_rng(0)), tmp_path / "a.nir")
    shifted = replace(network.layers[0], destinations=(Destination(1, (2, 2), feature_shift=1),))
    wider = networks.layer(np.ones((3, 5, 4, 4)), (5, 4, 4), name="out")
    with pytest.raises(RequestError, match="layer conv: NIR has no feature shift"):
        nirfile.write(replace(network, layers=(shifted, wider)), tmp_path / "a.nir")
    (tmp_path / "b.nir").write_text("hello")
    with pytest.raises(RequestError, match=r"b\.nir: not a NIR file"):
        nirfile.read(tmp_path / "b.nir")
    nirfile.write(network, tmp_path / "a.nir")
    graph = nir.read(tmp_path / "a.nir")
    graph.nodes["conv"].bias = np.ones(4, np.float32)
    nir.write(tmp_path / "bias.nir", graph)
    graph.nodes["conv"].bias[:], graph.nodes["conv"].weight[0, 0, 0, 0] = 0, np.nan
    nir.write(tmp_path / "nan.nir", graph)
    with pytest.raises(RequestError, match=r"node conv .*a weight is not a finite number"):
        nirfile.read(tmp_path / "nan.nir")
    with pytest.raises(RequestError, match=r"node conv .*has a bias"):
        nirfile.read(tmp_path / "bias.nir")
