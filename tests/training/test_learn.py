"""The loop apart from the gradient: an update after each yield, several gradients one after another, what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.training.learn import Step, learn
from cil_spl.training.update import Trainer
from tests.methods.test_methods import context


class Net(nn.Module):
    """One weight; what learns it counts the updates."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def pull(net: Net, log: list[tuple[str, float]], name: str, times: int = 1) -> Any:
    """A gradient of 1, ``times`` a batch, that notes the weight it saw."""

    def of(batch: Batch) -> Iterator[Step]:
        for k in range(times):
            log.append((name, round(float(net.w), 6)))
            net.w.grad = torch.ones(())
            yield Step(torch.tensor(float(k)), torch.zeros(len(batch), 3))

    return of


def run(folder: Path, net: Net, gradient: Any, epochs: int = 2, **options: Any) -> list[dict[str, float]]:
    """15 recordings per epoch in batches of 10: two batches."""
    lines: list[dict[str, float]] = []
    trainer = Trainer(epochs=epochs, batch_size=30, optimizer="sgd", momentum=0.0, schedule="constant")
    ctx = context(folder, trainer=trainer, log=lambda metrics, _: lines.append(metrics))
    learn(ctx, net, gradient, lr=0.1, score=lambda: {"accuracy": float(len(lines))}, **options)
    return lines


def test_the_weights_have_changed_after_each_yield(tmp_path: Path) -> None:
    net, log = Net(), []
    lines = run(tmp_path, net, pull(net, log, "g", times=3), epochs=1)
    assert [w for _, w in log] == [0.0, -0.1, -0.2, -0.3, -0.4, -0.5]  # two batches, three updates each
    assert lines[0]["train/loss"] == 1.0  # the mean of 0, 1 and 2


def test_each_gradient_has_its_share_of_the_updates(tmp_path: Path) -> None:
    net, log = Net(), []
    run(tmp_path, net, [(0.25, pull(net, log, "a")), (0.5, pull(net, log, "b")), (1.0, pull(net, log, "c"))])
    assert [name for name, _ in log] == ["a", "b", "c", "c"]


def test_what_else_changes_is_kept_with_the_network(tmp_path: Path) -> None:
    class Counter:
        n = 0

        def state_dict(self) -> dict[str, Any]:
            return {"n": self.n}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.n = state["n"]

    counter, net = Counter(), Net()

    def counting(batch: Batch) -> Iterator[Step]:
        counter.n += 1
        net.w.grad = torch.ones(())
        yield Step(torch.tensor(0.0), torch.zeros(len(batch), 3))

    run(tmp_path, net, counting, keep={"counter": counter})
    assert counter.n == 4
    later = Counter()
    run(tmp_path, net, counting, keep={"counter": later})  # over: put back, not trained again
    assert later.n == 4


def test_a_transform_and_params_reach_the_optimizer(tmp_path: Path) -> None:
    net, log = Net(), []
    other = nn.Parameter(torch.zeros(()))
    seen: list[int] = []

    def double(params: list[nn.Parameter]) -> None:
        seen.append(len(params))
        for p in params:
            p.grad = 2 * p.grad if isinstance(p.grad, Tensor) else None

    run(tmp_path, net, pull(net, log, "g"), epochs=1, params=[net.w], transform=double)
    assert float(net.w) == float(torch.tensor(-0.4))
    assert seen == [1, 1]
    assert float(other) == 0.0
