"""Which networks are chains."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import networks

from cil_spl.chip.network import ChipNetwork, Destination


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
