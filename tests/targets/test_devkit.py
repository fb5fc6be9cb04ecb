"""A Speck on its board, through samna; the board is a stand-in whose chip is our simulator (chip/standin_samna.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import standin_samna
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl import pipeline
from cil_spl.base.errors import RequestError
from cil_spl.chip.die import Die
from cil_spl.chip.network import ChipNetwork, Destination
from cil_spl.chip.placement import place_network, spread_readout
from cil_spl.chip.simulator import ChipAnswer, simulate
from cil_spl.cli.compose import composed
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.models.build import build, plan_from
from cil_spl.targets import board, devkit
from cil_spl.targets.speck import Speck
from cil_spl.targets.target import TargetNetwork, released
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.classification import classification
from cil_spl.training.context import Frames

KIT = ("Speck2fDevKit", 7)
PLAN = plan_from("p", [{"conv": 4, "kernel": 3, "padding": 1, "pool": 2}, {"linear": "classes"}], (2, 8, 8), 3)


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> standin_samna.Standin:
    """One Speck 2f is connected."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return standin_samna.install(monkeypatch, KIT)


@pytest.fixture
def opened(kit: standin_samna.Standin) -> Any:
    made = devkit.Board()
    yield made
    made.close()


def chain(rng: np.random.Generator, depth: int) -> ChipNetwork:
    """A chain that a chip can hold: square kernels and pools; strides, padding and maps that differ in x and y."""
    shape = (int(rng.integers(1, 4)), int(rng.integers(4, 12)), int(rng.integers(4, 12)))
    input_shape, layers = shape, []
    for k in range(depth):
        size = int(rng.integers(1, 1 + min(3, *shape[1:])))
        threshold = int(rng.choice([30, 60, 127, 300]))
        new = networks.layer(
            rng.integers(-40, 90, (int(rng.choice([1, 3, 4, 5, 8])), shape[0], size, size)),
            shape,
            stride=(int(rng.choice([1, 1, 2])), int(rng.choice([1, 1, 2]))),
            padding=(int(rng.integers(0, 3)), int(rng.integers(0, 3))),
            threshold=threshold,
            min_v_mem=-int(rng.choice([1, threshold, 4 * threshold])),
            reset=str(rng.choice(["subtract", "zero"])),
            name=f"l{k}",
        )
        f, height, width = new.output_shape
        if k < depth - 1:
            pool = int(rng.choice([p for p in (1, 2, 4) if p <= min(height, width)]))
            new = replace(new, destinations=(Destination(k + 1, (pool, pool)),))
            shape = (f, height // pool, width // pool)
        layers.append(new)
    return place_network(ChipNetwork(tuple(layers), input_shape))


def steady() -> ChipNetwork:
    """Two layers that answer every recording, and differently from other states."""
    return place_network(networks.active_chain(np.random.default_rng(3)))


def recordings(rng: np.random.Generator, network: ChipNetwork, n: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, offsets and the edges of three bins; one recording is empty, one starts late."""
    made = [networks.recording(rng, network, int(rng.integers(20, 120))) for _ in range(n)]
    made[-1]["t"] += 3_000_000
    events, offsets = networks.joined([*made, made[0][:0]])
    first = np.array([r["t"].min(initial=0) for r in [*made, made[0][:0]]])
    return events, offsets, first[:, None] + np.array([0, 7, 100, 2000])


def assert_equal(ours: ChipAnswer, ideal: ChipAnswer) -> None:
    for name in ("counts", "events_per_layer", "input_events", "synops", "decision_us"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(ideal, name), err_msg=name)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 4))
def test_the_board_gives_what_the_simulator_gives(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    network = chain(rng, depth)
    events, offsets, edges = recordings(rng, network)
    record = ("counts", "events", "output")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(tempfile, "tempdir", folder)
        standin_samna.install(patch, KIT)
        opened = devkit.Board()
        opened.load(network, "all")
        ours, traffic = opened.send(events, offsets, edges, record=record)
        opened.close()
    ideal = simulate(network, events, offsets, edges, record=record)
    assert_equal(ours, ideal)
    for a, b in zip(ours.layer_counts or [], ideal.layer_counts or [], strict=True):
        np.testing.assert_array_equal(a, b)
    for c, d in zip(ours.layer_events or [], ideal.layer_events or [], strict=True):
        np.testing.assert_array_equal(c.events, d.events)
        np.testing.assert_array_equal(c.offsets, d.offsets)
    assert ours.output is not None
    assert ideal.output is not None
    for name in ("t", "k", "offsets"):
        np.testing.assert_array_equal(getattr(ours.output, name), getattr(ideal.output, name))
    np.testing.assert_array_equal(traffic.sent, ideal.input_events)
    np.testing.assert_array_equal(traffic.received, ideal.events_per_layer.sum(1))
    assert not any((traffic.stray.any(), traffic.late.any(), traffic.unfinished.any()))


@pytest.mark.parametrize("seed", range(8))
def test_branches_and_merges_too(opened: devkit.Board, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = networks.random_graph(rng)
    events, offsets, edges = recordings(rng, network)
    opened.load(network, "all")
    assert_equal(opened.send(events, offsets, edges)[0], simulate(network, events, offsets, edges))


@pytest.mark.parametrize("kind", ["Speck2eTestBoard", "Speck2eDevKit", "Speck2fModuleDevKit", "Speck2fDevKit"])
def test_every_kind_of_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    standin_samna.install(monkeypatch, (kind, 3))
    opened = devkit.Board()
    network = steady()
    events, offsets, edges = recordings(np.random.default_rng(1), network)
    opened.load(network, "all")
    assert_equal(opened.send(events, offsets, edges)[0], simulate(network, events, offsets, edges))
    opened.close()


def test_a_network_spread_for_the_readout(opened: devkit.Board) -> None:
    rng = np.random.default_rng(5)
    last = networks.layer(rng.integers(-20, 60, (6, 2, 5, 5)), (2, 5, 5), threshold=120)
    plain = place_network(ChipNetwork((last,), (2, 5, 5)))
    spread = spread_readout(plain)
    events, offsets, edges = recordings(rng, plain)
    opened.load(spread)
    ours, _ = opened.send(events, offsets, edges)
    assert ours.counts.sum() > 0
    np.testing.assert_array_equal(ours.counts, simulate(plain, events, offsets, edges).counts)
    np.testing.assert_array_equal(ours.decision_us, simulate(plain, events, offsets, edges).decision_us)


def test_states_are_zeroed_before_each_recording(kit: standin_samna.Standin, opened: devkit.Board) -> None:
    network = steady()
    one = networks.recording(np.random.default_rng(0), network, 60)
    events, offsets = networks.joined([one] * 4)
    opened.load(network)
    ours, _ = opened.send(events, offsets)
    assert ours.counts[0].sum() > 0
    assert (ours.counts == ours.counts[0]).all()
    steps = [step for i, step in enumerate(kit.chip.log) if i == 0 or step != kit.chip.log[i - 1]]
    assert steps == ["zero", "reset", "start", "spikes"] * 4
    assert kit.chip.configured == 1
    again = one.copy()
    again["t"] += one["t"][-1]
    carried = simulate(network, np.concatenate([one, again]), np.array([0, 2 * len(one)]))
    assert carried.counts.sum() != 2 * ours.counts[0].sum()  # the states do matter


def test_a_board_that_keeps_its_states_is_told(kit: standin_samna.Standin) -> None:
    opened = devkit.Board()
    opened.load(steady())
    kit.faults.stuck_state = 12
    with pytest.raises(RequestError, match=r"speck2fdevkit:0: core \d keeps the state 12 after it was zeroed"):
        opened.send(*recordings(np.random.default_rng(0), steady()))
    assert not kit.open


def test_a_board_that_does_not_answer_is_told_and_given_back(kit: standin_samna.Standin) -> None:
    opened = devkit.Board()
    opened.load(steady())
    kit.faults.deaf = True
    with pytest.raises(RequestError, match=r"no answer from core 0, 1 in 5 s; reset or reconnect"):
        opened.send(*recordings(np.random.default_rng(0), steady()))
    assert not kit.open
    with pytest.raises(RequestError, match="was given back"):
        opened.load(steady())
    devkit.Board().close()


def one_recording(network: ChipNetwork) -> tuple[np.ndarray, np.ndarray]:
    one = networks.recording(np.random.default_rng(0), network, 200, outside=False)
    one["t"] = np.arange(200) * 50
    return networks.joined([one])


def test_reading_ends_when_it_is_quiet(kit: standin_samna.Standin, opened: devkit.Board) -> None:
    network = steady()
    events, offsets = one_recording(network)
    opened.load(network)
    ideal = simulate(network, events, offsets)
    begin = kit.clock.now
    ours, _ = opened.send(events, offsets)
    assert_equal_counts(ours, ideal)
    last_s = 1e-6 * int(events["t"][-1])
    assert last_s + 0.1 + 0.02 <= kit.clock.now - begin < last_s + 0.1 + 0.02 + 0.01  # delay, quiet, a few polls
    assert max(kit.clock.slept) <= 0.001

    kit.faults.latency_us = kit.faults.straggler_us = 15_000  # the last event 30 ms late, 15 after the one before it
    ours, _ = opened.send(events, offsets)
    assert_equal_counts(ours, ideal)
    kit.faults.latency_us = 300

    kit.faults.straggler_us = 60_000
    ours, traffic = opened.send(events, offsets)
    assert traffic.received[0] == ideal.counts.sum() - 1
    assert not traffic.unfinished[0]
    kit.faults.straggler_us = 0
    ours, traffic = opened.send(events, offsets)  # the straggler came in between, and is no part of it
    assert_equal_counts(ours, ideal)
    assert traffic.stray[0] == 1


def assert_equal_counts(ours: ChipAnswer, ideal: ChipAnswer) -> None:
    assert ideal.counts.sum() > 0
    np.testing.assert_array_equal(ours.counts, ideal.counts)


def test_waiting_has_an_end(kit: standin_samna.Standin) -> None:
    network = steady()
    events, offsets = one_recording(network)
    opened = devkit.Board(quiet_us=20_000, max_wait_us=15_000)
    opened.load(network)
    kit.faults.latency_us = 12_000
    begin = kit.clock.now
    _, traffic = opened.send(events, offsets)
    assert traffic.unfinished.tolist() == [1]
    assert kit.clock.now - begin < 0.1 + 0.01 + 0.015 + 0.01
    opened.close()


def test_events_wait_for_their_time(kit: standin_samna.Standin) -> None:
    """Writing 200 events takes 20 ms: with the delay they enter when they should, without it in a burst."""
    network = steady()
    events, offsets = one_recording(network)
    kit.faults.write_us = 100
    ideal = simulate(network, events, offsets, record=("output",))
    assert ideal.output is not None
    for delay, late in ((100_000, 0), (0, 1)):
        opened = devkit.Board(start_delay_us=delay)
        opened.load(network)
        ours, traffic = opened.send(events, offsets, record=("output",))
        opened.close()
        assert traffic.late.tolist() == [late]
        assert ours.output is not None
        assert np.array_equal(ours.output.t, ideal.output.t) == (not late)


def test_events_that_belong_to_nothing_are_counted(kit: standin_samna.Standin, opened: devkit.Board) -> None:
    network = steady()
    core = network.layers[-1].core
    hidden = network.layers[0].core
    kit.faults.noise = [
        (8, 0, 0, 0, 100_500), (hidden, 0, 0, 0, 100_500), (core, 99, 0, 0, 100_500), (core, 0, 50, 0, 100_500),
        (core, 0, 0, 50, 100_500), (core, 0, 0, 0, 5),
    ]  # fmt: skip
    events, offsets = one_recording(network)
    opened.load(network)
    ours, traffic = opened.send(events, offsets)
    assert traffic.stray.tolist() == [6]
    assert_equal_counts(ours, simulate(network, events, offsets))


def test_what_is_not_monitored_is_not_known(opened: devkit.Board) -> None:
    network = steady()
    events, offsets, edges = recordings(np.random.default_rng(2), network)
    opened.load(network)
    ours, _ = opened.send(events, offsets, edges)
    ideal = simulate(network, events, offsets, edges)
    np.testing.assert_array_equal(ours.counts, ideal.counts)
    assert np.isnan(ours.events_per_layer[:, 0]).all()
    np.testing.assert_array_equal(ours.events_per_layer[:, 1], ideal.events_per_layer[:, 1])
    np.testing.assert_array_equal(ours.synops[:, 0], ideal.synops[:, 0])
    assert np.isnan(ours.synops[:, 1]).all()
    assert np.isnan(ours.saturations).all()
    for what, remedy in (("v_mem", "observer.v_mem=false"), ("counts", "monitor=all"), ("events", "monitor=all")):
        with pytest.raises(RequestError, match=rf"record={what}: a board so monitored tells output; .*{remedy}"):
            opened.send(events, offsets, edges, record=(what,))


def test_what_the_chip_cannot_hold_is_refused(kit: standin_samna.Standin, opened: devkit.Board) -> None:
    network = steady()
    first, second = network.layers
    with pytest.raises(RequestError, match=r"layer layer: min_v_mem=0 is a known fault of the chip; use -1"):
        opened.load(replace(network, layers=(replace(first, min_v_mem=0), second)))
    oblong = networks.single(np.ones((2, 2, 1, 3)), (2, 8, 8))
    with pytest.raises(RequestError, match="kernel is 1 x 3; the chip allows square ones only"):
        opened.load(replace(oblong, layers=(replace(oblong.layers[0], core=0),)))
    with pytest.raises(RequestError, match=r"target\.monitor=none: allowed are readout, all"):
        opened.load(network, "none")
    kit.faults.refuses = "core 3 is odd"
    with pytest.raises(RequestError, match="samna refuses the configuration: core 3 is odd"):
        opened.load(network)


# which board


@pytest.mark.parametrize(
    ("boards", "device", "key", "address"),
    [
        ([KIT], None, "speck2fdevkit:0", 7),
        ([KIT], "speck2fdevkit", "speck2fdevkit:0", 7),
        ([("Speck2fDevKit", 9), ("Speck2fDevKit", 2)], "speck2fdevkit:1", "speck2fdevkit:1", 9),
        ([("Speck2fDevKit", 9), ("DVXplorer", 1)], None, "speck2fdevkit:0", 9),
        ([("Speck2eDevKit", 4), KIT], "speck2edevkit:0", "speck2edevkit:0", 4),
    ],
)
def test_a_board_is_found_by_name(
    monkeypatch: pytest.MonkeyPatch, boards: list[tuple[str, int]], device: str | None, key: str, address: int
) -> None:
    standin_samna.install(monkeypatch, *boards)
    found, info = devkit.pick(device)
    assert (found, info.usb_device_address) == (key, address)


@pytest.mark.parametrize(
    ("boards", "device", "message"),
    [
        ([], None, "no Speck 2e or 2f board is connected; connect one, or use target.backend=simulator"),
        ([("DVXplorer", 1)], None, "no Speck 2e or 2f board is connected"),
        ([KIT, ("Speck2eDevKit", 1)], None, "connected are speck2edevkit:0, speck2fdevkit:0; choose one of them"),
        ([KIT], "speck2fdevkit:1", "target.device=speck2fdevkit:1: connected are speck2fdevkit:0;"),
        ([KIT], "speck3:0", "kinds are speck2e, speck2edevkit, speck2fmodule, speck2fdevkit"),
        ([KIT], "speck2fdevkit:one", "needs a kind and a number, as in speck2fdevkit:0"),
        ([KIT], "speck2fdevkit:-1", "needs a kind and a number"),
    ],
)
def test_a_wrong_name_is_told_what_there_is(
    monkeypatch: pytest.MonkeyPatch, boards: list[tuple[str, int]], device: str | None, message: str
) -> None:
    standin_samna.install(monkeypatch, *boards)
    with pytest.raises(RequestError) as error:
        devkit.Board(device)
    assert message in str(error.value)


def test_the_stub_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devkit, "samna_is_real", lambda: False)
    monkeypatch.setitem(sys.modules, "samna", None)  # an import would raise
    with pytest.raises(RequestError, match="the real samna is not installed"):
        devkit.Board()
    monkeypatch.setattr(devkit, "samna_is_real", lambda: True)
    with pytest.raises(RequestError, match="samna cannot be imported"):
        devkit.Board()


# one at a time


def test_a_board_has_one_user(kit: standin_samna.Standin) -> None:
    first = devkit.Board()
    with pytest.raises(RequestError, match=rf"speck2fdevkit:0: process {os.getpid()} is using the board"):
        devkit.Board()
    first.close()
    first.close()
    second = devkit.Board()
    del second  # and one that is forgotten is given back too
    assert not kit.open
    devkit.Board().close()


def test_another_process_is_named_and_its_death_frees_the_board(kit: standin_samna.Standin, tmp_path: Path) -> None:
    code = (
        "import sys, time, types; from cil_spl.targets import devkit\n"
        "with devkit._lock('speck2fdevkit:0', types.SimpleNamespace(usb_bus_number=1, usb_device_address=7)):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RequestError, match=rf"process {other.pid} is using the board"):
            devkit.Board()
        other.kill()
    devkit.Board().close()


def test_a_board_that_cannot_be_opened_is_not_kept(kit: standin_samna.Standin) -> None:
    kit.faults.dead_open = True
    with pytest.raises(RequestError, match=r"speck2fdevkit:0: cannot be opened \(device busy\)"):
        devkit.Board()
    kit.faults.dead_open = False
    devkit.Board().close()


def test_a_run_gives_its_board_back(kit: standin_samna.Standin) -> None:
    target = Speck(backend="device")
    assert kit.open
    with pytest.raises(ZeroDivisionError), released(target):
        raise ZeroDivisionError
    assert not kit.open


def test_a_run_that_is_refused_gives_its_board_back(kit: standin_samna.Standin, tmp_path: Path) -> None:
    """The board is taken before it is known whether the network fits."""
    layers = "model.layers=[{conv:512,kernel:3,padding:1},{linear:classes}]"
    cfg = composed(["target.backend=device", "target.monitor=all", "tracking.enabled=false", layers])
    for attempt in (lambda: pipeline.validate(cfg), lambda: pipeline.run(cfg, tmp_path / "run")):
        with pytest.raises(RequestError, match="conv1") as refused:
            attempt()
        assert refused.tb is not None  # holds on to the target, which would otherwise go, and its board with it
        assert not kit.open


# the target


def batches(n: int = 5) -> Batches:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(n):
        events = np.zeros(120, EVENT)
        for name, high in (("x", 8), ("y", 8), ("p", 2)):
            events[name] = rng.integers(0, high, 120)
        events["t"] = np.sort(rng.integers(0, 1000, 120))
        made.append(events)
    return Batches(from_list(made, [0, 1, 2, 0, 1][:n], (8, 8, 2), ("a", "b", "c")), 3, Frames(4), pad=True)


def network(target: Speck) -> TargetNetwork:
    torch.manual_seed(0)
    net = build(PLAN, family="snn", neuron={"min_v_mem": -1.0})
    with torch.no_grad():
        net.conv1.weight.mul_(2)
        net.linear2.weight.abs_().mul_(8)
    target.place(PLAN)
    return target.quantize(net)


def evaluated(target: Speck) -> ev.Evaluation:
    return ev.evaluate(target.answer(network(target)), batches().epoch(0), classification())


def test_the_device_is_evaluated_as_the_simulator_is(kit: standin_samna.Standin) -> None:
    target = Speck(backend="device", monitor="all")
    ours, ideal = evaluated(target), evaluated(Speck(backend="simulator"))
    np.testing.assert_array_equal(ours.outputs, ideal.outputs)
    assert ours.outputs.sum() > 0
    board_metrics = {name: ours.metrics.pop(name) for name in list(ours.metrics) if name.startswith("board_")}
    wanted = {name: value for name, value in ideal.metrics.items() if not name.startswith("saturations")}
    assert ours.metrics == wanted
    assert board_metrics["board_sent"] == 120
    assert board_metrics["board_received"] == ideal.metrics["events"]
    assert board_metrics["board_lost"] == board_metrics["board_surplus"] == 0
    assert target.judge(ours.metrics | board_metrics) == []
    t, k = target.output_events(network(target), next(batches(1).epoch(0)))
    assert len(t) == len(k) == ideal.outputs[0].sum()
    target.close()


def test_a_board_in_the_loop(kit: standin_samna.Standin) -> None:
    """What an observer asks for: any chip's answer, without losing the one that is evaluated."""
    target, twin = Speck(backend="device", monitor="all"), Speck(backend="simulator")
    before = evaluated(target)
    ours, theirs = (of.answer(network(of)) for of in (target, twin))
    batch = next(batches().epoch(0))
    chip = network(target).chip
    assert chip is not None
    other = replace(chip, layers=(replace(chip.layers[0], threshold=60), *chip.layers[1:]))
    seen, ideal = (of.send(other, batch, record=("counts",)) for of in (target, twin))
    assert_equal(seen, ideal)
    for a, b in zip(seen.layer_counts or [], ideal.layer_counts or [], strict=True):
        np.testing.assert_array_equal(a, b)
    assert seen.counts.sum() != before.outputs[:3].sum()
    np.testing.assert_array_equal(ours(batch).counts, theirs(batch).counts)
    with pytest.raises(RequestError, match=r"observer\.die: a board is its own die"):
        target.send(other, batch, die=Die(seed=1))
    target.close()


def test_totals_of_layers_that_are_not_known_are_left_out(kit: standin_samna.Standin) -> None:
    target = Speck(backend="device")
    metrics = evaluated(target).metrics
    target.close()
    assert {"events/linear2", "synops/conv1"} <= set(metrics)
    assert not {"events", "synops", "events/conv1", "synops/linear2"} & set(metrics)
    assert not any(name.startswith("saturations") for name in metrics)


def test_lost_events_are_counted_and_told(kit: standin_samna.Standin) -> None:
    target = Speck(backend="device", monitor="all")
    kit.faults.drop_every = 10
    found = evaluated(target)
    target.close()
    ideal = evaluated(Speck(backend="simulator"))
    per_recording = sum(ideal.events.values())
    assert found.metrics["board_lost"] == np.mean(per_recording // 10)
    assert found.metrics["board_received"] == np.mean(per_recording - per_recording // 10)
    (warning,) = target.judge(found.metrics)
    assert "fewer than the ideal chip" in warning


def test_late_and_unfinished_recordings_are_told() -> None:
    warnings = Speck(backend="simulator").judge({"board_late": 0.25, "board_unfinished": 1.0, "board_stray": 2.5})
    assert [w.partition("; ")[2] or w for w in warnings] == [
        "raise target.start_delay_us",
        "raise target.max_wait_us",
        "2.5 events per recording came from the board that belong to no neuron or time in it",
    ]


def test_repeats_are_averaged_and_their_spread_reported(kit: standin_samna.Standin) -> None:
    target = Speck(backend="device", repeats=3)
    steady_board = evaluated(target)
    assert steady_board.metrics["repeat_spread"] == 0
    assert steady_board.metrics["repeat_same"] == 1
    kit.faults.jitter = np.random.default_rng(0)
    found = evaluated(target)
    target.close()
    kit.faults.jitter = np.random.default_rng(0)
    once = Speck(backend="device")
    answer = once.answer(network(once))
    evaluated_thrice = []
    for batch in batches().epoch(0):
        kit.faults.jitter = kit.faults.jitter if evaluated_thrice else np.random.default_rng(0)
        evaluated_thrice.append(np.array([answer(batch).counts.sum(1)[batch.mask.numpy()] for _ in range(3)]))
    once.close()
    each = np.concatenate(evaluated_thrice, axis=1)  # repeat, recording, class
    np.testing.assert_allclose(found.outputs, each.mean(0))
    assert found.metrics["repeat_spread"] == pytest.approx(each.std(0, ddof=1).mean())
    assert found.metrics["repeat_spread"] > 0


def test_auto_takes_a_connected_board(monkeypatch: pytest.MonkeyPatch, kit: standin_samna.Standin) -> None:
    target = Speck()
    assert target.backend == "device"
    target.close()
    assert Speck(die={"seed": 1, "dead": 0.1}).backend == "simulator"
    assert Speck(backend="simulator").backend == "simulator"
    kit.infos.clear()
    assert Speck().backend == "simulator"
    monkeypatch.setitem(sys.modules, "samna", None)
    assert Speck().backend == "simulator"
    with pytest.raises(RequestError, match=r"target\.backend=chip: allowed are auto, simulator, device"):
        board.choose("chip")


def test_what_only_the_other_back_end_has_is_refused(kit: standin_samna.Standin) -> None:
    with pytest.raises(RequestError, match=r"target\.repeats=2: the simulator gives the same answer each time"):
        Speck(backend="simulator", repeats=2)
    with pytest.raises(RequestError, match=r"target\.die=.*a board is its own die"):
        Speck(backend="device", die={"seed": 1})
    assert not kit.open


def test_doctor_lists_boards(kit: standin_samna.Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    from cil_spl.cli import doctor

    monkeypatch.setattr(doctor, "samna", lambda: ("real", "0.48"))
    assert list(doctor.chip())[1] == ("ok", "boards", "speck2fdevkit:0")
    kit.infos.clear()
    assert list(doctor.chip())[1] == ("--", "boards", "no Speck 2e or 2f is connected")
    monkeypatch.setitem(sys.modules, "samna", None)
    mark, _, text = list(doctor.chip())[1]
    assert mark == "!!"
    assert "cannot be imported" in text
