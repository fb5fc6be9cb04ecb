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
from cil_spl.results.cells import columns, spread, written


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
    assert spread(row.values["deployed/accuracy"]) == pytest.approx((0.94, 0.0360555127546), abs=1e-12)
    assert written("deployed/accuracy", row.values["deployed/accuracy"], found.figures) == "94.00 ± 3.61"


def test_one_seed_has_no_deviation():
    found = table.tabulate([run()])
    (row,) = found.rows
    assert written("deployed/accuracy", row.values["deployed/accuracy"], found.figures) == "90.00"
    assert written("deployed/synops", row.values["deployed/synops"], found.figures) == "1.50M"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
@settings(deadline=None)
def test_the_numbers_are_numpys(values):
    mean, deviation = spread(values)
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
    runs = [run(**{"method.lr": 0.1, "trainer.x": 1}), run(**{"method.lr": 0.2, "trainer.x": 1})]
    runs += [run(method="conversion", **{"trainer.x": 1, "method.gains": 7})]
    rows = {(r.identity["method"], tuple(r.settings.items())) for r in table.tabulate(runs).rows}
    assert rows == {("bptt", (("method.lr", "0.1"),)), ("bptt", (("method.lr", "0.2"),)), ("conversion", ())}


def test_a_key_that_only_some_have_is_told():
    runs = [run(), run(**{"method.extra": 5})]
    assert [row.settings for row in table.tabulate(runs).rows] == [{"method.extra": "5"}, {"method.extra": "–"}]


def test_what_differs_between_methods_is_filled_in_in_each_row():
    """One epoch beside three never reads as the default, whatever else the rows differ in."""
    runs = [run(**{"trainer.epochs": 3}), run(method="conversion", model="cnn", **{"trainer.epochs": 1})]
    runs += [run(method="sltt", **{"trainer.epochs": 3})]
    assert {row.identity["method"]: dict(row.settings) for row in table.tabulate(runs).rows} == {
        "bptt": {"trainer.epochs": "3"},
        "conversion": {"trainer.epochs": "1"},
        "sltt": {"trainer.epochs": "3"},
    }


def test_a_value_that_a_row_lacks_reads_as_a_dash():
    """As in a run of an earlier version, which had no such key."""
    runs = [run(**{"trainer.patience": 3}), run(method="conversion")]
    assert [row.settings for row in table.tabulate(runs).rows] == [{"trainer.patience": v} for v in ("3", "–")]


def test_a_method_that_has_no_such_parameter_is_left_out():
    runs = [run(**{"method.lr": 0.1, "method.loss": "counts"}), run(method="sltt", **{"method.lr": 0.2})]
    runs += [run(method="conversion", **{"method.gains": 1})]
    assert {row.identity["method"]: dict(row.settings) for row in table.tabulate(runs).rows} == {
        "bptt": {"method.lr": "0.1"},
        "sltt": {"method.lr": "0.2"},
        "conversion": {},
    }


def test_what_a_name_stands_for_is_compared_among_rows_of_that_name():
    runs = [run(model="a", **{"model.layers": "[1]", "model.name": "a"})]
    runs += [run(model="b", **{"model.layers": "[2]", "model.name": "b"})]
    assert [row.settings for row in table.tabulate(runs).rows] == [{}, {}]
    runs += [run(model="b", **{"model.layers": "[3]", "model.name": "b"})]
    assert [row.settings for row in table.tabulate(runs).rows] == [{}, {"model.layers": "[2]"}, {"model.layers": "[3]"}]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bptt", "conversion"]),
            st.sampled_from(["a", "b"]),
            st.dictionaries(
                st.sampled_from(
                    ["method.lr", "method.name", "model.x", "trainer.epochs", "observer", "task.name", "task.x"]
                ),
                st.sampled_from(["1", "2", None]),
                max_size=4,
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=200)
def test_no_two_rows_read_alike_and_no_value_is_another_rows(specs):
    runs = [run(0, method, model=model, **extra) for method, model, extra in specs]
    rows = table.tabulate(runs).rows
    assert len({(tuple(row.identity.items()), tuple(row.settings.items())) for row in rows}) == len(rows)
    for row in rows:
        for key, value in row.settings.items():
            params = row.runs[0]["params"]
            assert value == (table.as_text(params[key]) if key in params else "–")
        for other in rows:  # what two rows have and differ in, both show
            for key in ("trainer.epochs", "method.lr", "model.x"):
                mine, theirs = (table.configuration(one.runs[0]).get(key) for one in (row, other))
                if mine is not None and theirs is not None and mine != theirs:
                    assert key in row.settings
                    assert key in other.settings


def test_data_that_alone_differ_are_told():
    runs = [run(), run()]
    for one, tag in zip(runs, ("aa", "bb"), strict=True):
        one["tags"]["data"] = tag
    assert [row.settings for row in table.tabulate(runs).rows] == [{"data": "aa"}, {"data": "bb"}]


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
    assert "left out of 3 runs: 1 repeated (of each seed the latest counts)" in found.notes


def test_what_is_left_out_is_counted():
    runs = [run(0), run(0), run(1, status="killed"), run(2, status="killed"), run(3, status="failed")]
    runs += [run(4, status="running"), run(5, method="sltt"), run(6) | {"row": {}}]
    runs[2]["row"] = {}  # a killed run has none; what it was is in its parameters
    runs[3] |= {"row": {}, "params": {"method.name": "sltt"}}
    note = "left out of 8 runs: 1 killed, 1 failed, 1 running, 1 finished without a row, 2 that do not fit the filter, "
    assert note + "1 repeated (of each seed the latest counts)" in table.tabulate(runs, ["method=bptt"]).notes
    with pytest.raises(RequestError, match=r"no finished runs; .* \(there are: 1 killed, 1 failed, 1 running\)"):
        table.tabulate([run(status=s) for s in ("killed", "failed", "running")])


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


def test_a_group_that_is_there_is_not_null():
    runs = [run(0, observer=None), run(1, **{"observer.name": "chip", "observer.layers": "all"})]
    assert [row.seeds for row in table.tabulate(runs, ["observer=null"]).rows] == [("0",)]
    assert [row.seeds for row in table.tabulate(runs, ["observer.name=chip"]).rows] == [("1",)]
    assert [row.seeds for row in table.tabulate(runs, ["method=bptt"]).rows] == [("0",), ("1",)]


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
    assert "Spiking (%)" in columns(table.tabulate([with_spiking]))[0]
    assert "Spiking (%)" not in columns(table.tabulate([run()]))[0]


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
    heads, cells = columns(table.tabulate([other(0), other(1, **{"deployed/mse": 0.75})]))
    assert heads[-3:] == ["Float mse", "Deployed mse", "Rise"]
    assert cells[0][-3:] == ["0.25 ± 0", "0.625 ± 0.1768", "0.25 ± 0"]
    (line,) = csv.DictReader(io.StringIO(table.render(table.tabulate([other()]), "csv")))
    assert (line["deployed/mse mean"], line["rise mean"]) == ("0.5", "0.25")


def test_two_tasks_in_one_table():
    heads, cells = columns(table.tabulate([other(), run(accuracy=0.5)]))
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
    heads, cells = columns(table.tabulate([two]))
    assert "Deployed accuracy (%)" in heads
    assert cells[0][heads.index("Deployed top5 (%)")] == "99.00"


def test_multiply_accumulates_are_a_column_of_their_own():
    cnn = run(method="conversion")
    del cnn["row"]["deployed/synops"]
    cnn["row"]["deployed/macs"] = 2.5e6
    heads, cells = columns(table.tabulate([cnn, run()]))
    assert heads[-2:] == ["Synops", "MACs"]
    assert [row[-2:] for row in cells] == [["1.50M", "–"], ["–", "2.50M"]]


def test_a_sweeper_optimises_what_the_row_names():
    from cil_spl.results import row

    info = {"metrics": {"val/deployed_mse": 0.5, "deployed/mse": 0.1}, "row": {"score": "val/deployed_mse"}}
    assert row.score_of(info) == 0.5
    assert row.score_of({"metrics": {"val/deployed_mse": None}, "row": {"score": "val/deployed_mse"}}) is None
    assert row.score_of({"metrics": {}, "row": {}}) is None


def known_by(data="t1", drawn_from="d1", sources="s1", **tags):
    return {"data": data, "data_drawn_from": drawn_from, "sources": sources, **tags}


def with_tags(one, **tags):
    return one | {"tags": one["tags"] | known_by(**tags)}


def test_runs_that_were_trained_on_other_data_make_other_rows():
    runs = [with_tags(run(0)), with_tags(run(1)), with_tags(run(2), drawn_from="d2")]
    found = table.tabulate(runs)
    assert [(row.seeds, dict(row.settings)) for row in found.rows] == [
        (("0", "1"), {"data_drawn_from": "d1"}),
        (("2",), {"data_drawn_from": "d2"}),
    ]
    runs = [with_tags(run(0)), with_tags(run(1), data="t2")]
    assert [dict(row.settings) for row in table.tabulate(runs).rows] == [{"data": "t1"}, {"data": "t2"}]


def test_a_repeated_seed_on_other_data_is_not_dropped():
    runs = [with_tags(run(0, accuracy=0.9)), with_tags(run(0, accuracy=0.2), drawn_from="d2")]
    found = table.tabulate(runs)
    assert [row.values["deployed/accuracy"] for row in found.rows] == [(0.9,), (0.2,)]
    assert not any("repeated" in note for note in found.notes)


def test_an_extended_run_is_a_row_of_its_own():
    runs = [with_tags(run(0, **{"trainer.epochs": 2})), with_tags(run(1, **{"trainer.epochs": 2}), extended_from="1")]
    found = table.tabulate(runs)
    assert [dict(row.settings) for row in found.rows] == [{"extended_from": "1"}, {"extended_from": "–"}]


def test_rows_of_several_codes_are_told():
    same_commit = [with_tags(run(0)), with_tags(run(1), sources="s2")]
    (note,) = [note for note in table.tabulate(same_commit).notes if "sources" in note]
    assert note.startswith("1 of the rows mix versions of the code that decides the numbers")
    assert not any("sources" in note for note in table.tabulate([with_tags(run(0)), with_tags(run(1))]).notes)


def test_a_spread_of_operations_has_the_unit_on_both_sides():
    values = (302.66e3, 192.66e3)
    runs = [run(seed) | {"row": run(seed)["row"] | {"deployed/synops": v}} for seed, v in enumerate(values)]
    found = table.tabulate(runs)
    assert written("deployed/synops", found.rows[0].values["deployed/synops"], found.figures) == "247.66k ± 77.78k"
