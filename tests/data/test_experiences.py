"""Data sets of samples from their config on: limits, standardising, the validation split, several experiences."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cil_spl.base.errors import RequestError
from cil_spl.data import datasets
from cil_spl.data.events import Splits
from cil_spl.data.samples import Samples, from_arrays
from cil_spl.results.same import tags_of_data

load = partial(datasets.load, extensions=[__name__])


# Sets of one's own, as a user would write them, named by this module's import path.


def images(n: int, split: str, seed: int, classes: int = 6) -> Samples:
    values = np.random.default_rng(seed).integers(0, 256, (n, 1, 4, 5)).astype(np.uint8)
    origins = [f"scene/{split}/{i}" for i in range(n)]
    return from_arrays(values, np.arange(n) % classes, "abcdef", origins, origins, scale=1 / 255)


def own(*, n: int = 120, test_split: str = "test", classes: int = 6) -> Splits:
    train = images(n, "train", 0, classes)
    return Splits(train, train.subset([]), images(24, test_split, 1))


def two(*, n: int = 60) -> tuple[Splits, ...]:
    return own(n=n), own(n=2 * n)


def numbers(*, n: int = 50) -> Splits:
    def part(size: int, seed: int) -> Samples:
        rng = np.random.default_rng(seed)
        return from_arrays(rng.random((size, 1, 4, 5)), rng.random((size, 2)), None)

    return Splits(part(n, 0), part(0, 1), part(10, 2))


def recordings() -> Splits:
    from cil_spl.data.events import EVENT, from_list

    data = from_list([np.zeros(3, EVENT)] * 12, np.arange(12) % 6, (5, 4, 1), "abcdef")
    return Splits(data, data.subset([]), data)


def config(function: str = "own", **changes: object):
    base = {"_target_": f"{__name__}.{function}", "name": function, "input_shape": [1, 4, 5], "n_classes": 6}
    return OmegaConf.merge(OmegaConf.create(base), changes)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def test_a_set_of_ones_own() -> None:
    (splits,) = load(config())
    assert [len(splits.train), len(splits.val), len(splits.test)] == [108, 12, 24]
    assert np.bincount(splits.val.target).tolist() == [2] * 6
    assert splits.outputs is None
    (other,) = load(config(), seed=1)
    assert other.val.name.tolist() != splits.val.name.tolist()
    assert datasets.input_shape(config()) == splits.train.input_shape


def test_limits_keep_proportions_and_the_test_set_is_the_same_for_every_seed() -> None:
    (a,), (b,) = (load(config(n_train=60, n_test=12), seed=seed) for seed in (0, 1))
    for one in (a, b):
        drawn = np.concatenate([one.train.target, one.val.target])
        assert np.bincount(drawn).tolist() == [10] * 6
        assert np.bincount(one.test.target).tolist() == [2] * 6
    assert {*a.train.name, *a.val.name} != {*b.train.name, *b.val.name}
    assert a.test.name.tolist() == b.test.name.tolist()


def test_standardised_with_the_whole_training_set() -> None:
    (plain,) = load(config())
    (splits,) = load(config(standardise=True, n_train=30))
    values = np.concatenate([part.take(np.arange(len(part))) for part in (plain.train, plain.val)])
    expected = (plain.test[3] - values.mean()) / values.std()
    np.testing.assert_allclose(splits.test[3], expected, rtol=1e-4, atol=1e-5)


def test_a_test_set_from_elsewhere_is_standardised_like_the_training_set() -> None:
    (splits,) = load(config(standardise=True), config(split="test", test_split="another", standardise=False))
    (own_test,) = load(config(standardise=True))
    np.testing.assert_array_equal(splits.test[5], own_test.test[5])
    assert splits.test.origin[5] == "scene/another/5"
    everything = config(split="all", test_split="another", n=12)
    (splits,) = load(config(exclude_indices="test_dataset"), everything)
    assert [len(splits.train) + len(splits.val), len(splits.test)] == [108, 36]


def test_leaks_are_refused_and_left_out_by_name() -> None:
    with pytest.raises(RequestError, match="24 of 120 training samples show"):
        load(config(test_split="train"))
    (splits,) = load(config(test_split="train", exclude_indices="test_dataset"))
    assert len(splits.train) + len(splits.val) == 96
    (splits,) = load(config(exclude_indices=["train/5", 7]))
    assert len(splits.train) + len(splits.val) == 118


def test_validation_is_drawn_at_random_where_there_are_no_classes() -> None:
    (a,), (b,) = (load(config("numbers", n_classes=None, n_train=40, n_test=5), seed=seed) for seed in (0, 1))
    assert [len(a.train), len(a.val), len(a.test)] == [36, 4, 5]
    assert a.val.target.shape == (4, 2)
    assert a.val.name.tolist() != b.val.name.tolist()


@pytest.mark.parametrize("outputs", ["own", "all"])
def test_classes_in_groups(outputs: str) -> None:
    first, second = load(config(split_classes=[[0, 3], [5, 1]], outputs=outputs))
    (whole,) = load(config())
    for splits, classes in ((first, (0, 3)), (second, (5, 1))):
        assert splits.outputs == (classes if outputs == "own" else None)
        for name in ("train", "val", "test"):
            part, all_of_them = getattr(splits, name), getattr(whole, name)
            expected = all_of_them.name[np.isin(all_of_them.target, classes)]
            assert part.name.tolist() == expected.tolist()
            assert part.classes == tuple("abcdef")  # numbers stay those of the whole


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["own", "all"]),
)
def test_groups_part_the_classes_or_are_refused(groups: list[list[int]], outputs: str) -> None:
    flat = [k for group in groups for k in group]
    sound = max(flat) < 6 and len(set(flat)) == len(flat) and (outputs == "all" or min(map(len, groups)) > 1)
    if not sound:
        with pytest.raises(RequestError, match=r"dataset\.split_classes="):
            datasets.check_dataset(config(split_classes=groups, outputs=outputs), extensions=[__name__])
        return
    experiences = load(config(split_classes=groups, outputs=outputs))
    seen = [set(splits.train.target.tolist()) for splits in experiences]
    assert seen == [set(group) for group in groups]
    names = [name for splits in experiences for name in splits.train.name.tolist()]
    assert len(names) == len(set(names))


def test_permuted_pixels() -> None:
    experiences = load(config(permutations=3))
    (plain,) = load(config())
    assert len(experiences) == 3
    orders = []
    for number, splits in enumerate(experiences):
        assert splits.outputs is None
        for name in ("train", "val", "test"):
            part, whole = getattr(splits, name), getattr(plain, name)
            assert part.name.tolist() == whole.name.tolist()
            assert part.target.tolist() == whole.target.tolist()
            order = np.arange(20) if part.order is None else part.order
            np.testing.assert_array_equal(part[2].ravel(), whole[2].ravel()[order])
            assert sorted(order.tolist()) == list(range(20))
            orders.append((number, tuple(order.tolist())))
    assert len(set(orders)) == len({order for _, order in orders}) == 3  # one for all parts, another in each
    assert orders[0][1] == tuple(range(20))
    again, other = (load(config(permutations=2, permutation_seed=seed), seed=9)[1] for seed in (0, 1))
    assert again.test.order.tolist() == list(orders[3][1])  # whatever the run's seed
    assert other.test.order.tolist() != again.test.order.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [4, 5]}, r"dataset\.input_shape=\[4,5\]: needs \[channels, height, width\]"),
        ({"input_shape": [1, 5, 4]}, r"dataset\.input_shape=\[1,5,4\]: the samples are of \[1,4,5\]"),
        ({"n_classes": 5}, r"dataset\.n_classes=5: the samples have 6"),
        ({"n_classes": None}, r"dataset\.n_classes=null: the samples have 6"),
        ({"n_train": 0}, r"dataset\.n_train=0: must be at least 1"),
        ({"n_train": 121}, r"dataset\.n_train=121: there are 120"),
        ({"n_test": 25}, r"dataset\.n_test=25: there are 24"),
        ({"standardise": "yes please"}, r"dataset\.standardise=yes please: needs true or false"),
        ({"preprocess": {"pool": 2}}, r"dataset\.preprocess=\{pool: 2\}: no such key"),
        ({"augment": {"shift": 1}}, r"dataset\.augment\.shift=1: no such key"),
        ({"split_classes": [[0, 1], [1, 2]]}, r"dataset\.split_classes=.*class 1 stands there twice"),
        ({"split_classes": [[0, 6]]}, r"there is no class 6; allowed are 0 to 5"),
        ({"split_classes": [[0, 1], []]}, r"dataset\.split_classes="),
        ({"split_classes": [[0, 1], [2]]}, r"dataset\.outputs=own a group needs at least 2 classes"),
        ({"split_classes": [[0, 1]], "permutations": 2}, r"dataset\.permutations=2: dataset\.split_classes makes"),
        ({"split_classes": [[4, 5]], "classes": 5}, r"dataset\.split_classes: class 5 has no training samples"),
        ({"permutations": 0}, r"dataset\.permutations=0: must be at least 1"),
        ({"outputs": "some"}, r"dataset\.outputs=some: .*allowed are own, all"),
        ({"exclude_indices": [f"train/{i}" for i in range(120)]}, "no training samples"),
    ],
)
def test_bad_configs_name_the_key(changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(config(**changes))


def test_a_set_of_the_other_kind_than_its_config_says() -> None:
    with pytest.raises(RequestError, match=r"dataset\.input_shape=\[1,4,5\]: the data set gives Recordings"):
        load(config("recordings"))
    of_recordings = {"_target_": f"{__name__}.own", "name": "own", "sensor_size": [5, 4, 1], "n_classes": 6}
    with pytest.raises(RequestError, match=r"dataset\.sensor_size=\[5,4,1\]: the data set gives Samples"):
        load(OmegaConf.create(of_recordings))
    with pytest.raises(RequestError, match="test_dataset=own gives events, dataset=own values"):
        load(config(), OmegaConf.create(of_recordings))


def test_a_set_of_several_experiences_is_not_parted_again() -> None:
    assert [len(splits.train) + len(splits.val) for splits in load(config("two"))] == [60, 120]
    with pytest.raises(RequestError, match=r"dataset\.permutations=2: two has 2 experiences"):
        load(config("two", permutations=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [1, 5, 5]}, r"test_dataset\.input_shape=\[1,5,5\]: dataset\.input_shape is \[1,4,5\]"),
        ({"n_classes": 7}, r"test_dataset\.n_classes=7: dataset\.n_classes is 6"),
        ({"split_classes": [[0, 9]]}, r"test_dataset\.split_classes="),
        ({"n": "x"}, r"test_dataset\.n=x"),
    ],
)
def test_bad_test_sets_name_the_key(changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(config(), config(test_split="other", **changes))


def test_what_data_were_drawn_from_is_the_same_for_all_seeds():
    (first,) = load(config(n_train=60), seed=0)
    (other,) = load(config(n_train=60), seed=1)
    assert first.drawn_from
    assert first.drawn_from == other.drawn_from
    assert set(first.train.name) != set(other.train.name)
    assert load(config(n_train=60, n=108))[0].drawn_from != first.drawn_from
    assert load(config(n_train=60, exclude_indices=["train/5"]))[0].drawn_from != first.drawn_from
    parts = load(config(n_train=60, split_classes=[[0, 1, 2], [3, 4, 5]]))
    assert [part.drawn_from for part in parts] == [first.drawn_from] * 2
    tags = tags_of_data([first])
    assert tags["data_drawn_from"] == tags_of_data([other])["data_drawn_from"]
    assert tags["data_all"] != tags_of_data([other])["data_all"]
