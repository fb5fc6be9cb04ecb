"""A short form of ``make fuzz``: a few cases of every kind, and that the judge of cases can find fault."""

from __future__ import annotations

import random
import time

import pytest

from cil_spl.base.errors import RequestError
from cil_spl.base.files import warn_once
from tests.fuzz import damage, driver, figures, kinds
from tests.fuzz.kinds import Case, Files, Tally, Values, attempt

CASES = {"KEY=VALUE, validate": 12, "KEY=VALUE, run": 1, "weights and checkpoints": 10}  # of others 20 for each kind
KINDS = [(family, kind) for family in driver.FAMILIES for kind, _ in driver.kinds_of(family)]


@pytest.mark.parametrize(("family", "kind"), KINDS, ids=[kind.name for _, kind in KINDS])
def test_readers_take_or_refuse(family, kind, tmp_path):
    driver.place(kind, tmp_path)
    found = driver.run_kind(kind, range(CASES.get(family, 20)), 0, Tally())
    told = [f"{driver.line_of(one, 0)}\n{one.what}: {one.result}\n{one.said}" for one in found.failures]
    assert not told, "\n".join(told)
    assert found.cases == CASES.get(family, 20)


def result_of(read, *, sound=None, ours=False, limit_s=kinds.LIMIT_S):
    """What is said of a reader."""
    case = Case("", read, sound, ours)
    return attempt(Values("x", lambda rng, folder: case), 0, 0, limit_s).result


def refuse(text):
    raise RequestError(text)


def loop():
    while True:
        time.sleep(0.01)


def test_each_outcome():
    """The literal word for each; a fuzz that calls everything sound would pass."""
    sound = kinds.print_of({"a": 1})
    assert result_of(lambda: refuse("x=1: allowed is 2")) == "refused"
    assert result_of(lambda: refuse("")) == "no message"
    assert kinds._wrong_words("a\nb")
    assert kinds._wrong_words("a\x1b[2J")
    assert result_of(lambda: refuse("a, one of:\n  b\n  c")) == "refused"
    assert result_of(lambda: 1 / 0) == "traceback"
    assert result_of(lambda: [1]) == "accepted"
    assert result_of(lambda: exec("raise SystemExit(1)")) == "traceback"
    assert result_of(loop, limit_s=0.05) == "hang"
    assert result_of(lambda: {"a": 2}) == "accepted"
    assert result_of(lambda: {"a": 2}, sound=sound, ours=True) == "damage accepted"
    assert result_of(lambda: {"a": 1}, sound=sound, ours=True) == "unchanged"
    assert result_of(lambda: warn_once("a warning of the fuzz") or {"a": 2}, sound=sound, ours=True) == "warned"
    assert result_of(lambda: warn_once("a warning of the fuzz") or {"a": 2}, sound=sound, ours=True) == "warned"


def test_damage_to_a_file_without_a_checksum_is_found(tmp_path):
    def make(folder):
        (folder / "numbers").write_bytes(bytes(range(64)))
        return [folder / "numbers"]

    kind = Files("numbers", make, lambda folder: list((folder / "numbers").read_bytes()), damage.BYTES, ours=True)
    found = driver.run_kind(driver.place(kind, tmp_path), range(50), 0, Tally())
    assert found.counts == {"damage accepted": 50}
    assert driver.line_of(found.failures[0], 0) == "make fuzz ARGS=\"--only 'numbers' --case 0 --seed 0\""


def test_a_case_is_the_same_again(tmp_path):
    (kind,) = (kind for _, kind, _ in driver.find("csv"))
    driver.place(kind, tmp_path)
    first = [attempt(kind, number, 3).what for number in range(20)]
    assert first == [attempt(kind, number, 3).what for number in range(20)]
    assert first != [attempt(kind, number, 4).what for number in range(20)]


@pytest.mark.parametrize("do", damage.BYTES)
def test_damage_changes_the_bytes(do, tmp_path):
    path = tmp_path / "x"
    for number in range(50):
        content = bytes(number % 3 for _ in range(number + 1))
        path.write_bytes(content)
        do(random.Random(number), path)
        assert path.read_bytes() != content


def test_the_figures_leave_other_sections_alone(tmp_path):
    path = tmp_path / "README.md"
    row = figures.row_of(
        "recordings",
        {"counts": {"refused": 3, "hang": 1}, "failures": [{"result": "hang"}], "slowest": 20.0, "peak": 3e8},
    )
    assert (row["cases"], row["hangs"], row["memory"]) == (4, 1, "300 MB")
    path.write_text("# Reliability\n\n## Kills\n\nnone\n\n## Fuzz\n\nold\n\n## More\n\ntext\n")
    for _ in range(2):
        figures.write([row, row], 90, "--cases 8 --write", path)
        text = path.read_text()
        assert text.startswith("# Reliability\n\n## Kills\n\nnone\n\n## Fuzz\n\nMalformed input")
        assert text.endswith("|\n\n## More\n\ntext\n")
        assert "old" not in text
        assert "8 cases in 2\nminutes" in text
