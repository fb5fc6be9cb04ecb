"""What a method is handed: where training starts from, losses of padded batches, batches of several ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from torch import nn

from cil_spl import schema
from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.models.configured import plan_of
from cil_spl.models.neurons import make, weights_of
from cil_spl.models.options import Backend
from cil_spl.tasks.classification import classification
from cil_spl.training.context import MASTER, Frames, begin, context_of
from tests.methods.test_methods import context


def network(threshold: float = 1.0, low: float = -8.0) -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(2, 3, 3, bias=False))
    net.add_module("norm", nn.BatchNorm2d(3))
    net.add_module("spike", make(spike_threshold=threshold, min_v_mem=low))
    return net


def test_it_keeps_normalisation_statistics_and_thresholds() -> None:
    earlier = network(threshold=0.5, low=-4.0)
    with torch.no_grad():
        earlier.get_submodule("norm").running_mean.fill_(3.0)
        earlier.get_submodule("norm").running_var.fill_(2.0)
    net = network(threshold=1.0, low=-8.0)
    told = begin(net, weights_of(earlier))
    assert torch.equal(net.get_submodule("norm").running_mean, torch.full((3,), 3.0))
    assert torch.equal(net.get_submodule("norm").running_var, torch.full((3,), 2.0))
    assert float(net.get_submodule("spike").spike_threshold) == 0.5
    assert float(net.get_submodule("spike").min_v_mem) == -8.0  # no run learns it: the config's
    assert torch.equal(net.get_submodule("conv").weight, earlier.get_submodule("conv").weight)
    assert len(told) == 1
    assert "layer spike keeps the threshold 0.5" in told[0]
    assert "model.neuron.spike_threshold=1 has no effect" in told[0]


def test_of_rounded_weights_the_float_masters_are_taken() -> None:
    earlier = network()
    start = {name.replace("conv.weight", f"conv{MASTER}"): w for name, w in weights_of(earlier).items()}
    net = network()
    assert begin(net, start) == []
    assert torch.equal(net.get_submodule("conv").weight, earlier.get_submodule("conv").weight)


def test_weights_that_are_missing_are_named() -> None:
    start = {name: w for name, w in weights_of(network()).items() if name != "conv.weight"}
    with pytest.raises(RequestError, match=r"start_from: weights: conv\.weight should have shape .* found nothing"):
        begin(network(), start)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_every_batch_of_one_process(world: int, tmp_path: Path) -> None:
    """What all ranks see in a step is the batch that one process would see; shares make their mean its mean."""
    train = context(tmp_path).experiences[0].train.subset(range(23))
    whole = Batches(train, 6 * world, Frames(1), shuffle=True, seed=4)
    ranks = [Batches(train, 6, Frames(1), shuffle=True, seed=4, rank=r, world=world) for r in range(world)]
    for epoch in (0, 1):
        for one, *parts in zip(whole.epoch(epoch), *(r.epoch(epoch) for r in ranks), strict=True):
            seen = np.concatenate([part.index[part.index >= 0] for part in parts])
            assert sorted(seen) == sorted(one.index[one.index >= 0])
            value = np.arange(23.0) ** 2
            real = [(part.share, part.index[part.index >= 0]) for part in parts]
            means = [share * value[index].mean() for share, index in real if len(index)]
            assert sum(means) / world == pytest.approx(value[one.index[one.index >= 0]].mean())


def test_a_loss_is_weighed_by_the_share_of_its_batch(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    (batch, *_) = Batches(ctx.experiences[0].train.subset(range(5)), 4, Frames(1), rank=0, world=2).epoch(0)
    assert batch.share == pytest.approx(2 * 3 / 5)
    outputs = torch.randn(3, 3)
    alone = ctx.task.loss(outputs, batch.target)
    torch.testing.assert_close(ctx.loss(outputs, batch), alone * 6 / 5)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Backend("auto", False)),
        (["neurons.backend=fused", "neurons.recompute=true"], Backend("fused", True)),
        (["neurons.backend=sinabs", "quantize.aware=true"], Backend("sinabs", False)),
    ],
)
def test_how_neurons_are_computed_reaches_the_network(overrides: list[str], expected: Backend, tmp_path: Path) -> None:
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        cfg = schema.check_config(compose("config", overrides=overrides))
    record = SimpleNamespace(folder=tmp_path, log=lambda *_: None, warn=lambda *_: None)
    task = classification()
    net = context_of(cfg, plan_of(cfg, task), (), task, record, None).build("snn")
    assert net.backend == expected
    assert {module.backend for module in net.modules() if hasattr(module, "v_mem")} == {expected.backend}
