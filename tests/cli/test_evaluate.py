"""``cilspl evaluate``: a finished run's network once more; nothing is trained."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from cil_spl.data.events import EVENT, from_list, shuffled_within
from tests.cli.conftest import run_in

SMALL = ("trainer.epochs=1", "trainer.limit_batches=8", "tracking.enabled=false")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few batches on the embedded data."""
    place = tmp_path_factory.mktemp("run")
    run_in(place, "run", "method=bptt", "hydra.run.dir=one", *SMALL)
    return place / "one"


def figures(run):
    return json.loads((run / "run.json").read_text())["metrics"]


def stages(out):
    lines = [line.split() for line in out.splitlines()]
    return {line[0]: dict(zip(lines[0][1:], map(float, line[1:]), strict=True)) for line in lines[1:]}


def test_as_it_was_it_gives_the_runs_own_figures(cilspl, here, run):
    said = cilspl("evaluate", str(run))
    assert said.code == 0, said.err
    was = figures(run)
    for stage, found in stages(said.out).items():
        for name, value in found.items():
            assert value == pytest.approx(was[f"{stage}/{name}"], rel=1e-5), (stage, name)
    assert set(stages(said.out)) == {"float", "quantized", "deployed"}
    said = cilspl("evaluate", str(run), "--split", "val", "--output", "val.csv")
    with (here / "val.csv").open(newline="") as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    assert float(rows["deployed"]["accuracy"]) == was["val/deployed_accuracy"]
    assert float(rows["deployed"]["n"]) == 145


def test_another_target_and_another_number_of_bins(cilspl, here, run):
    said = cilspl("evaluate", str(run), "target=software", "frames.bins=1")
    assert said.code == 0, said.err
    found = stages(said.out)
    assert set(found) == {"float", "deployed"}
    assert found["float"] == found["deployed"]
    # The chip runs events one by one, whatever the bins are.
    said = cilspl("evaluate", str(run), "frames.bins=1")
    assert stages(said.out)["deployed"]["accuracy"] == pytest.approx(figures(run)["deployed/accuracy"], rel=1e-5)


def test_other_data(cilspl, here, run):
    said = cilspl("evaluate", str(run), "dataset.preprocess.mirror_x=true", "--split", "test")
    assert said.code == 0, said.err
    assert stages(said.out)["deployed"]["n"] == 359
    assert stages(said.out)["deployed"]["accuracy"] != pytest.approx(figures(run)["deployed/accuracy"], rel=1e-5)


def test_many_dies_are_each_the_die_of_its_seed(cilspl, here, run):
    die = "target.die={threshold_spread: 0.2}"
    said = cilspl("evaluate", str(run), die, "--dies", "3", "--at-least", "0", "--output", "dies.csv")
    assert said.code == 0, said.err
    with (here / "dies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["die"] for row in rows] == ["0", "1", "2"]
    accuracy = [float(row["accuracy"]) for row in rows]
    assert len({float(row["synops"]) for row in rows}) == 3
    assert f"mean {np.mean(accuracy):.4f} ± {np.std(accuracy, ddof=1):.4f}" in said.out
    assert "100.0% reach 0" in said.out
    alone = cilspl("evaluate", str(run), "target.die={threshold_spread: 0.2, seed: 2}")
    assert stages(alone.out)["deployed"]["accuracy"] == pytest.approx(accuracy[2], rel=1e-5)
    some = cilspl("evaluate", str(run), die, "--dies", "1:3", "--output", "dies.csv")
    assert some.out.startswith("2 dies, 359 recordings")


def test_orders_are_drawn_within_their_windows(cilspl, here, run):
    said = cilspl("evaluate", str(run), "--orders", "2", "--within-us", "1", "--output", "orders.csv")
    assert said.code == 0, said.err
    with (here / "orders.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Within a microsecond nothing can change places but what has one time.
    assert [float(row["accuracy"]) for row in rows] == [figures(run)["deployed/accuracy"]] * 2
    assert cilspl("evaluate", str(run), "--orders", "2", "--within-us", "5000").code == 0


def test_redrawn_times_stay_in_their_windows():
    random = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        events = np.zeros(500, EVENT)
        events["t"] = np.sort(random.integers(0, 20_000, 500))
        events["x"], events["y"] = random.integers(0, 8, (2, 500))
        events["p"] = np.arange(500) % 2
        parts.append(events)
    data = from_list(parts, [0, 1, 0], (8, 8, 2), ("a", "b"))
    other = shuffled_within(data, 1000, 3)
    for i in range(3):
        assert (np.diff(other[i]["t"].astype(np.int64)) >= 0).all()
        for field in ("x", "y", "p"):
            before, after = data[i], other[i]
            for window in range(20):
                a = before[before["t"] // 1000 == window][field]
                b = after[after["t"] // 1000 == window][field]
                assert sorted(a) == sorted(b)
        assert (data[i]["t"] != other[i]["t"]).mean() > 0.9
    assert all((shuffled_within(data, 1000, 3)[i] == other[i]).all() for i in range(3))
    assert any((shuffled_within(data, 1000, 4)[i] != other[i]).any() for i in range(3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method.lr=3",), "method.lr=3: the network was trained with another"),
        (("seed=3",), "seed=3: the network was trained with another"),
        (("target.dei=3",), "target.dei=3: no such key; did you mean die?"),
        (("dataset=digits",), "dataset=digits gives values"),
        (("dataset=nope",), "dataset=nope: no such choice"),
        (("--dies", "3"), "--dies: target.die is null, so all dies are alike"),
        (("--dies", "0"), "--dies: 0: needs a number from 1"),
        (("--orders", "3", "--within-us", "0"), "--within-us: 0: needs a whole number from 1"),
        (("target.die.lost=2",), "target.die.lost=2"),
        (("x",), "x: beside cilspl evaluate only key=value can be typed"),
    ],
)
def test_what_does_not_fit_is_named(cilspl, here, run, words, message):
    said = cilspl("evaluate", str(run), *words)
    assert said.code == 2
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_run_without_a_network_is_named(cilspl, here, run):
    said = cilspl("evaluate", "nowhere")
    assert said.code == 2
    assert "run nowhere: neither a folder nor the beginning of a run id" in said.err
