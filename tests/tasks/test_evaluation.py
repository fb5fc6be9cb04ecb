"""What is reckoned from answers: decisions, intervals, operations, times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from cil_spl.chip.quantize import quantize
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, Recordings, from_list
from cil_spl.data.samples import from_arrays
from cil_spl.models import answers
from cil_spl.models.build import build, plan_from
from cil_spl.targets.speck import Speck
from cil_spl.targets.target import TargetNetwork
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.classification import classification, confusion_matrix, most_events, wilson
from cil_spl.training.context import Frames

TASK = classification()


def recordings(n: int = 7, shape: tuple[int, int, int] = (9, 8, 2)) -> Recordings:
    rng = np.random.default_rng(3)
    made = []
    for _ in range(n):
        events = np.zeros(int(rng.integers(30, 60)), EVENT)
        for field, top in (("x", shape[0]), ("y", shape[1]), ("p", 2)):
            events[field] = rng.integers(0, top, len(events))
        events["t"] = np.sort(rng.integers(0, 1000, len(events)))
        made.append(events)
    return from_list(made, [i % 3 for i in range(n)], shape, ("a", "b", "c"))


def answer_of(table: list[list[int]]) -> ev.Answer:
    counts = np.array(table, float)

    def answer(batch):  # type: ignore[no-untyped-def]
        rows = counts[batch.index]
        return ev.Activity(
            rows[:, None], {"out": rows.sum(1)}, {"out": 2 * rows.sum(1)}, np.where(rows.sum(1) > 0, 7000, -1)
        )

    return answer


def test_ties_and_silence_are_wrong_and_told_apart() -> None:
    table = [[3, 1, 0], [0, 2, 2], [0, 0, 0], [5, 5, 0], [1, 9, 2], [0, 0, 1], [2, 0, 0]]
    seen = ev.evaluate(answer_of(table), Batches(recordings(), 3, Frames(1)).epoch(0), TASK)
    assert seen.decision.tolist() == [0, -1, -1, -1, 1, 2, 0]
    m = seen.metrics
    assert m["n"] == 7
    assert m["accuracy"] == pytest.approx(4 / 7)
    assert m["silent"] == pytest.approx(1 / 7)
    assert m["ties"] == pytest.approx(2 / 7)
    assert m["events"] == pytest.approx(33 / 7)
    assert m["synops/out"] == pytest.approx(66 / 7)
    assert m["decision_ms"] == 7
    assert seen.decision is not None
    assert confusion_matrix(seen.decision, seen.target, 3).tolist() == [[2, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]


def test_padding_does_not_count() -> None:
    table = [[3, 1, 0], [0, 2, 2], [0, 0, 0], [5, 5, 0], [1, 9, 2], [0, 0, 1], [2, 0, 0]]
    plain = ev.evaluate(answer_of(table), Batches(recordings(), 7, Frames(1)).epoch(0), TASK)
    padded = ev.evaluate(answer_of(table), Batches(recordings(), 4, Frames(1), pad=True).epoch(0), TASK)
    assert padded.metrics == plain.metrics


def test_experiences_of_unequal_size_count_alike() -> None:
    """Each by its own outputs; together they are one set, one after another, with the mean of their accuracies."""
    table = [[3, 1, 0], [0, 2, 9], [0, 0, 0], [5, 4, 9], [1, 9, 2], [0, 0, 1], [2, 0, 0]]
    data = recordings()
    target = data.target.tolist()
    allowed = (0, 1)

    def restricted(row: list[int]) -> int:
        return -1 if row[0] == row[1] else int(row[1] > row[0])

    def batches(first: int, last: int) -> Any:
        return Batches(data.subset(range(first, last)), 2, Frames(1)).epoch(0)

    def answer_at(first: int) -> Any:
        return answer_of(table[first:])

    parts = [(batches(0, 5), allowed), (batches(5, 7), None)]
    answers_in_turn = iter([answer_at(0)] * 3 + [answer_at(5)])
    whole, each = ev.evaluate_experiences(lambda batch: next(answers_in_turn)(batch), parts, TASK)
    decided = [restricted(row) for row in table[:5]] + [2, 0]
    assert whole.decision is not None
    assert whole.decision.tolist() == decided
    assert whole.index.tolist() == list(range(7))
    right = [decided[i] == target[i] for i in range(7)]
    by_hand = (np.mean(right[:5]), np.mean(right[5:]))
    assert by_hand[0] != by_hand[1]
    assert [one.metrics["accuracy"] for one in each] == pytest.approx(by_hand)
    assert whole.metrics["accuracy"] == pytest.approx(np.mean(by_hand))
    assert whole.metrics["n"] == 7
    assert whole.metrics["synops"] == pytest.approx(sum(one.metrics["synops"] * one.metrics["n"] for one in each) / 7)
    seen, none = ev.evaluate_experiences(answer_at(0), [(batches(0, 5), allowed)], TASK)
    assert none == ()
    assert seen.metrics == each[0].metrics


@settings(max_examples=50)
@given(st.integers(1, 4000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilsons(case: tuple[int, int]) -> None:
    right, n = case
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_decision_times_in_bins() -> None:
    counts = np.array(
        [
            [[1, 0], [0, 2], [0, 0]],  # class 1 leads from the second bin on
            [[1, 0], [0, 1], [1, 0]],  # class 0 for good only at the end
            [[1, 0], [0, 1], [0, 0]],  # a tie
            [[0, 0], [0, 0], [0, 0]],  # silence
            [[2, 0], [0, 1], [0, 0]],  # from the first bin
        ]
    )
    edges = np.tile([0, 10, 20, 30], (5, 1))
    assert ev.decision_times(counts, edges).tolist() == [20, 30, -1, -1, 10]


def test_most_events_has_no_favourite() -> None:
    assert most_events(np.array([[1.0, 1.0, 0.0], [0.0, 3.0, 1.0]])).tolist() == [-1, 1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_fan_out_counts_the_neurons_that_exist(stride: int, padding: int) -> None:
    plan = plan_from(
        "p", [{"conv": 5, "kernel": 3, "stride": stride, "padding": padding}, {"linear": "classes"}], (2, 8, 9), 3
    )
    reach = answers.reaches(plan)
    for y, x in [(0, 0), (3, 4), (7, 8), (1, 8)]:
        image = torch.zeros(1, 1, 8, 9)
        image[0, 0, y, x] = 1
        hit = torch.nn.functional.conv2d(image, torch.ones(5, 1, 3, 3), stride=stride, padding=padding)
        assert float(reach["conv1"][y, x]) == float(hit.sum())
    assert (reach["linear2"] == 3).all()


def test_first_layer_operations_agree_with_the_chip_and_every_layer_does_on_equal_events() -> None:
    plan = plan_from("p", [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2}, {"linear": "classes"}], (2, 8, 8), 3)
    torch.manual_seed(0)
    net = build(plan, family="snn", neuron={"min_v_mem": -1.0})
    with torch.no_grad():
        for name in ("conv1", "linear2"):
            net.get_submodule(name).weight.abs_()  # no inhibition, weights below threshold: order cannot matter
    chip, _ = quantize(net)
    speck = Speck(backend="simulator")
    held = TargetNetwork(net, chip)
    from cil_spl.chip.quantize import integer_twin

    batch = next(Batches(recordings(6, (8, 8, 2)), 6, Frames(4)).epoch(0))
    on_chip, in_steps = speck.answer(held)(batch), answers.stepped_answer(integer_twin(chip, net))(batch)
    assert on_chip.events["conv1"].sum() > 0
    for layer in ("conv1", "linear2"):
        assert np.array_equal(on_chip.synops[layer], in_steps.synops[layer])
    assert np.array_equal(on_chip.events["conv1"], in_steps.events["conv1"])


def test_macs_of_a_cnn_leave_out_the_padding() -> None:
    plan = plan_from("p", [{"conv": 4, "kernel": 3, "padding": 1}, {"linear": "classes"}], (2, 8, 8), 3)
    net = build(plan, family="cnn", neuron={})
    batch = next(Batches(recordings(2, (8, 8, 2)), 2, Frames(1)).epoch(0))
    answer = answers.cnn_answer(net)(batch)
    macs = answer.macs
    assert answer.synops == {}  # another quantity
    assert macs["conv1"].tolist() == [2 * 4 * (3 * 8 - 2) ** 2] * 2
    assert macs["linear2"].tolist() == [4 * 64 * 3] * 2


def test_heavy_weights_are_found_behind_the_fold() -> None:
    plan = plan_from("p", [{"conv": 2, "kernel": 1, "pool": 2}, {"linear": "classes"}], (2, 4, 4), 3)
    net = build(plan, family="snn", neuron={"min_v_mem": -1.0})
    with torch.no_grad():
        net.conv1.weight.fill_(0.5)
        net.linear2.weight.fill_(3.9)  # divided by the pooling's area: below threshold on the chip
    assert answers.heavy_weights(net) == []
    with torch.no_grad():
        net.linear2.weight.fill_(4.1)
    assert answers.heavy_weights(net) == ["linear2"]


def test_samples_have_no_time_and_their_first_layer_multiplies() -> None:
    """1 x 4 x 4 pixels, 2 features of 3 x 3, padded: a kernel meets a pixel 100 times; each spike reaches 3 classes."""
    values = np.random.default_rng(0).random((5, 1, 4, 4))
    data = from_arrays(values, [0, 1, 2, 0, 1], "abc")
    plan = plan_from("toy", [{"conv": 2, "kernel": 3, "padding": 1}, {"linear": "classes"}], (1, 4, 4), 3)
    torch.manual_seed(0)
    net = build(plan, family="snn", neuron={"spike_threshold": 0.2, "min_v_mem": -1.0})
    batches = Batches(data, 2, Frames(bins=3))
    seen = ev.evaluate(answers.stepped_answer(net), batches.epoch(0), TASK)
    assert seen.metrics["n"] == 5
    assert seen.metrics["macs"] == 2 * 100  # once, whatever the number of time steps
    assert seen.metrics["events/conv1"] > 0
    assert seen.metrics["synops"] == seen.metrics["synops/linear2"] == pytest.approx(3 * seen.metrics["events/conv1"])
    assert not [name for name in seen.metrics if "conv1" in name and "synops" in name]
    assert not {"decision_ms", "synops_per_second/linear2"} & set(seen.metrics)
