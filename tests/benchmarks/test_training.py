"""The harness of benchmarks/training: its parts run, tiny; what it records; what its sides have in common."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "training"))
import bench
import growth
import loop
import memory
import peers
import profiled
import sides
import steps
import turns

TINY = turns.Options(bins=(1, 2), threads=(1,), repeats=1, batch=4, compiled=0, quick=True)


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def rows_of(tables: Any, title: str) -> list[dict[str, Any]]:
    return next(rows for name, rows in tables if name == title)


def test_our_neurons_spike_as_those_of_sinabs():
    ((_, rows),) = bench.PARTS["exact"](TINY)
    assert [row["numbers"] for row in rows] == ["float32", "float64"]
    assert [row["neurons and steps that differ"] for row in rows] == [0, 0]
    assert all(float(row["gradients' largest relative difference"]) < 1e-4 for row in rows)


def test_every_side_is_timed_and_judged():
    tables = steps.measure(TINY)
    timed = rows_of(tables, "random input, 1 thread(s), ms")
    assert [row["side"] for row in timed] == sides.all_sides()
    assert all(row["1 bins"] and row["2 bins"] for row in timed)
    floors = [row for row in rows_of(tables, "aim of a step") if row["what"].endswith("over the floor")]
    assert [row["aim"] for row in floors] == ["at most 1.2 x", "at most 1 x"]


def test_aims_are_those_of_the_fastest_peer_compiled_or_not():
    times = {"ours": [2.0, 1.0], "floor, channels last": [1.0], "floor, NCHW": [0.1], "sinabs": [25.0]}
    times |= {"norse": [4.0], "norse, compiled": [2.5], "snnTorch, compiled": [9.0]}
    found = {row["what"]: (row["figure"], row["reached"]) for row in steps.rows(100, times)}
    assert found == {
        "100 bins, over the floor": ("1 x", "yes"),
        "100 bins, fastest peer (norse) over ours": ("4 x", "yes"),
        "100 bins, fastest peer, compiled (norse) over ours": ("2.5 x", "no"),
        "100 bins, sinabs over ours": ("25 x", "yes"),
    }


@pytest.mark.parametrize("name", [sides.OURS, sides.FLOOR, sides.FLOOR_NCHW, *peers.PEERS])
def test_a_side_steps_alike_each_time_and_leaves_no_gradient(name: str):
    if name in peers.PEERS and name not in peers.installed():
        pytest.skip(f"{name} is not installed")
    problem = sides.random_problem(3, batch=2)
    step = sides.make_side(name, problem)
    assert step() == pytest.approx(step(), rel=1e-6)
    assert all(p.grad is None for p in problem.net.parameters())


def test_all_sides_have_the_layers_of_the_quickstart_twice_as_wide():
    problem = sides.random_problem(1, batch=2, width=2.0, size=17)
    weights = [tuple(p.shape) for p in problem.net.parameters() if p.ndim > 1]
    assert weights == [(16, 2, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (10, 128)]
    assert [tuple(m.weight.shape) for m in problem.layers(torch.nn.ReLU) if hasattr(m, "weight")] == weights


def test_the_first_turn_warms_up_and_sides_alternate():
    seen: list[str] = []
    times = turns.taken({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2)
    assert "".join(seen) == "ababab"
    assert [len(values) for values in times.values()] == [2, 2]


def test_memory_grows_by_what_a_step_holds():
    if not memory.CLEAR.exists():
        pytest.skip("this system has no /proc/self/clear_refs")
    few, many = (memory.growth(sides.FLOOR, bins, 4) for bins in (5, 50))
    assert many > few >= 0


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(peers.MODULES, "norse", "no_such_module")
    assert "norse" not in sides.all_sides()
    assert "norse is not installed and left out; pip install -e '.[peers]'" in peers.left_out()


def test_a_run_is_split_into_what_it_does():
    watch = profiled.Watch()
    with watch.watching():
        sides.ours(sides.random_problem(2, batch=2))()
    assert {"forward pass", "backward pass", "binning", "everything else"} <= set(watch.seconds)
    assert all(seconds > 0 for seconds in watch.seconds.values())


def test_a_name_that_is_no_more_is_left_out():
    assert list(profiled.held("data.frames.no_such_function")) == []
    assert list(profiled.held("no_such_module.Class.method")) == []


def test_what_is_recorded_stands_between_the_marks(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n\n<!-- figures -->\nold\n<!-- end of figures -->\nbelow\n")
    head = {"date": "2000-01-02", "machine": "m", "load": 0.5, "torch": "t", "commit": "c"}
    lines = [("ms over " + axis, [{axis: 1, "ours": 2.0}, {axis: 2, "ours": 4.0}]) for axis in growth.AXES]
    known = {"growth": head | {"tables": lines}, "exact": head | {"tables": [("t", [{"a": 1}])]}, "gone": {}}
    bench.record(known, tmp_path / "results.json", readme)
    text = readme.read_text()
    assert text.startswith("above\n\n<!-- figures -->\n### exact\n\n2000-01-02, m, load 0.5, torch t, commit c.\n")
    assert text.endswith("(growth.png)\n<!-- end of figures -->\nbelow\n")
    assert "old" not in text
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["exact", "growth"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["chip", "epoch", "growth", "profile"])
def test_a_part_runs(part: str):
    tables = bench.PARTS[part](TINY)
    assert tables
    assert all(rows for _, rows in tables)


@pytest.mark.slow
def test_the_other_commit_is_measured_by_the_same_functions(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    found: dict[str, list[float]] = {}
    monkeypatch.setattr(loop, "taken", lambda some, repeats: found.update(turns.taken(some, repeats)))
    loop.measure(1, 1, SimpleNamespace(start=None, overrides=["trainer.batch_size=4"], repeats=1))
    assert list(found) == [
        "bptt",
        "chip, output layer",
        "chip, all layers",
        "chip, all layers and states",
        "chip alone",
    ]
