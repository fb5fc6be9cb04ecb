"""Labels that people have: taken as class numbers, or refused with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, from_list
from cil_spl.data.labels import class_numbers
from cil_spl.data.samples import Samples, check_samples, from_arrays

CLASSES = ("left", "right", "up")


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (
            [1, 2, 3],
            r"^r2: its label is 3; allowed are 0 to 2, .* left, right, up; these labels count from 1: subtract 1$",
        ),
        ([1.0, 2.0, 3.0], "these labels count from 1"),
        ([-1, 1, 1], r"^r0: its label is -1; .*of labels -1 and 1, \(labels > 0\) makes 0 and 1$"),
        ([0, -1, 2], r"^r1: its label is -1; .*leave out what has no class"),
        ([0, 1, 9], r"^r2: its label is 9; .*name 10 classes, or correct the label$"),
        (["left", "up", "up"], r"^r0: its label is left; .*in place of text, for example classes\.index\(label\)$"),
        (["0", "1", "2"], r"^r0: its label is 0; .*in place of text"),
        ([b"0", b"1", b"2"], "in place of text"),
        ([0, 0.5, 1], r"^r1: its label is 0\.5; .*without a fraction$"),
        ([0, float("nan"), 1], r"^r1: its label is nan; .*without a fraction$"),
        ([0, float("inf"), 1], r"^r1: its label is inf"),
        ([0, None, 1], r"^r1: its label is None"),
        ([0, "up", 1], r"^r0: its label is 0; .*in place of text|^r1"),
        ([1 + 0j, 0, 0], r"in place of complex128"),
        (np.array(["2020", "2021", "2022"], "M8[Y]"), r"in place of datetime64"),
        (np.eye(3), r"shape \[3, 3\]; needs one class number for each: \.argmax\(axis=1\)"),
        ([[0, 1], [2], [0]], "needs one class number for each"),
        (np.array([0, 1, 2**64 - 1], np.uint64), "its label is 18446744073709551615"),
    ],
)
def test_what_is_no_class_number_is_refused_with_the_remedy(labels, why):
    with pytest.raises(RequestError, match=why):
        class_numbers(labels, ["r0", "r1", "r2"], CLASSES)
    one = np.zeros(1, EVENT)
    with pytest.raises(RequestError):
        from_list([one] * 3, labels, (1, 1, 2), CLASSES)
    with pytest.raises(RequestError):
        from_arrays(np.zeros((3, 1, 2, 2)), labels, CLASSES)


@given(st.lists(st.integers(0, 2), max_size=9), st.sampled_from(["i1", "u8", ">i4", "f4", "f2", "O"]))
def test_whole_numbers_of_any_type_are_class_numbers(numbers, kind):
    found = class_numbers(np.array(numbers, kind), [str(i) for i in range(len(numbers))], CLASSES)
    assert found.dtype == np.int64
    assert found.tolist() == numbers


@pytest.mark.parametrize(("more", "what"), [(-1, "targets"), (1, "targets"), (-1, "names"), (1, "origins")])
def test_what_goes_with_samples_is_as_many(more, what):
    listed = {"targets": [0] * 4, "names": list("abcd"), "origins": list("abcd")}
    listed[what] = listed[what] * 2
    listed[what] = listed[what][: 4 + more]
    with pytest.raises(RequestError, match=f"samples: {4 + more} {what} for 4 samples; there must be one for each"):
        from_arrays(np.zeros((4, 1, 2, 2)), listed["targets"], CLASSES, listed["names"], listed["origins"])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": np.array(["a"])}, "1 of name for 2 targets"),
        ({"values": np.zeros((3, 1, 2, 2))}, "3 of values for 2 targets"),
        ({"values": np.zeros((2, 2, 2))}, "values are no array of numbers"),
        ({"row": np.array([0, 5])}, "row leads beyond its 2 values"),
        ({"row": np.array([0])}, "1 of values for 2 targets"),
        ({"target": np.array([0, 3])}, "its label is 3"),
    ],
)
def test_samples_made_by_hand_are_checked(changes, why):
    import dataclasses

    made = from_arrays(np.zeros((2, 1, 2, 2)), [0, 1], CLASSES)
    check_samples(made, "its train")
    with pytest.raises(RequestError, match=why):
        check_samples(dataclasses.replace(made, **changes), "its train")


def test_no_list_at_all():
    for wrong in (None, 3, iter([0])):
        with pytest.raises(RequestError, match="needs a list"):
            from_list([np.zeros(1, EVENT)], wrong, (1, 1, 2), CLASSES)
        with pytest.raises(RequestError, match="needs a list"):
            from_arrays(np.zeros((1, 1, 2, 2)), wrong, CLASSES)
    with pytest.raises(RequestError, match="of type list; needs an array of events"):
        from_list([[(0, 0, 0, 0)]], [0], (1, 1, 2), CLASSES)
    with pytest.raises(RequestError, match="samples: an array of <U1"):
        from_arrays([[[["a"]]]], [0], CLASSES)
    assert isinstance(from_arrays([[[[1]]]], [0], CLASSES), Samples)
