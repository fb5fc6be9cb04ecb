"""The tables of the last networks are kept, and never mistaken for another's."""

from __future__ import annotations

from dataclasses import replace

import networks
import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.chip import program
from cil_spl.chip.die import Die
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.program import program_of
from cil_spl.chip.simulator import simulate


def network() -> ChipNetwork:
    return networks.active_chain(np.random.default_rng(5))


def test_the_tables_of_a_network_and_of_an_equal_one_are_made_once() -> None:
    first = program_of(network())
    assert program_of(network()) is first
    on_a_die = program_of(network(), Die(dead=0.5))
    assert on_a_die is not first
    assert program_of(network(), Die(dead=0.5)) is on_a_die
    assert program_of(network(), Die(dead=0.5, seed=1)) is not on_a_die
    assert program_of(network()) is first


def test_weights_changed_in_place_are_another_network() -> None:
    one = network()
    events, offsets = networks.joined([networks.recording(np.random.default_rng(1), one, 300)])
    assert simulate(one, events, offsets).events_per_layer.min() > 0
    one.layers[1].weight[:] = -1
    assert simulate(one, events, offsets).events_per_layer[0, 1] == 0


def test_what_a_kept_program_holds_is_its_own() -> None:
    one = network()
    kept = program_of(one)
    one.layers[0].weight[:] = 0
    assert program_of(network()) is kept
    assert kept.network.layers[0].weight.any()


def test_only_the_last_few_are_kept() -> None:
    first = program_of(network())
    for threshold in range(1, program.KEPT + 1):
        one = network()
        program_of(replace(one, layers=(one.layers[0], replace(one.layers[1], threshold=threshold))))
    assert program_of(network()) is not first


def test_a_refused_network_is_refused_again() -> None:
    one = network()
    wrong = replace(one, layers=(one.layers[0], replace(one.layers[1], threshold=0)))
    for _ in range(2):
        with pytest.raises(RequestError, match="threshold=0"):
            program_of(wrong)
