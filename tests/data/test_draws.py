"""Random numbers in compiled code are those of numpy, for the same seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.data import draws
from cil_spl.data.augment_compiled import draws_of_place

WORD = st.integers(0, 2**32 - 1)


def begun(words: list[int]) -> np.ndarray:
    state = np.zeros(draws.STATE, np.uint64)
    draws.seeded(np.array(words, np.uint64), state)
    return state


@given(st.lists(WORD, min_size=1, max_size=7))
def test_numbers_from_0_to_1(seed: list[int]) -> None:
    state, reference = begun(seed), np.random.default_rng(seed)
    assert [draws.random(state) for _ in range(20)] == reference.random(20).tolist()


@given(st.lists(WORD, min_size=1, max_size=4), st.integers(0, 2**31), st.integers(1, 30))
def test_whole_numbers_then_others(seed: list[int], most: int, many: int) -> None:
    """An odd number of them leaves half a word; rare ones are drawn again."""
    state, reference = begun(seed), np.random.default_rng(seed)
    ours = [draws.integer(state, -most, most) for _ in range(many)] if 2 * most < 2**32 - 1 else []
    theirs = reference.integers(-most, most + 1, many).tolist() if ours else []
    assert ours == theirs
    assert draws.random(state) == reference.random()


@given(st.lists(WORD, min_size=1, max_size=6), st.integers(0, 3))
def test_a_child_of_a_generator(seed: list[int], number: int) -> None:
    filled = seed + [0] * (4 - len(seed))
    child = np.random.default_rng(seed).spawn(number + 1)[number]
    state = begun([*filled, number])
    assert [draws.random(state) for _ in range(5)] == child.random(5).tolist()


@given(st.lists(st.tuples(WORD, WORD, WORD), min_size=1, max_size=5), st.integers(0, 64))
def test_where_a_recording_goes(seeds: list[tuple[int, int, int]], most: int) -> None:
    shift, turn = draws_of_place(np.array(seeds, np.uint64), most)
    for b, seed in enumerate(seeds):
        reference = np.random.default_rng(list(seed))
        assert shift[b].tolist() == reference.integers(-most, most + 1, 2).tolist()
        assert turn[b] == reference.uniform(-1, 1)
