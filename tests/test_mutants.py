"""The list of seeded defects keeps up with the code, and its runner can tell a caught one from a survivor."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
assert _spec is not None
assert _spec.loader is not None
mutants = importlib.util.module_from_spec(_spec)
sys.modules["mutants"] = mutants  # dataclasses look their module up
_spec.loader.exec_module(mutants)

SEEDED = mutants.read()


@pytest.mark.parametrize("mutant", SEEDED, ids=lambda mutant: mutant.name)
def test_a_defect_has_one_place_and_its_tests_exist(mutant):
    assert mutant.found() == 1, f"{mutant.file}: the old text has to stand in it exactly once; see tests/mutants.toml"
    assert mutant.old != mutant.new
    assert mutant.tests
    for node in mutant.tests:
        path, *names = node.split("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in names:
            assert re.search(rf"^\s*(def|class) {re.escape(name.split('[')[0])}\b", text, re.MULTILINE), node


def test_names_are_unique():
    names = [mutant.name for mutant in SEEDED]
    assert sorted(set(names)) == sorted(names)


def entry(name: str, old: str, new: str, test: str) -> str:
    return (
        f"[[mutant]]\nname = '{name}'\nfile = 'cil_spl/data/events.py'\nold = '{old}'\nnew = '{new}'\n"
        f"tests = ['tests/data/test_events.py::{test}']\n"
    )


def test_the_runner_tells_caught_from_survived_and_stale(tmp_path, capsys):
    old, test = "return len(self.start)", "test_recordings_are_frozen"
    seeded = tmp_path / "mutants.toml"
    seeded.write_text(
        entry("caught one", old, "return len(self.start) + 1", test)
        + entry("harmless", old, "return int(len(self.start))", test)
        + entry("gone", "no such text", "", test),
        encoding="utf-8",
    )
    before = (ROOT / "cil_spl" / "data" / "events.py").read_bytes()
    assert mutants.main(["--list", str(seeded)]) == 1
    words = re.findall(r"^(caught|SURVIVED|STALE|NO TEST)\b", capsys.readouterr().out, re.MULTILINE)
    assert words == ["caught", "SURVIVED", "STALE"]
    assert (ROOT / "cil_spl" / "data" / "events.py").read_bytes() == before


def test_a_defect_whose_test_cannot_run_is_left_out(tmp_path, capsys):
    seeded = tmp_path / "mutants.toml"
    name = "test_recordings_are_frozen"
    seeded.write_text(
        entry("caught one", "return len(self.start)", "return len(self.start) + 1", name)
        + entry("of a package", "return len(self.start)", "return 1", name)
        + "needs = 'no_such_package'\n"
    )
    assert mutants.main(["--list", str(seeded)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("left out  of a package")
    assert "1 of 1 seeded defects caught" in out


def test_a_defect_without_a_test_does_not_count(tmp_path, capsys):
    seeded = tmp_path / "mutants.toml"
    seeded.write_text(entry("untested", "return len(self.start)", "return 1", "test_that_is_not_there"))
    assert mutants.main(["--list", str(seeded)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("NO TEST")
    assert "so that nothing above counts" in out
