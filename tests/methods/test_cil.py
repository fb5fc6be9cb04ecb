"""Chip in the loop: exact identities of the proxy gradient, with a chip that is the twin, is random, or is the chip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cil_spl.base.errors import RequestError
from cil_spl.chip.observer import ChipObserver
from cil_spl.chip.quantize import quantize
from cil_spl.chip.rounding import Precision
from cil_spl.data.batches import Batch, Batches
from cil_spl.methods import bptt, cil_bptt, cil_conversion
from cil_spl.models.forward import forward, straight_through
from cil_spl.models.init import scale_to_rate
from cil_spl.models.neurons import Observation
from cil_spl.models.stages import stages
from cil_spl.targets.speck import Speck
from cil_spl.training.context import Frames, TrainingContext
from cil_spl.training.update import Trainer, Update
from tests.methods.test_methods import NEURON, PLAN, context

NEURONS = [stage.neuron for stage in stages(PLAN)]


def weights(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


class Given:
    """An observer that says what it is given: a function of network and batch to observations (T, B, ...)."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def load(self, net: nn.Sequential) -> None:
        self.net = net

    def open(self, batch: Batch) -> None:
        self.seen = self.answer(self.net, batch)

    def windows(self) -> dict[str, Observation]:
        return self.seen

    def window(self, t: int) -> dict[str, Observation]:
        return {k: Observation(*(None if x is None else x[t : t + 1] for x in o)) for k, o in self.seen.items()}


def software(names: list[str], v_mem: bool) -> Given:
    """A chip that does exactly what the twin does."""

    @torch.no_grad()
    def answer(net: nn.Sequential, batch: Batch) -> dict[str, Observation]:
        steps = len(batch.frames)
        _, _, counts = forward(net, batch.frames, record=names)
        ends = [forward(net, batch.frames[: t + 1])[1] for t in range(steps)]
        return {n: Observation(counts[n], torch.stack([e[n] for e in ends]) if v_mem else None) for n in names}

    return Given(answer)


def arbitrary(names: list[str], v_mem: bool) -> Given:
    """A chip that does anything, in whole events."""
    random = torch.Generator().manual_seed(7)

    def answer(net: nn.Sequential, batch: Batch) -> dict[str, Observation]:
        with torch.no_grad():
            _, _, shapes = forward(net, batch.frames, record=names)
        return {
            n: Observation(
                torch.randint(0, 5, s.shape, generator=random).float(),
                torch.rand(s.shape, generator=random) if v_mem else None,
            )
            for n, s in shapes.items()
        }

    return Given(answer)


def trained(method: Any, observer: Any, folder: Path, *, bins: int = 3, epochs: int = 2, **options: Any) -> Any:
    s = context(folder, observer=observer, frames=Frames(bins=bins), trainer=Trainer(epochs=epochs, batch_size=10))
    return method.train(s, lr=2e-2, **options).net


@pytest.mark.parametrize("names", [NEURONS[-1:], NEURONS], ids=["output", "all"])
@pytest.mark.parametrize("v_mem", [False, True])
@pytest.mark.parametrize("loss", ["counts", "steps"])
def test_a_chip_equal_to_software_trains_bit_for_bit_as_bptt(
    names: list[str], v_mem: bool, loss: str, tmp_path: Path
) -> None:
    plain = trained(bptt, None, tmp_path / "a", loss=loss)
    proxy = trained(cil_bptt, software(names, v_mem), tmp_path / "b", loss=loss, plain=0.0)
    for a, b in zip(weights(plain), weights(proxy), strict=True):
        assert torch.equal(a, b)
    assert any(p.abs().max() > 0 for p in weights(plain))


def first_gradient(method: Any, observer: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> Any:
    """Weights before and gradients of the first step, the loss, the batch, and what the chip said."""
    found: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def update(self: Any) -> None:
        found["grads"] = [p.grad.clone() for p in self.params]
        found["weights"] = [p.detach().clone() for p in self.params]
        raise Stop

    monkeypatch.setattr(Update, "__call__", update)
    opened = observer.open

    def remember(batch: Batch) -> None:
        found["batch"] = batch
        opened(batch)

    observer.open = remember
    with pytest.raises(Stop):
        trained(method, observer, folder, plain=0.0, **options)
    return found


@pytest.mark.parametrize("bins", [1, 3])
@pytest.mark.parametrize("v_mem", [False, True])
@pytest.mark.parametrize("loss", ["counts", "steps"])
def test_the_gradient_is_the_twins_with_the_losss_derivative_at_the_chips_counts(
    bins: int, v_mem: bool, loss: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the output layer alone; with one window this is the conversion form with a spiking twin."""
    observer = arbitrary(NEURONS[-1:], v_mem)
    found = first_gradient(cil_bptt, observer, monkeypatch, tmp_path, bins=bins, loss=loss)
    batch, counts = found["batch"], observer.seen[NEURONS[-1]].counts
    s = context(tmp_path)
    net = s.build("snn")
    with torch.no_grad():
        for p, w in zip(weights(net), found["weights"], strict=True):
            p.copy_(w)
    at = counts.clone().requires_grad_()
    value = bptt.loss_of(s, at, batch, loss, 0.25)
    (derivative,) = torch.autograd.grad(value, at)
    out, _, _ = forward(net, batch.frames, fire=straight_through(NEURONS[-1:]))
    expected = torch.autograd.grad(out, weights(net), grad_outputs=derivative)
    assert not torch.equal(out, counts)
    for a, b in zip(found["grads"], expected, strict=True):
        assert torch.equal(a, b)


def test_conversion_gradient_is_the_cnns_at_the_chips_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    observer = arbitrary(NEURONS[-1:], False)
    found = first_gradient(cil_conversion, observer, monkeypatch, tmp_path, bins=1)
    s = context(tmp_path)
    net = s.build("cnn")
    with torch.no_grad():
        for p, w in zip(weights(net), found["weights"], strict=True):
            p.copy_(w)
    batch = found["batch"]
    at = observer.seen[NEURONS[-1]].counts[0].clone().requires_grad_()
    (derivative,) = torch.autograd.grad(s.loss(0.25 * at, batch), at)
    expected = torch.autograd.grad(net(batch.frames[0]), weights(net), grad_outputs=derivative)
    for a, b in zip(found["grads"], expected, strict=True):
        assert torch.equal(a, b)


def test_with_all_layers_a_weight_learns_from_the_events_it_was_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """dL/dW of the last layer is the loss's derivative times the pooled events that the chip's layer before made."""
    observer = arbitrary(NEURONS, True)
    found = first_gradient(cil_bptt, observer, monkeypatch, tmp_path, bins=2)
    batch, seen = found["batch"], observer.seen
    at = seen[NEURONS[-1]].counts.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(bptt.loss_of(context(tmp_path), at, batch, "counts", 0.25), at)
    sent = torch.nn.functional.avg_pool2d(seen[NEURONS[0]].counts.flatten(0, 1), 2)  # T B C H W -> (T B) C H W
    expected = torch.einsum("nk,ni->ki", derivative.flatten(0, 1), sent.flatten(1))
    torch.testing.assert_close(found["grads"][-1], expected, rtol=1e-5, atol=1e-6)


class Checked(ChipObserver):
    """The real observer, which looks at the chip's weights each time that it runs."""

    def load(self, net: nn.Sequential) -> None:
        super().load(net)
        self.loaded = net

    def open(self, batch: Batch) -> None:
        expected, _ = quantize(self.loaded)
        assert self.chip is not None
        for layer, other in zip(self.chip.layers, expected.layers, strict=True):
            assert layer.weight.dtype == np.int8
            assert np.array_equal(layer.weight, other.weight)
            assert (layer.threshold, layer.min_v_mem) == (other.threshold, other.min_v_mem)
        self.runs = getattr(self, "runs", 0) + 1
        super().open(batch)


def speck() -> Speck:
    target = Speck(backend="simulator", threads=1)
    target.place(PLAN)
    return target


@pytest.mark.parametrize("method", [cil_bptt, cil_conversion])
@pytest.mark.parametrize("layers", ["output", "all"])
def test_the_chip_holds_the_rounded_masters_at_every_step(method: Any, layers: str, tmp_path: Path) -> None:
    observer = Checked(speck(), PLAN, layers=layers)
    trained(method, observer, tmp_path, plain=0.5)
    assert observer.runs == 6  # the second of two epochs of six batches


def test_the_chip_in_the_loop_has_the_runs_precision(tmp_path: Path) -> None:
    net = context(tmp_path).build("snn")
    for bits in (3, 8):
        observer = ChipObserver(speck(), PLAN, Precision(bits=bits))
        observer.load(net)
        assert observer.chip is not None
        assert max(int(np.abs(layer.weight).max()) for layer in observer.chip.layers) in (
            2 ** (bits - 1) - 1,
            2 ** (bits - 1),
        )


@pytest.mark.parametrize("layers", ["output", "all"])
def test_what_the_chip_saw_has_no_gradient_and_fits_the_twin(layers: str, tmp_path: Path) -> None:
    s = context(tmp_path)
    net = s.build("snn")
    scale_to_rate(net, s.sample(), 1.0)
    batch = next(s.batches(s.experiences[0].val, train=False).epoch(0))
    observer = ChipObserver(speck(), PLAN, layers=layers, v_mem=True)
    observer.load(net)
    observer.open(batch)
    seen = observer.windows()
    _, _, twin = forward(net, batch.frames, record=NEURONS)
    assert list(seen) == (NEURONS if layers == "all" else NEURONS[-1:])
    for name, o in seen.items():
        assert o.v_mem is not None
        assert not o.counts.requires_grad
        assert not o.v_mem.requires_grad
        assert o.counts.shape == o.v_mem.shape == twin[name].shape
        assert o.counts.sum() > 0
        for values in o:
            assert values is not None
            if values.dim() == 5:  # features innermost in memory: T B y x f
                assert values.permute(0, 1, 3, 4, 2).is_contiguous()
        # In the float network's units: below the threshold as a rule, and not below the lower bound.
        assert float((o.v_mem < 1.0).float().mean()) > 0.99
        assert float(o.v_mem.min()) >= -1.02
        assert torch.equal(observer.window(1)[name].counts, o.counts[1:2])
    whole = next(Batches(s.experiences[0].val, 128, Frames(1)).epoch(0))
    observer.open(whole)
    for name, o in observer.windows().items():
        assert torch.equal(o.counts[0], seen[name].counts.sum(0))  # windows do not change the chip
        assert o.v_mem is not None
        assert torch.equal(o.v_mem[0], seen[name].v_mem[-1])  # type: ignore[index]


class Literal:
    """A target whose chip gives fixed answers, in its own integers."""

    def __init__(self, shapes: list[tuple[int, ...]], threshold: int) -> None:
        self.shapes, self.threshold = shapes, threshold

    def quantize(self, net: nn.Module, precision: Precision) -> Any:
        layers = [SimpleNamespace(threshold=self.threshold + 100 * k) for k in range(len(self.shapes))]
        return SimpleNamespace(chip=SimpleNamespace(layers=layers, readout=None))

    def send(self, chip: Any, batch: Batch, *, record: Any, die: Any) -> Any:
        whole = [np.arange(np.prod(shape), dtype=np.int32).reshape(shape) for shape in self.shapes]
        return SimpleNamespace(layer_counts=[w % 5 for w in whole], layer_v_mem=[w % 400 - 200 for w in whole])


def test_states_are_the_chips_integers_in_units_of_the_threshold(tmp_path: Path) -> None:
    """Of a threshold of 1.5 that the chip holds as 200, 300, …: a state of 200 in the first layer is 1.5."""
    s = context(tmp_path)
    net = s.build("snn")
    with torch.no_grad():
        for name in NEURONS:
            net.get_submodule(name).spike_threshold.fill_(1.5)
    batch = next(s.batches(s.experiences[0].val, train=False).epoch(0))
    _, _, twin = forward(net, batch.frames, record=NEURONS)
    shapes = []
    for values in twin.values():  # T B f y x, or T B f
        steps, n, features, *size = values.shape
        shapes.append((n, steps, features, *(size or (1, 1))))
    observer = ChipObserver(Literal(shapes, 200), PLAN, layers="all", v_mem=True)  # type: ignore[arg-type]
    observer.load(net)
    observer.open(batch)
    for k, (name, shape) in enumerate(zip(NEURONS, shapes, strict=True)):
        seen = observer.windows()[name]
        number = torch.arange(int(np.prod(shape))).reshape(shape).transpose(0, 1).reshape(seen.counts.shape)
        assert seen.v_mem is not None
        assert torch.equal(seen.counts, (number % 5).float())
        expected = 1.5 * (number % 400 - 200).double() / (200 + 100 * k)
        torch.testing.assert_close(seen.v_mem.double(), expected, rtol=1e-6, atol=0)
    assert float(observer.windows()[NEURONS[0]].v_mem[0].flatten()[0]) == -1.5  # type: ignore[index]


def test_output_counts_are_the_same_by_layer_and_by_class(tmp_path: Path) -> None:
    s = context(tmp_path)
    net = s.build("snn")
    scale_to_rate(net, s.sample(), 1.0)
    batch = next(s.batches(s.experiences[0].val, train=False).epoch(0))
    found = []
    for layers in ("output", "all"):
        observer = ChipObserver(speck(), PLAN, layers=layers, v_mem=True)
        observer.load(net)
        observer.open(batch)
        found.append(observer.windows()[NEURONS[-1]])
    assert torch.equal(found[0].counts, found[1].counts)
    assert torch.equal(found[0].v_mem, found[1].v_mem)


@pytest.mark.parametrize("method", [cil_bptt, cil_conversion])
@pytest.mark.parametrize("aware", [False, True])
def test_it_learns(method: Any, aware: bool, tmp_path: Path) -> None:
    target = speck()
    s = context(
        tmp_path,
        observer=ChipObserver(target, PLAN),
        precision=Precision(aware=aware),
        trainer=Trainer(epochs=8, batch_size=10),
    )

    def deployed(net: nn.Sequential, batches: Batches, allowed: Any = None) -> float:
        answer = target.answer(target.quantize(net))
        right = [answer(b).counts.sum(1).argmax(1) == b.target.numpy() for b in batches.epoch(0)]
        return float(np.concatenate(right).mean())

    s = replace(s, deployed=deployed)
    logged: list[dict[str, float]] = []
    s = replace(s, log=lambda metrics, _: logged.append(metrics))
    end = method.train(s, lr=2e-2, plain=0.25, meter=3)
    assert deployed(end.net, s.batches(s.experiences[0].test, train=False)) > 0.6  # 1/3 by chance
    assert all(-1 <= m["val/gradient_cosine"] <= 1 for m in logged)


def test_without_a_chip_it_says_so(tmp_path: Path) -> None:
    for method in (cil_bptt, cil_conversion):
        with pytest.raises(RequestError, match="observer"):
            method.train(context(tmp_path))


def test_starts_from_the_weights_of_another_run(tmp_path: Path) -> None:
    s = context(tmp_path)
    start = {name: torch.randn_like(p) for name, p in s.build("snn").named_parameters() if p.requires_grad}
    for family in ("snn", "cnn"):
        for aware in (False, True):
            net = context(tmp_path, start=start, precision=Precision(aware=aware)).build(family)
            context(tmp_path, start=start).scale(net, 3.0)
            masters = [p.detach() for p in weights(net)]
            for a, b in zip(masters, start.values(), strict=True):
                assert torch.equal(a, b)
    wrong = {name: w[:1] for name, w in start.items()}
    with pytest.raises(RequestError, match="shape"):
        context(tmp_path, start=wrong).build("snn")


def test_the_setting_of_these_tests_has_a_clip_and_neurons_below_it(tmp_path: Path) -> None:
    """Otherwise the identities above would hold for the wrong reason."""
    s: TrainingContext = context(tmp_path)
    net = s.build("snn")
    scale_to_rate(net, s.sample(), 1.0)
    batch = next(s.batches(s.experiences[0].train, train=False).epoch(0))
    _, state, _ = forward(net, batch.frames)
    assert NEURON["min_v_mem"] == -1.0
    assert any((v == -1.0).any() for v in state.values())


def test_training_adapts_to_the_die_in_the_loop(tmp_path: Path) -> None:
    """Of two dies of one kind, each is best served by the network that was trained with it in the loop."""
    dies = {seed: {"seed": seed, "dead": 0.5, "threshold_spread": 0.5} for seed in (1, 2)}
    s = context(tmp_path)

    def loss_on(die: dict[str, Any], net: nn.Sequential) -> float:
        chip = ChipObserver(speck(), PLAN, die=die)
        chip.load(net)
        total = 0.0
        for batch in s.batches(s.experiences[0].train, train=False).epoch(0):
            chip.open(batch)
            total += float(s.loss(0.25 * chip.windows()[NEURONS[-1]].counts.sum(0), batch))
        return total

    loss: dict[tuple[int, int], float] = {}
    for loop, die in dies.items():
        loops = replace(
            s,
            observer=ChipObserver(speck(), PLAN, layers="all", v_mem=False, die=die),
            trainer=Trainer(epochs=20, batch_size=10),
            folder=tmp_path / str(loop),
            deployed=lambda net, _, allowed=None, die=die: -loss_on(die, net),  # what the epoch is chosen by
        )
        net = cil_bptt.train(loops, lr=3e-2, plain=0.25).net
        loss |= {(loop, judge): loss_on(on, net) for judge, on in dies.items()}
    assert loss[1, 1] + loss[2, 2] < 0.85 * (loss[1, 2] + loss[2, 1])
