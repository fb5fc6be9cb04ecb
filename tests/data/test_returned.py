"""What a data set of the user's own may return: parts that belong together, or a message."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, check_recordings, from_list
from cil_spl.data.samples import check_samples, from_arrays

RECORDINGS = from_list([np.zeros(3, EVENT)] * 2, [0, 1], (8, 8, 2), ("a", "b"))
SAMPLES = from_arrays(np.zeros((2, 1, 3, 3), np.uint8), [0, 1], ("a", "b"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("events", [1, 2], "mine: events are of type list; needs a flat array of"),
        ("events", np.zeros((3, 2), EVENT), "mine: events are of"),
        ("start", 5.0, "mine: start is of type float; needs an array of shape (1,)"),
        ("start", np.array([0.0, 3.0]), "mine: start is an array of float64; see from_list"),
        ("stop", np.array([3]), "mine: stop is of shape (1,); needs an array of shape (2,)"),
        ("name", np.array([0, 1]), "mine: name is an array of int64; see from_list"),
        ("origin", None, "mine: origin is of type NoneType"),
        ("sensor_size", (8, 8.5, 2), "sensor_size=(8, 8.5, 2): needs (width, height, polarities)"),
        ("sensor_size", float("inf"), "sensor_size=inf: needs"),
        ("classes", 5, "mine: classes: of type int; needs a list of texts"),
        ("classes", ("a", None), "mine: classes: None is of type NoneType; needs a list of texts"),
    ],
    ids=str,
)
def test_odd_parts_of_recordings_are_named(field, value, message):
    check_recordings(RECORDINGS, "mine")
    with pytest.raises(RequestError) as caught:
        check_recordings(replace(RECORDINGS, **{field: value}), "mine")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("values", np.array("x"), "mine: values are no array of numbers"),
        ("target", np.array(3), "mine: target is no array of numbers"),
        ("target", [0, 1], "mine: target is no array of numbers"),
        ("name", np.array("x"), "mine: name is no flat array"),
        ("origin", np.array([0, 1]), "mine: origin is no flat array"),
        ("row", np.array([0.0, 1.0]), "mine: row is no flat array"),
        ("row", np.array([0, 2]), "mine: row leads beyond its 2 values"),
        ("scale", 1.0, "mine: scale, shift or unit is no tuple of one number, or of one for each channel"),
        ("shift", (float("nan"),), "mine: scale, shift or unit is no tuple"),
        ("scale", (1.0, 1.0), "mine: scale, shift or unit is no tuple"),
        ("unit", ((1.0,),), "mine: scale, shift or unit is no tuple"),
        ("order", np.zeros(9, int), "mine: order is no array with each of the 9 pixels once"),
        ("classes", "ab", "mine: classes: of type str; needs a list of texts"),
    ],
    ids=str,
)
def test_odd_parts_of_samples_are_named(field, value, message):
    check_samples(SAMPLES, "mine")
    check_samples(replace(SAMPLES, unit=((1.0,), (0.0,)), order=np.arange(9)[::-1]), "mine")
    with pytest.raises(RequestError) as caught:
        check_samples(replace(SAMPLES, **{field: value}), "mine")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": 5}, "from_list: names: of type int; needs a list of texts, one for each"),
        ({"names": np.array("x")}, "from_list: names: of type ndarray"),
        ({"names": [["a"], ["b"]]}, "from_list: names: ['a'] is of type list; needs a list of texts"),
        ({"classes": {"a": 0}}, "from_list: classes: of type dict"),
        ({"target": [10**400, 0]}, "recording 0: its label is 1000"),
        ({"sensor_size": None}, "sensor_size=None: needs (width, height, polarities)"),
        ({"sensor_size": (8.0, 8, 2)}, "sensor_size=(8.0, 8, 2): needs (width, height, polarities), whole numbers"),
    ],
    ids=str,
)
def test_odd_arguments_are_named(options, message):
    given = {"recordings": [np.zeros(3, EVENT)] * 2, "target": [0, 1], "sensor_size": (8, 8, 2), "classes": ("a", "b")}
    with pytest.raises(RequestError) as caught:
        from_list(**given | options)
    assert str(caught.value).startswith(message)


def test_a_size_in_a_list_is_kept_as_one_of_whole_numbers():
    made = from_list([np.zeros(3, EVENT)], [0], [np.int64(8), 8, 2], range(2))
    assert (made.sensor_size, made.classes) == ((8, 8, 2), ("0", "1"))
