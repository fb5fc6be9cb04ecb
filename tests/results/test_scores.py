"""What a run leaves of single recordings, and rows that are compared by it."""

from __future__ import annotations

import csv
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.results import scores, table
from cil_spl.results.cells import columns
from cil_spl.results.paired import compared
from cil_spl.tasks.classification import classification
from cil_spl.tasks.evaluation import Evaluation
from cil_spl.tasks.reconstruction import reconstruction
from tests.results.test_table import run

NAMES = [f"digit/{k}" for k in range(100)]


def evaluation(decision, target, index=None, outputs=None):
    decision, target = np.asarray(decision), np.asarray(target)
    index = np.arange(len(target)) if index is None else np.asarray(index)
    outputs = np.zeros((len(target), 2)) if outputs is None else outputs
    return Evaluation({}, decision, target, index, outputs)


def lines(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_scores_stand_in_the_order_of_the_test_set(tmp_path):
    seen = {
        "float": evaluation([1, 0, -1], [1, 1, 0], [2, 0, 1]),
        "deployed": evaluation([0, 1, 0], [1, 1, 0], [2, 0, 1]),
    }
    scores.write(tmp_path, seen, ["a", "b", "c"], classification())
    assert lines(tmp_path / "scores.csv") == [
        ["recording", "float", "deployed"],
        ["a", "0", "1"],
        ["b", "0", "1"],
        ["c", "1", "0"],
    ]


def test_a_reconstruction_is_scored_by_its_error(tmp_path):
    seen = Evaluation({}, None, np.array([[0.0, 1.0], [0.5, 0.5]]), np.arange(2), np.array([[2.0, 2.0], [1.0, 1.0]]))
    task = reconstruction(scale=0.5)
    scores.write(tmp_path, {"deployed": seen}, ["a", "b"], task)
    assert lines(tmp_path / "scores.csv")[1:] == [["a", "0.5"], ["b", "0"]]
    assert task.metrics(seen.outputs, None, seen.target) == {"mse": 0.25}


def test_a_task_without_scores_leaves_none_and_wrong_ones_are_refused(tmp_path):
    task = SimpleNamespace(name="own", scores=lambda outputs, decision, target: None)
    scores.write(tmp_path, {"deployed": evaluation([1], [1])}, ["a"], task)
    assert not (tmp_path / "scores.csv").exists()
    task.scores = lambda outputs, decision, target: np.zeros(3)
    with pytest.raises(RequestError, match=r"task=own: scores gave an array of shape \(3,\) for 1 inputs"):
        scores.write(tmp_path, {"deployed": evaluation([1], [1])}, ["a"], task)


# --- reading ----------------------------------------------------------------------------------------------------------


def with_scores(folder, right, seed=0, method="bptt", names=NAMES, **params):
    """A run whose folder holds what its recordings were answered."""
    right = np.asarray(right, float)
    folder.mkdir(parents=True)
    text = "recording,float,deployed\n" + "".join(f"{n},1,{int(r)}\n" for n, r in zip(names, right, strict=True))
    (folder / "scores.csv").write_text(text)
    info = run(seed, method, float(right.mean()), n=len(right), **params)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return info | {"run_id": f"{method}{seed}", "folder": str(folder), "files": {"scores.csv": digest}}


def test_earlier_runs_are_read_from_their_decisions(tmp_path):
    info = run(accuracy=2 / 3) | {"folder": str(tmp_path)}
    (tmp_path / "decisions.csv").write_text("recording,class,float,deployed\na,0,1,0\nb,1,1,none\nc,1,1,1\n")
    write_json(tmp_path / "run.json", {"format": 2, "started": "2026-12-01T00:00:00+00:00", **run()})
    found = scores.read(info, 2 / 3)
    assert found.names == ("a", "b", "c")
    assert found.values.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"recording,float\na,1\n",
        b"recording,deployed\n",
        b"recording,deployed\na,1\nb\n",
        b"recording,deployed\na,x\n",
        b"name,deployed\na,1\n",
        b'recording,deployed\n"a,1\n',
        b"recording,deployed\na,1\n\x00,0\n" * 2,
    ],
    ids=repr,
)
def test_a_damaged_file_is_a_reason_and_no_error(tmp_path, content):
    (tmp_path / "scores.csv").write_bytes(content)
    info = run() | {"folder": str(tmp_path), "files": {"x": "y"}}
    assert scores.read(info, 0.5) == "with a damaged scores.csv or decisions.csv"


@pytest.mark.parametrize("value", ["nan", "inf", "0.75"])
def test_scores_that_are_not_of_the_metric_are_not_used(tmp_path, value):
    (tmp_path / "scores.csv").write_text(f"recording,deployed\na,{value}\nb,1\n")
    info = run() | {"folder": str(tmp_path), "files": {"x": "y"}}
    assert scores.read(info, 0.5) == "whose score is not the mean over single recordings"


def test_a_file_that_was_changed_since_is_not_used(tmp_path):
    info = with_scores(tmp_path / "one", np.arange(100) < 90)
    path = tmp_path / "one" / "scores.csv"
    path.write_text(path.read_text().replace("digit/0,1,1", "digit/0,1,0").replace("digit/99,1,0", "digit/99,1,1"))
    assert "damaged" in scores.read(info, 0.9)


def test_where_the_folder_is_gone_the_store_is_asked(tmp_path):
    info = with_scores(tmp_path / "one", np.arange(100) < 90)
    content = (tmp_path / "one" / "scores.csv").read_bytes()
    info["folder"] = str(tmp_path / "gone")
    asked = []

    def fetch(run, name):
        asked.append((run["run_id"], name))
        return content

    assert scores.read(info, 0.9, fetch).values.sum() == 90
    assert asked == [("bptt0", "scores.csv")]
    assert scores.read(info, 0.9) == "without the scores of single recordings"


def test_other_orders_are_put_in_order_and_other_recordings_refused():
    one = {"0": scores.Scores.of(("b", "a"), np.array([1.0, 0.0]))}
    assert scores.aligned(one, scores.Scores.of(("a", "b"), np.zeros(2)))["0"].tolist() == [0, 1]
    assert scores.aligned(one, scores.Scores.of(("a", "c"), np.zeros(2))) is None
    assert scores.aligned(one, scores.Scores.of(("a", "b", "c"), np.zeros(3))) is None
    twice = {"0": scores.Scores.of(("a", "a"), np.array([1.0, 0.0]))}
    assert scores.aligned(twice, scores.Scores.of(("a", "a"), np.zeros(2)))["0"].tolist() == [1, 0]
    assert scores.aligned(twice, scores.Scores.of(("a", "b"), np.zeros(2))) is None


# --- the table --------------------------------------------------------------------------------------------------------


def series(tmp_path, method, right, seeds=(0, 1, 2), **params):
    """Runs of a method; each seed fails on one recording more."""
    at = np.arange(100)
    return [
        with_scores(tmp_path / f"{method}{seed}{params}", at < right - k, seed, method, **params)
        for k, seed in enumerate(seeds)
    ]


def test_rows_are_compared_with_the_chosen_one(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90)
    made = table.tabulate(runs, against=["method=bptt"])
    bptt, sltt = made.rows
    assert (bptt.chosen, bptt.difference, sltt.chosen) == (True, None, False)
    assert sltt.difference.value == pytest.approx(0.1)
    assert 0.04 < sltt.difference.low < 0.07 < 0.13 < sltt.difference.high < 0.17
    assert [row.best for row in made.rows] == [False, True]
    assert [row[-1].split()[0] for row in columns(made)[1]] == ["reference", "+10.00"]
    assert any("reference row (method=bptt)" in note for note in made.notes)


def test_no_file_is_read_unless_it_is_asked_for(tmp_path, monkeypatch):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90) + series(tmp_path, "bptt", 70, dataset=1)
    for info in runs[6:]:
        info["row"] = info["row"] | {"dataset": "another"}
    monkeypatch.setattr(scores, "read", lambda *_: pytest.fail("read"))
    table.tabulate(runs)
    read = []
    monkeypatch.setattr(scores, "read", lambda run, *_: read.append(run["run_id"]) or "without")
    table.tabulate(runs, against=["method=sltt"])
    assert sorted(read) == ["bptt0", "bptt1", "bptt2", "sltt0", "sltt1", "sltt2"]  # each once; no row of another set


def test_a_run_without_scores_leaves_a_difference_without_an_interval(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90)
    (tmp_path / "sltt1{}" / "scores.csv").unlink()
    made = table.tabulate(runs, against=["method=bptt"])
    assert made.rows[1].difference.value == pytest.approx(0.1)
    assert made.rows[1].difference.low is None
    assert not made.rows[1].best
    assert columns(made)[1][1][-1] == "+10.00"
    assert "differences without an interval: 1 run without the scores of single recordings" in made.notes


def test_other_recordings_are_not_paired(tmp_path):
    runs = series(tmp_path, "bptt", 80)
    runs += [with_scores(tmp_path / "x", np.arange(100) < 90, 0, "sltt", [f"other/{k}" for k in range(100)])]
    made = table.tabulate(runs, against=["method=bptt"])
    assert made.rows[1].difference.low is None
    assert "1 of the rows were tested on other recordings: no interval there" in made.notes


def test_equal_names_of_other_recordings_are_not_paired(tmp_path):
    """Recordings are named by their place: those of another folder have the same names."""
    runs = series(tmp_path, "bptt", 80, [0, 1]) + series(tmp_path, "sltt", 90, [0, 1])
    for info, data in zip(runs, ("one", "one", "two", "two"), strict=True):
        info["tags"] = info["tags"] | {"data": data}
    made = table.tabulate(runs, against=["method=bptt"])
    assert made.rows[1].difference.low is None
    assert "1 of the rows were tested on other recordings: no interval there" in made.notes
    for info in runs[2:]:  # the same recordings, prepared in another way
        info["params"] = info["params"] | {"dataset.preprocess.pool": 2}
    assert table.tabulate(runs, against=["method=bptt"]).rows[1].difference.low is not None


def test_one_seed_and_fewer_seeds_are_marked(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90, [0]) + series(tmp_path, "tandem", 90, [1, 2, 5])
    made = table.tabulate(runs, against=["method=bptt"])
    assert [row[-1][-1] for row in columns(made)[1]] == ["e", "¹", "²"]
    assert sum(note.startswith(("¹", "²")) for note in made.notes) == 2
    assert not any(row.best for row in made.rows)


def test_a_row_is_compared_with_its_own_float_network(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90)
    for info in runs:
        path = tmp_path / f"{info['run_id']}{{}}" / "scores.csv"
        _, *rows = lines(path)
        kept = [[name, "1" if k < 85 else "0", deployed] for k, (name, *_, deployed) in enumerate(rows)]
        text = "".join(",".join(line) + "\n" for line in [["recording", "float", "deployed"], *kept])
        path.write_text(text)
        info["files"]["scores.csv"] = hashlib.sha256(text.encode()).hexdigest()
        info["row"]["float/accuracy"] = 0.85
    made = table.tabulate(runs, against=["float"])
    bptt = made.rows[0]
    assert [row.chosen for row in made.rows] == [False, False]
    assert [row.difference.value for row in made.rows] == pytest.approx([-0.06, 0.04])
    at = np.arange(100)
    expected = compared({s: (at < 80 - s) * 1.0 for s in range(3)}, dict.fromkeys(range(3), (at < 85) * 1.0))
    assert (bptt.difference.low, bptt.difference.high) == (expected.low, expected.high)
    assert [row[-1].split()[0] for row in columns(made)[1]] == ["-6.00", "+4.00"]
    assert any("from the float one of the same runs" in note for note in made.notes)
    assert all(row.difference is None for row in table.tabulate(runs, against=["spiking"]).rows)
    assert "2 of the rows have no spiking score" in table.tabulate(runs, against=["spiking"]).notes


def test_which_row_is_chosen_must_be_clear(tmp_path):
    runs = series(tmp_path, "bptt", 80, **{"trainer.epochs": 1}) + series(tmp_path, "bptt", 85, **{"trainer.epochs": 3})
    with pytest.raises(RequestError, match=r"--against method=bptt: fits 2 rows of event_digits; .*trainer.epochs=3"):
        table.tabulate(runs, against=["method=bptt"])
    made = table.tabulate(runs, against=["method=bptt", "trainer.epochs=1"])
    assert [row.chosen for row in made.rows] == [True, False]
    with pytest.raises(RequestError, match=r"--against method=sltt: fits no row .*; rows are method=bptt"):
        table.tabulate(runs, against=["method=sltt"])
    with pytest.raises(RequestError, match="--against methd=x: no run has methd; did you mean method"):
        table.tabulate(runs, against=["methd=x"])
    with pytest.raises(RequestError, match="--against seed=0: fits no row"):
        table.tabulate(runs, against=["seed=0"])


def test_each_data_set_has_its_own_reference(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 90)
    others = [one | {"row": one["row"] | {"dataset": "other"}} for one in runs]
    made = table.tabulate(runs + others, against=["method=bptt"])
    assert [row.chosen for row in made.rows] == [True, False, True, False]
    made = table.tabulate(runs + others, against=["method=bptt", "dataset=other"])
    assert [row.difference is not None for row in made.rows] == [False, False, False, True]
    assert any(note.startswith("2 of the rows have no reference row") for note in made.notes)


def test_less_may_be_better(tmp_path):
    runs = series(tmp_path, "bptt", 80) + series(tmp_path, "sltt", 95)
    for info in runs:
        value = info["row"].pop("deployed/accuracy")
        info["row"] |= {"columns": "mse", "score": "val/deployed_mse", "deployed/mse": value, "rise": 0.1}
    made = table.tabulate(runs, against=["method=bptt"])
    assert [row.best for row in made.rows] == [True, False]
    heads, cells = columns(made)
    assert heads[-1] == "Difference"
    assert cells[1][-1].startswith("+0.15 (")


def test_without_against_the_best_needs_a_clear_lead():
    near = [run(s, m, a + s / 1000) for m, a in (("bptt", 0.90), ("sltt", 0.92)) for s in range(3)]
    far = [run(s, m, a + s / 1000) for m, a in (("bptt", 0.70), ("sltt", 0.92)) for s in range(3)]
    single = [run(0, m, a) for m, a in (("bptt", 0.1), ("sltt", 0.9))]
    assert [sum(row.best for row in table.tabulate(runs).rows) for runs in (near, far, single)] == [0, 1, 0]


@pytest.mark.parametrize("values", [np.array([1.0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1]), np.array([0.25, 1.5, -3.0])])
def test_rows_keep_scores_that_pair_with_those_of_folders(tmp_path, values):
    names = [f"a/{k}" for k in range(len(values))]
    lines = ["recording,deployed", *(f"{name},{value!r}" for name, value in zip(names, values.tolist(), strict=True))]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    write_json(tmp_path / "run.json", {"format": 2, "started": "2026-12-01T00:00:00+00:00", **run()})
    told = json.loads(json.dumps(scores.packed(tmp_path)))
    found = scores.read({"scores": told}, float(values.mean()))
    assert isinstance(found, scores.Scores)
    assert found.values.tolist() == values.tolist()
    whole = scores.Scores.of(names, values)
    for one, other in ((found, whole), (whole, found)):
        pair = scores.aligned({"0": one}, other)
        assert pair is not None
        assert pair["0"].tolist() == values.tolist()
    assert scores.aligned({"0": found}, scores.Scores.of(names[::-1], values)) is None
    assert isinstance(scores.read({"scores": told}, float(values.mean()) + 0.1), str)


@pytest.mark.parametrize(
    "told",
    [None, 3, {}, {"n": 3}, *({"n": n, "recordings": "x", "stages": {"deployed": text}} for n, text in (
        (-1, "bits AA=="),
        (9, "bits AA=="), (3, "bits ?"), (1e400, "bits AA=="), (2, "float32 AAAA"), (2, 3), (2, "")))],
)  # fmt: skip
def test_scores_of_rows_that_are_none_are_left_aside(told):
    assert isinstance(scores.read({"scores": told}, 0.5), str)
