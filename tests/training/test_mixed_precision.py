"""bfloat16 where weights are multiplied, float32 everywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.methods import bptt, conversion, sltt_k
from cil_spl.models import answers, neurons
from cil_spl.models.synapse import synapse
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import TrainingContext
from cil_spl.training.mixed_precision import bfloat16, mixed
from cil_spl.training.update import Trainer
from tests.methods.test_methods import context

CPU = torch.device("cpu")
BF16 = {"trainer": Trainer(epochs=8, batch_size=10, precision="bf16")}
FLOAT32 = {"trainer": Trainer(epochs=8, batch_size=10)}


def accuracy(ctx: TrainingContext, net: Any) -> float:
    test = ctx.batches(ctx.experiences[0].test, train=False)
    return ev.evaluate(answers.stepped_answer(net), test.epoch(0), ctx.task).metrics["accuracy"]


def test_it_trains_with_neurons_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, ...]] = []
    run = neurons.run

    def watched(name: str, layer: Any, current: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        out = run(name, layer, current, *rest, **more)
        seen.append((current.dtype, *(x.dtype for x in out)))
        return out

    monkeypatch.setattr(neurons, "run", watched)
    nets = []
    for options in (BF16, FLOAT32):
        ctx = context(tmp_path / options["trainer"].precision, **options)
        nets.append(bptt.train(ctx, lr=0.03).net)
        assert accuracy(ctx, nets[-1]) > 0.6  # 1/3 by chance
    assert set(seen) == {(torch.float32,) * 3}
    mixed_weights, plain_weights = (net.get_submodule("conv1").weight for net in nets)
    assert mixed_weights.dtype == torch.float32
    assert not torch.equal(mixed_weights, plain_weights)
    assert not torch.equal(mixed_weights, mixed_weights.bfloat16())  # more digits than bfloat16 has


def test_evaluation_is_in_float32_and_leaves_nothing_on_the_network(tmp_path: Path) -> None:
    found = []

    def deployed(net: Any, batches: Any, allowed: Any) -> float:
        found.append(torch.is_autocast_enabled("cpu") or bool(net.get_submodule("conv1")._forward_hooks))
        return 0.0

    bptt.train(context(tmp_path, deployed=deployed, trainer=Trainer(epochs=1, batch_size=30, precision="bf16")))
    assert found == [False]


def test_the_weights_change_between_steps_and_out_of_it() -> None:
    net, found = nn.Linear(2, 2), []

    def along() -> Any:
        for k in range(3):
            found.append(torch.is_autocast_enabled("cpu"))
            yield k

    steps = []
    for k in mixed(along(), net, "bf16", CPU):
        steps.append(k)
        found.append(torch.is_autocast_enabled("cpu"))
    assert steps == [0, 1, 2]
    assert found == [True, False] * 3


def test_every_layer_hands_on_float32() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            within.append(self.inner(x).dtype)
            return x @ x.T, x

    within: list[torch.dtype] = []
    net, x = Two(), torch.randn(3, 3)
    with bfloat16(net, CPU):
        assert nn.functional.linear(x, x).dtype == torch.bfloat16
        assert {one.dtype for one in net(x)} == {torch.float32}
        rounded = net.inner(x)
    assert within == [torch.float32]
    assert not torch.equal(rounded, net.inner(x))
    torch.testing.assert_close(rounded, net.inner(x), rtol=0.02, atol=0.02)
    assert net(x)[0].dtype == torch.float32
    assert not net._forward_hooks


def test_steps_without_a_gradient_leave_the_others_theirs(tmp_path: Path) -> None:
    """SLTT-K runs some steps without a gradient, before others that have one."""
    ctx = context(tmp_path)
    net = ctx.build("snn")
    ctx.scale(net, 1.0)
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    found = []
    for precision in ("float32", "bf16"):
        net.zero_grad()
        along = sltt_k.sltt.gradient(net, ctx, count_scale=0.5, straight_through_output=True, steps=lambda n: [n - 1])
        assert len(list(mixed(along(batch), net, precision, CPU))) == 1
        found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert found[0].shape == found[1].shape
    assert found[1].dtype == torch.float32
    assert not torch.equal(found[0], found[1])
    assert float(torch.cosine_similarity(found[0], found[1], dim=0)) > 0.9


def test_a_cnn_learns_too(tmp_path: Path) -> None:
    ctx = context(tmp_path, **BF16)
    trained = conversion.train(ctx, lr=2e-2, gains=(4.0,))
    assert accuracy(ctx, trained.net) > 0.6


def test_a_loss_is_in_float32(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    batch = next(ctx.batches(ctx.experiences[0].val, train=False).epoch(0))
    out = torch.randn(len(batch), 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert ctx.loss(out.bfloat16(), batch).dtype == torch.float32
        assert torch.equal(ctx.loss(out, batch), torch.nn.functional.cross_entropy(out, batch.target))
    assert ctx.loss(out.double(), batch).dtype == torch.float64


def test_a_loop_of_its_own_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path, **BF16)
    with pytest.raises(RequestError, match=r"trainer\.precision=bf16: this method has a training loop of its own"):
        ctx.fit(step=lambda _: {}, score=dict, batches=ctx.batches(ctx.experiences[0].train, train=True), keep={})


@pytest.mark.parametrize("bias", [False, True])
def test_a_gradient_taken_elsewhere(bias: bool) -> None:
    torch.manual_seed(0)
    for module, shape in ((nn.Linear(6, 4, bias=bias), (5, 6)), (nn.Conv2d(3, 4, 3, bias=bias), (2, 3, 5, 5))):
        x, pre = torch.randn(shape, requires_grad=True), torch.randn(shape)
        back = torch.randn_like(module.weight)
        found = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = synapse(module, x, pre=pre, back=back)
            found.append([y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])])
        for plain, rounded in zip(*found, strict=True):
            assert rounded.dtype == torch.float32
            assert not torch.equal(plain, rounded)
            assert float(torch.cosine_similarity(plain.flatten(), rounded.flatten(), dim=0)) > 0.999
