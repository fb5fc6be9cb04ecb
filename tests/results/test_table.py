"""The results table: what makes a row, its numbers, and that no figure is lost in any format."""

from __future__ import annotations

import csv
import io
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.results import table


def run(seed=0, method="bptt", accuracy=0.9, status="finished", model="quickstart", n=360, commit="a" * 40, **params):
    return {
        "run_id": None,
        "status": status,
        "params": {"seed": seed, "method.name": method, "frames.bins": 10, "dataset.root": f"/data/{seed}", **params},
        "tags": {"git_commit": commit, "git_dirty": "false"},
        "metrics": {},
        "row": {
            "method": method,
            "model": model,
            "dataset": "event_digits",
            "target": "speck",
            "backend": "simulator",
            "seed": seed,
            "float/accuracy": accuracy + 0.01,
            "quantized/accuracy": accuracy + 0.005,
            "deployed/accuracy": accuracy,
            "drop": 0.01,
            "deployed/synops": 1.5e6,
            "n": n,
        },
    }


def test_mean_and_sample_deviation_over_seeds():
    found = table.tabulate([run(seed, accuracy=a) for seed, a in enumerate((0.91, 0.93, 0.98))])
    (row,) = found.rows
    assert row.seeds == ("0", "1", "2")
    assert table.spread(row.values["deployed/accuracy"]) == pytest.approx((0.94, 0.0360555127546), abs=1e-12)
    assert table.written("deployed/accuracy", row.values["deployed/accuracy"], found.figures) == "94.00 ± 3.61"


def test_one_seed_has_no_deviation():
    found = table.tabulate([run()])
    (row,) = found.rows
    assert table.written("deployed/accuracy", row.values["deployed/accuracy"], found.figures) == "90.00"
    assert table.written("deployed/synops", row.values["deployed/synops"], found.figures) == "1.50M"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
@settings(deadline=None)
def test_the_numbers_are_numpys(values):
    mean, deviation = table.spread(values)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["bptt", "conversion"]), st.sampled_from([1, 2, 3]))))
@settings(deadline=None, max_examples=50)
def test_a_row_never_mixes_configurations(specs):
    runs = [run(seed, method, accuracy=lr / 10, **{"method.lr": lr}) for seed, method, lr in specs]
    if not runs:
        return
    found = table.tabulate(runs)
    assert len(found.rows) == len({(method, lr) for _, method, lr in specs})
    assert sum(len(row.seeds) for row in found.rows) == len(set(specs))
    for row in found.rows:
        assert len(set(row.values["deployed/accuracy"])) == 1
    random.shuffle(runs)
    assert table.tabulate(runs).rows == found.rows


def test_what_differs_is_shown_and_only_where_it_must_be():
    runs = [run(**{"method.lr": 0.1, "model.x": 1}), run(**{"method.lr": 0.2, "model.x": 1}), run(method="conversion")]
    rows = {(r.identity["method"], tuple(r.settings.items())) for r in table.tabulate(runs).rows}
    assert rows == {("bptt", (("method.lr", "0.1"),)), ("bptt", (("method.lr", "0.2"),)), ("conversion", ())}


def test_a_key_that_only_some_have_is_told():
    runs = [run(), run(**{"method.extra": 5})]
    assert [row.settings for row in table.tabulate(runs).rows] == [{"method.extra": "5"}, {"method.extra": "(none)"}]


def test_other_test_sets_make_other_rows():
    assert sorted(row.n for row in table.tabulate([run(n=100), run(seed=1, n=3200)]).rows) == ["100", "3200"]


@pytest.mark.parametrize(
    "key", ["name", "dataset.root", "tracking.uri", "trainer.threads", "test_dataset.root", "extensions"]
)
def test_where_things_lie_makes_no_row(key):
    assert len(table.tabulate([run(0, **{key: "a"}), run(1, **{key: "b"})]).rows) == 1


def test_text_from_a_store_and_numbers_from_a_folder_are_the_same():
    stored = run(1, **{"method.lr": "0.001", "quantize.aware": "true", "frames.bins": "10"})
    assert len(table.tabulate([run(0, **{"method.lr": 1e-3, "quantize.aware": True}), stored]).rows) == 1


def test_of_a_repeated_seed_the_latest_counts():
    found = table.tabulate([run(0, accuracy=0.8), run(0, accuracy=0.1), run(1, accuracy=0.9)])
    assert found.rows[0].values["deployed/accuracy"] == (0.8, 0.9)
    assert "1 repeated run left out: of each seed the latest" in found.notes


def test_commits_that_mix_are_told():
    notes = table.tabulate([run(0), run(1, commit="b" * 40)]).notes
    assert any("mix commits: aaaaaaaaa, bbbbbbbbb" in note for note in notes)
    assert len(table.tabulate([run(0), run(1)]).notes) == 1


@pytest.mark.parametrize("status", ["failed", "killed", "running"])
def test_only_finished_runs(status):
    found = table.tabulate([run(0), run(1, status=status)])
    assert found.rows[0].seeds == ("0",)
    with pytest.raises(RequestError, match="no finished runs"):
        table.tabulate([run(1, status=status)])


def test_filters():
    runs = [run(0, "bptt", **{"method.lr": 1e-3}), run(1, "bptt", **{"method.lr": 2e-3}), run(0, "conversion")]

    def kept(*filters):
        return sum(len(row.seeds) for row in table.tabulate(runs, filters).rows)

    assert kept("method=bptt") == 2
    assert kept("method=bptt,conversion") == 3
    assert kept("method.lr=1e-3") == 1
    assert kept("method=bptt", "seed=1") == 1
    assert kept("bins=10") == 3
    with pytest.raises(RequestError, match="no run has methd; did you mean method"):
        kept("methd=bptt")
    with pytest.raises(RequestError, match="needs key=value"):
        kept("method")
    with pytest.raises(RequestError, match="no finished runs that fit method=x"):
        kept("method=x")


RUNS = [run(s, m, a, **{"method.lr": 0.1 * s}) for s, m, a in ((0, "bptt", 0.9), (0, "conversion", 0.7))]
RUNS += [run(s, "a_very_long_method_name", 0.8, "finished", "a|model&with_odd%signs") for s in range(3)]


class Counted(dict):
    """Parameters that count how often they are gone through."""

    times = 0

    def __iter__(self):
        Counted.times += 1
        return super().__iter__()


@pytest.mark.parametrize("filters", [(), ("method=bptt", "frames.bins=10")])
def test_each_run_is_gone_through_a_few_times_however_many_there_are(filters):
    """Not once for each other run: a table of five hundred would take seconds."""
    runs = [one | {"params": Counted(one["params"])} for one in (run(seed) for seed in range(50))]
    Counted.times = 0
    table.tabulate(runs, filters)
    assert Counted.times <= 4 * len(runs)


def test_a_filter_without_a_value_is_refused_where_there_is_no_run():
    with pytest.raises(RequestError, match="--filter bptt: needs key=value"):
        table.tabulate([], ["bptt"])


def test_text_keeps_to_80_columns_and_loses_nothing():
    text = table.render(table.tabulate(RUNS), "text", width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "Data set: event_digits   Target: speck (simulator)   Bins: 10   n: 360" in text
    squeezed = "".join(text.split())
    for piece in ("90.00", "70.00", "80.00", "±0.00", "1.50", "bptt", "conversion", table.NOTE.replace(" ", "")):
        assert piece in squeezed
    assert "conversion " in text  # no short word is broken
    assert "…" not in text


def test_wide_text_is_one_table():
    assert "Data set:" not in table.render(table.tabulate(RUNS), "text", width=200)


def test_markdown():
    lines = table.render(table.tabulate(RUNS), "markdown").splitlines()
    assert lines[0].startswith("| Method | Model | Data set | Target | Bins | Seeds | n | Float (%) | Quantised (%) |")
    assert {line.replace("\\|", "").count("|") for line in lines[:5]} == {12 + 1}
    assert table.NOTE in "\n".join(lines)


def test_csv_has_numbers():
    rows = list(csv.DictReader(io.StringIO(table.render(table.tabulate(RUNS), "csv"))))
    assert [row["method"] for row in rows] == ["a_very_long_method_name", "bptt", "conversion"]
    assert float(rows[0]["deployed/accuracy mean"]) == pytest.approx(0.8)
    assert float(rows[0]["deployed/accuracy sd"]) == pytest.approx(0.0, abs=1e-12)
    assert rows[1]["deployed/accuracy sd"] == ""
    assert rows[0]["seeds"] == "0 1 2"


def test_latex_escapes():
    text = table.render(table.tabulate(RUNS), "latex")
    assert r"a\_very\_long\_method\_name & a|model\&with\_odd\%signs" in text
    assert r"80.00 $\pm$ 0.00" in text
    assert r"\begin{tabular}{llllrrrrrrrr}" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {line.replace(r"\&", "").count("&") for line in body} == {11}


def test_a_spiking_column_only_where_there_is_one():
    with_spiking = run()
    with_spiking["row"]["spiking/accuracy"] = 0.5
    assert "Spiking (%)" in table.columns(table.tabulate([with_spiking]))[0]
    assert "Spiking (%)" not in table.columns(table.tabulate([run()]))[0]


def test_runs_of_a_folder_are_in_shape(tmp_path):
    from cil_spl.results import runs

    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"format": 1, "started": "2026-01-01", **run(seed)}))
    assert table.tabulate([r.info for r in runs.scan(tmp_path)]).rows[0].seeds == ("0", "1")


def other(seed=0, **row):
    """A run of a task of its own."""
    made = run(seed, model="ae")
    for key in [k for k in made["row"] if "/" in k or k == "drop"]:
        del made["row"][key]
    made["row"] |= {"columns": "mse", "score": "val/deployed_mse", "float/mse": 0.25, "deployed/mse": 0.5, "rise": 0.25}
    made["row"] |= row
    return made


def test_a_task_brings_its_own_columns():
    """Metrics that are no fractions are written as they are, by their names."""
    heads, cells = table.columns(table.tabulate([other(0), other(1, **{"deployed/mse": 0.75})]))
    assert heads[-3:] == ["Float mse", "Deployed mse", "Rise"]
    assert cells[0][-3:] == ["0.25 ± 0", "0.625 ± 0.1768", "0.25 ± 0"]
    (line,) = csv.DictReader(io.StringIO(table.render(table.tabulate([other()]), "csv")))
    assert (line["deployed/mse mean"], line["rise mean"]) == ("0.5", "0.25")


def test_two_tasks_in_one_table():
    heads, cells = table.columns(table.tabulate([other(), run(accuracy=0.5)]))
    assert (
        heads[-7:]
        == ["Float mse", "Deployed mse", "Float (%)", "Quantised (%)", "Deployed (%)", "Drop (%)", "Rise", "Synops"][
            -7:
        ]
    )
    assert sorted(row[heads.index("Deployed mse")] for row in cells) == ["0.5", "–"]
    assert sorted(row[heads.index("Deployed (%)")] for row in cells) == ["50.00", "–"]


def test_two_fractions_of_one_task_are_told_apart():
    two = run()
    two["row"] |= {"columns": "accuracy %, top5 %", "score": "val/deployed_accuracy", "deployed/top5": 0.99}
    heads, cells = table.columns(table.tabulate([two]))
    assert "Deployed accuracy (%)" in heads
    assert cells[0][heads.index("Deployed top5 (%)")] == "99.00"


def test_multiply_accumulates_are_a_column_of_their_own():
    cnn = run(method="conversion")
    del cnn["row"]["deployed/synops"]
    cnn["row"]["deployed/macs"] = 2.5e6
    heads, cells = table.columns(table.tabulate([cnn, run()]))
    assert heads[-2:] == ["Synops", "MACs"]
    assert [row[-2:] for row in cells] == [["1.50M", "–"], ["–", "2.50M"]]


def test_a_sweeper_optimises_what_the_row_names():
    from cil_spl.results import row

    info = {"metrics": {"val/deployed_mse": 0.5, "deployed/mse": 0.1}, "row": {"score": "val/deployed_mse"}}
    assert row.score_of(info) == 0.5
    assert row.score_of({"metrics": {"val/deployed_mse": None}, "row": {"score": "val/deployed_mse"}}) is None
    assert row.score_of({"metrics": {}, "row": {}}) is None
