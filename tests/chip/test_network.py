"""Which networks are chains."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.base.errors import RequestError
from cil_spl.chip import placement
from cil_spl.chip.network import CORES, ChipNetwork, Destination, check_network
from cil_spl.chip.program import program_of


def wired(*to: tuple[int, ...]) -> ChipNetwork:
    layers = (
        replace(
            networks.layer(np.ones((1, 1, 1, 1)), (1, 1, 1), name=name), destinations=tuple(Destination(k) for k in ks)
        )
        for name, ks in zip("abc", to, strict=False)
    )
    return ChipNetwork(tuple(layers), (1, 1, 1))


@pytest.mark.parametrize(
    ("to", "branch"),
    [
        (((1,), (2,), ()), None),
        (((),), None),
        (((1, 2), (2,), ()), "a"),  # two destinations
        (((1, 1), (2,), ()), "a"),
        (((2,), (2,), ()), "a"),  # one left out
        (((1,), (), ()), "b"),  # read out before the end
        (((1,), (2,), (0,)), "c"),  # the last one sends
    ],
)
def test_a_chain_sends_to_the_next_layer_alone(to: tuple[tuple[int, ...], ...], branch: str | None) -> None:
    network = wired(*to)
    assert network.is_chain == (branch is None)
    assert (network.branch.name if network.branch else None) == branch


# What every reader of a chip network asks


def diamond() -> ChipNetwork:
    """Two layers, the second read out at two of its three features."""
    first = networks.layer(np.ones((4, 2, 3, 3)), (2, 8, 8), name="first", destinations=(Destination(1, (2, 2)),))
    last = networks.layer(np.ones((3, 4, 3, 3)), (4, 3, 3), name="last")
    return ChipNetwork((first, last), (2, 8, 8), (0, 2))


def test_a_sound_network_passes() -> None:
    check_network(diamond())
    check_network(replace(diamond(), readout=None))


NAN, INF = float("nan"), float("inf")
ODD: list[tuple[dict[str, object], str]] = [
    ({"stride": (0, 1)}, r"stride=\(0, 1\); needed are 2 whole numbers, each 1\.\."),
    ({"stride": (1.5, 1)}, r"stride=\(1\.5, 1\); needed are 2 whole"),
    ({"stride": (1,)}, "stride="),
    ({"stride": (10**30, 1)}, "stride="),
    ({"padding": (-1, 0)}, r"padding=\(-1, 0\)"),
    ({"padding": (True, 0)}, "padding="),
    ({"padding": (4096, 4096)}, r"are \d+ neurons; allowed are at most 16777216"),
    ({"input_shape": (2, 8, 0)}, "input_shape="),
    ({"input_shape": (2, -8, 8)}, "input_shape="),
    ({"input_shape": (3, 8, 8)}, "weight takes 2 features, input_shape has 3"),
    ({"input_shape": (2, 2, 8)}, "its map would be"),
    ({"input_shape": (2, 9, 8)}, r"input \(2, 8, 8\) is not layer 0's"),
    ({"weight": np.ones((4, 2, 3, 3), np.float32)}, "weight is float32"),
    ({"weight": np.ones((4, 2, 3), np.int8)}, "weight is int8 \\(4, 2, 3\\)"),
    ({"weight": np.ones((0, 2, 3, 3), np.int8)}, "weight is int8 \\(0, 2, 3, 3\\)"),
    ({"weight": None}, "weight is NoneType"),
    ({"weight": np.ones((5, 2, 3, 3), np.int8)}, "its 5 features, shifted by 0, are not among the 4"),
    ({"weight": np.ones((3, 2, 3, 3), np.int8)}, "layer last: it takes 4 features, but is fed 3"),
    ({"threshold": 0}, r"threshold=0; allowed is 1\.\.32767"),
    ({"threshold": 99.5}, r"threshold=99\.5; allowed is 1\.\.32767, whole numbers"),
    ({"threshold": INF}, "threshold=inf"),
    ({"threshold": NAN}, "threshold=nan"),
    ({"threshold": None}, "threshold=None"),
    ({"min_v_mem": 1}, r"min_v_mem=1; allowed is -32768\.\.0"),
    ({"min_v_mem": -32769}, "min_v_mem=-32769"),
    ({"v_init": 100}, r"v_init=100; allowed is -100\.\.99"),
    ({"v_init": 0.5}, "v_init=0.5"),
    ({"reset": "none"}, "reset=none; allowed are subtract and zero"),
    ({"scale": NAN}, "scale=nan; needed is a finite number above 0"),
    ({"scale": INF}, "scale=inf"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"scale": -1.0}, "scale=-1.0"),
    ({"scale": "1"}, "scale=1;"),
    ({"core": 9}, r"core=9; allowed is 0\.\.8"),
    ({"core": -1}, "core=-1"),
    ({"name": ""}, "name=; needed is a text"),
    ({"name": None}, "name=None"),
    ({"destinations": (Destination(1, (3, 3)),)}, r"pool=\(3, 3\); allowed are 1, 2 and 4"),
    ({"destinations": (Destination(1, (0, 2)),)}, "pool="),
    ({"destinations": (Destination(2, (2, 2)),)}, r"feeds layer 2; allowed is 1\.\.1"),
    ({"destinations": (Destination(-1, (2, 2)),)}, "feeds layer -1"),
    ({"destinations": (Destination(0, (2, 2)),)}, "feeds layer 0"),
    ({"destinations": (Destination(1),)}, r"its pooled map is \(6, 6\), layer last takes \(3, 3\)"),
    ({"destinations": (Destination(1, (2, 2), 1),)}, "its 4 features, shifted by 1, are not among the 4"),
    ({"destinations": (Destination(1, (2, 2), -1),)}, "shifted by -1"),
    ({"destinations": ()}, "layer last: no layer feeds it"),
    ({"destinations": (Destination(1, (2, 2)),) * 3}, "3 destinations; a core feeds at most 2"),
]


@pytest.mark.parametrize(("changes", "message"), ODD, ids=range(len(ODD)))
def test_what_no_chip_could_run_is_named(changes: dict[str, object], message: str) -> None:
    network = diamond()
    odd = replace(network, layers=(replace(network.layers[0], **changes), network.layers[1]))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=f"^chip network: .*{message}"):
        check_network(odd)


@pytest.mark.parametrize("readout", [(-1, -1), (-1, 0), (0, 0), (0, 3), (), (0.5,), (True,), (None,)])
def test_a_readout_beside_the_output_is_named(readout: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"readout=.* a feature of layer last for each class, .* from 0 to 2"):
        check_network(replace(diamond(), readout=readout))
    with pytest.raises(RequestError, match="layer first ends in a map"):
        check_network(ChipNetwork((replace(diamond().layers[0], destinations=()),), (2, 8, 8), (0,)))


def test_a_network_without_layers_is_named() -> None:
    with pytest.raises(RequestError, match="it has no layers"):
        check_network(ChipNetwork((), (2, 8, 8)))


def test_there_are_as_many_cores_here_as_in_placement() -> None:
    assert len(placement.CORES) == CORES


def test_a_kernel_that_would_fill_the_memory_is_refused_before() -> None:
    """One megabyte of weights, whose table for the simulator would take hundreds of gigabytes."""
    layer = networks.layer(np.ones((1, 1, 1000, 1000)), (1, 2000, 2000), name="wide")
    with pytest.raises(RequestError, match="layer wide: a kernel of 1000 x 1000 over 1 features takes"):
        program_of(ChipNetwork((layer,), (1, 2000, 2000)))
