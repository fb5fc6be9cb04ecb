"""The mismatch, taken apart: what is measured, and that the walk begins at the network and ends at the chip."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cil_spl import load, pipeline
from cil_spl.base.errors import RequestError
from cil_spl.chip import interchange
from cil_spl.chip.die import Die
from cil_spl.chip.quantize import integer_twin
from cil_spl.cli.compose import composed
from cil_spl.data import datasets
from cil_spl.data.batches import Batches
from cil_spl.models import answers
from cil_spl.models.build import build
from cil_spl.models.neurons import load_weights, weights_of
from cil_spl.results import mismatch, mismatch_files, runs
from cil_spl.tasks import evaluation as ev

# A map of 17 x 17 amid the digit, so that pooling has an edge to drop, with events on it.
CROP = "dataset.preprocess.crop=[8, 8, 17, 17]"
LAYERS = "model.layers=[{conv: 4, kernel: 3, padding: 1, pool: 2}, {linear: classes}]"
SMALL = [
    "method=bptt",
    "trainer.epochs=1",
    "trainer.limit_batches=6",
    "tracking.enabled=false",
    "frames.bins=3",
    CROP,
    LAYERS,
]


def trained(folder, *overrides: str) -> runs.Run:
    pipeline.run(composed([*SMALL, *overrides]), folder)
    return runs.read(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def recordings(run):
    return datasets.load(run.config().dataset, None, seed=0)[0].val.subset(np.arange(40))


@pytest.fixture(scope="module")
def found(run, recordings) -> mismatch.Mismatch:
    return mismatch.take_apart(load.load(run), interchange.load(run.path("chip.npz")), recordings, (1, 3, 30))


def agreement(ours: list[Any], theirs: list[Any], a: list[int], b: list[int], target: list[int]) -> mismatch.Agreement:
    counts = [[np.array(c, np.int64).reshape(len(target), -1, 1, 1) for c in side] for side in (ours, theirs)]
    names = [f"l{k}" for k in range(len(ours))]
    return mismatch.compare(names, *counts, (np.array(a), np.array(b)), np.array(target))


def same_in_all(a: mismatch.Agreement, b: mismatch.Agreement) -> None:
    assert {k: np.asarray(v).tolist() for k, v in vars(a).items()} == {
        k: np.asarray(v).tolist() for k, v in vars(b).items()
    }


def test_equal_counts_agree_in_everything():
    same = agreement([[1, 2, 0, 4]], [[1, 2, 0, 4]], [1, -1], [1, -1], [1, 1])
    assert (same.difference(), same.bias(), same.exact(), same.same_answers) == (0, 0, 1, 1)
    assert same.right_answers == 0.5


def test_an_agreement_by_hand():
    """Two layers; the first is 1 short and 2 over in 10 spikes, the second alike."""
    a = agreement([[4, 5, 2], [5, 5, 0]], [[5, 5, 0], [5, 5, 0]], [0, 1, 2], [0, 0, 2], [0, 1, 0])
    assert [a.difference(k) for k in (0, 1, None)] == [0.3, 0, 0.15]
    assert [a.bias(k) for k in (0, 1, None)] == [0.1, 0, 0.05]
    assert [a.exact(k) for k in (0, 1, None)] == [1 / 3, 1, 4 / 6]
    assert (a.same_answers, a.right_answers) == (2 / 3, 2 / 3)


def test_recordings_add_up():
    a = agreement([[4, 5]], [[5, 5]], [0, 1], [0, 0], [0, 1])
    b = agreement([[2]], [[0]], [2], [2], [0])
    both = agreement([[4, 5, 2]], [[5, 5, 0]], [0, 1, 2], [0, 0, 2], [0, 1, 0])
    same_in_all(a + b, both)


def test_a_silent_chip_divides_by_nothing():
    assert agreement([[0]], [[0]], [-1], [-1], [3]).difference() == 0


def test_the_walk_begins_at_the_network_and_ends_at_the_chip(run, recordings, found):
    network = load.load(run)
    chip = interchange.load(run.path("chip.npz"))
    integers = integer_twin(chip, network.net)

    def evaluated(answer: ev.Answer) -> ev.Evaluation:
        return ev.evaluate(answer, Batches(recordings, 16, network.config.frames).epoch(0), network.task)

    on_chip = evaluated(network.answer)
    links = {link.name: link for link in found.budget}
    assert tuple(links) == tuple(mismatch.LINKS)
    for name, answer in (
        ("float", answers.stepped_answer(network.net)),
        ("weight rounding", answers.stepped_answer(integers)),
        ("order", network.answer),
    ):
        expected, link = evaluated(answer), links[name].chip
        assert link.right_answers == expected.metrics["accuracy"]
        assert link.same_answers == (expected.decision == on_chip.decision).mean()
        spikes = [expected.events[layer].sum() - on_chip.events[layer].sum() for layer in link.layers]
        assert link.signed.tolist() == spikes
    last = links["order"].chip
    assert (last.difference(), last.exact(), last.same_answers) == (0, 1, 1)
    assert last.events.min() > 0
    assert links["float"].before is None
    assert links["weight rounding"].chip.difference() > 0
    assert links["pooling"].before.difference() < 1e-3  # the same sums in another order
    assert links["binning"].before.difference() > 0


def test_at_the_runs_bins_the_two_tables_meet(found):
    same_in_all(found.by_bins[3], found.budget[2].chip)
    assert found.by_bins[30].difference() < found.by_bins[3].difference() < found.by_bins[1].difference()


def test_the_share_at_the_edge_of_an_odd_map(run, recordings, found):
    chip = interchange.load(run.path("chip.npz"))
    events, offsets = recordings.take(np.arange(len(recordings)))
    counts = mismatch.run_chip(chip, events, offsets, record=("counts",)).layer_counts[0]
    edge = counts[..., 16, :].sum() + counts[..., 16].sum() - counts[..., 16, 16].sum()
    assert found.edges == {"conv1": pytest.approx(edge / counts.sum())}
    assert 0 < found.edges["conv1"] < 0.5
    assert found.besides["events of odd maps' edges kept"].difference(0) == 0
    assert found.besides["events of odd maps' edges kept"].difference(1) > 0


def test_a_link_that_is_not_the_chip_is_a_defect(run, recordings, monkeypatch):
    def other(*args: Any, **options: Any) -> Any:
        answer = run_chip(*args, **options)
        answer.layer_counts[1][0, 0, 0, 0, 0] += 1
        return answer

    run_chip = mismatch.run_chip
    monkeypatch.setattr(mismatch, "run_chip", other)
    network = load.load(run)
    with pytest.raises(RuntimeError, match="layer linear2: the budget's last link is not the chip"):
        mismatch.take_apart(network, interchange.load(run.path("chip.npz")), recordings.subset([0]), (1,))


def test_one_spike_a_step_and_a_die(run, recordings):
    network = load.load(run)
    config = network.config.copy()
    config.model.neuron.spike_fn = "single"
    network.target.die = Die(seed=1, threshold_spread=0.2)
    net = build(network.plan, family="snn", neuron=config.model.neuron)
    load_weights(net, weights_of(network.net))
    other = replace(network, config=config, network=replace(network.network, net=net))
    found = mismatch.take_apart(other, interchange.load(run.path("chip.npz")), recordings.subset(range(8)), (1, 3))
    links = {link.name: link for link in found.budget}
    assert links["one event out"].before.difference() == 0
    assert links["weight rounding"].chip.bias() < -0.2
    assert found.besides["the run's die"].difference() > 0


def test_what_is_written(found, tmp_path):
    made = mismatch_files.write(found, tmp_path / "new")
    assert [path.name for path in made] == ["mismatch_bins.csv", "mismatch_budget.csv", "mismatch.png"]
    with made[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["bins"], row["layer"]) for row in rows[:3]] == [("1", "conv1"), ("1", "linear2"), ("1", "all")]
    assert float(rows[2]["difference"]) == found.by_bins[1].difference()
    with made[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = [row for row in rows if row["layer"] == "all"]
    assert [row["link"] for row in whole[: len(mismatch.LINKS)]] == list(mismatch.LINKS)
    assert float(whole[1]["difference_from_link_before"]) == found.budget[1].before.difference()
    assert made[2].stat().st_size > 10_000


def test_a_folder_that_cannot_be_written_to(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file: cannot be written to"):
        mismatch_files.write(found, tmp_path / "file")


def test_what_is_refused(run, recordings):
    network, chip = load.load(run), interchange.load(run.path("chip.npz"))
    with pytest.raises(RequestError, match="bins=0"):
        mismatch.take_apart(network, chip, recordings, (1, 0))
    with pytest.raises(RequestError, match="no recordings"):
        mismatch.take_apart(network, chip, recordings.subset([]), (1,))


def test_a_leaky_network_has_no_chip_to_compare_with(recordings, tmp_path):
    leaky = trained(
        tmp_path, "target=software", "target.precision=int8", "model.neuron.kind=lif", "model.neuron.tau_mem=4"
    )
    with pytest.raises(RequestError, match="which has no multiplicative leak"):
        mismatch.take_apart(load.load(leaky), interchange.load(leaky.path("chip.npz")), recordings, (1,))
