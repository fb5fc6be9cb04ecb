"""What a run that goes on has in common with the one that was begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from cil_spl.base.errors import RequestError
from cil_spl.results.resumption import MIXED, taken_over

TAGS = {"data": "t1", "data_all": "a1", "sources": "s1", "backend": "simulator"}


def test_other_data_are_refused():
    with pytest.raises(RequestError, match=r"training or validation data differ, data_all a1 is now a2"):
        taken_over(Path("run"), TAGS, TAGS | {"data_all": "a2"}, None)
    with pytest.raises(RequestError, match=r"begun with other data .*data t1 is now t2.* start_from"):
        taken_over(Path("run"), TAGS, TAGS | {"data": "t2", "data_all": "a2"}, None)
    assert taken_over(Path("run"), {}, TAGS, None) == (TAGS, None)  # of an earlier version


def test_other_code_is_told_and_never_passes_for_one_of_both():
    found, warning = taken_over(Path("run"), TAGS, TAGS | {"sources": "s2"}, None)
    assert (found["sources"], warning) == ("s1, s2", MIXED)
    again, warning = taken_over(Path("run"), found, TAGS | {"sources": "s2"}, None)
    assert (again["sources"], warning) == ("s1, s2", MIXED)
    assert taken_over(Path("run"), TAGS, TAGS, None) == (TAGS, None)


def test_an_extension_is_known_as_one():
    found, _ = taken_over(Path("run"), TAGS, TAGS, 4)
    assert found["extended_from"] == "4"
    assert taken_over(Path("run"), found, TAGS, 8)[0]["extended_from"] == "4, 8"
    assert "extended_from" not in taken_over(Path("run"), TAGS, TAGS, None)[0]
