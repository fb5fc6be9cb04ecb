"""The proof of the seams: SLTT in forty lines, a toy method of two stages, killed and resumed, and on two ranks.

Neither touches the pipeline, the trainer or the forward pass: what they need is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cil_spl.chip.observer import ChipObserver
from cil_spl.chip.rounding import Precision
from cil_spl.data.batches import Batch
from cil_spl.data.events import EVENT, Splits, from_list
from cil_spl.methods import sltt as method
from cil_spl.models import answers
from cil_spl.models.build import plan_from
from cil_spl.models.forward import forward, straight_through
from cil_spl.models.init import scale_to_rate
from cil_spl.targets.speck import Speck
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.classification import classification
from cil_spl.training.checkpoints import Weights
from cil_spl.training.context import Frames, Trained, TrainingContext
from cil_spl.training.update import Trainer, Update


def sltt(ctx: TrainingContext) -> Trained:
    return method.train(ctx, lr=2e-2, count_scale=0.5)


def sltt_gradient(net: torch.nn.Sequential, batch: Batch, ctx: TrainingContext, count_scale: float) -> float:
    along = method.gradient(net, ctx, count_scale=count_scale, straight_through_output=True)
    (step,) = along(batch)
    return float(step.loss)


# --- a toy of two stages: first the output layer alone, then everything ---
def two_stages(ctx: TrainingContext, *, lr: float = 2e-2) -> Trained:
    (data,) = ctx.experiences
    net = ctx.build("snn")
    batches = ctx.batches(data.train, train=True)
    scale_to_rate(net, ctx.sample())
    epochs = ctx.trainer.epochs
    fire = straight_through([net.plan.output])
    for number, names in enumerate((["linear2"], ["conv1", "linear2"])):
        params = [net.get_submodule(name).weight for name in names]
        update = Update(params, ctx.trainer, lr=lr, total_steps=epochs * len(batches))

        def step(batch: Batch, update: Update = update) -> dict[str, float | Tensor]:
            out, _, _ = forward(net, batch.frames, fire=fire)
            loss = ctx.task.loss(0.5 * out.sum(0), batch.target)
            loss.backward()
            update()
            return {"loss": loss.detach()}

        ctx.fit(
            step=step,
            score=lambda: score(ctx, net),
            batches=batches,
            keep={"net": Weights(net), "update": update},
            stage=f"stage{number}",
            first_epoch=number * epochs,
        )
    return Trained(ctx.finish(net))


def score(ctx: TrainingContext, net: torch.nn.Sequential) -> dict[str, float]:
    val = ctx.batches(ctx.experiences[0].val, train=False)
    return {"accuracy": ev.evaluate(answers.stepped_answer(net), val.epoch(0), ctx.task).metrics["accuracy"]}


METHODS = {"sltt": sltt, "two_stages": two_stages}


def make_context(folder: Path, log: Any = lambda *_: None, **trainer: Any) -> TrainingContext:
    """Three classes: a bar on the left, in the middle, on the right, with noise."""
    rng = np.random.default_rng(0)
    recordings, target = [], []
    for i in range(96):
        k, n = i % 3, 60
        events = np.zeros(n, EVENT)
        noise = rng.random(n) < 0.15
        events["x"] = np.where(noise, rng.integers(0, 9, n), 3 * k + rng.integers(0, 3, n))
        events["y"], events["p"] = rng.integers(0, 8, n), rng.integers(0, 2, n)
        events["t"] = np.sort(rng.integers(0, 10_000, n))
        recordings.append(events)
        target.append(k)
    made = from_list(recordings, target, (9, 8, 2), ("left", "middle", "right"))
    data = Splits(made.subset(range(60)), made.subset(range(60, 78)), made.subset(range(78, 96)))
    plan = plan_from("toy", [{"conv": 4, "kernel": 3, "pool": 2}, {"linear": "classes"}], (2, 8, 9), 3)
    options = {"epochs": 4, "batch_size": 12, "schedule": "constant"} | trainer
    torch.manual_seed(0)
    return TrainingContext(
        plan=plan,
        experiences=(data,),
        task=classification(),
        neuron={"spike_threshold": 1.0, "min_v_mem": -1.0},
        precision=Precision(),
        trainer=Trainer(**options),
        frames=Frames(bins=4),
        seed=0,
        device=torch.device("cpu"),
        folder=folder,
        log=log,
        warn=lambda _: None,
    )


@pytest.mark.parametrize("name", METHODS)
def test_learns(name: str, tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    ctx = make_context(tmp_path, lambda metrics, epoch: lines.append(metrics | {"epoch": epoch}))
    trained = METHODS[name](ctx)
    test = ctx.batches(ctx.experiences[0].test, train=False)
    seen = ev.evaluate(answers.stepped_answer(trained.net), test.epoch(0), ctx.task)
    assert seen.metrics["accuracy"] > 0.8
    assert [line["epoch"] for line in lines] == list(range(1, (8 if name == "two_stages" else 4) + 1))


@pytest.mark.parametrize("layers", ["output", "all"])
def test_a_method_that_knows_no_chip_takes_one_in_the_loop(layers: str, tmp_path: Path) -> None:
    """What the loss sees are the chip's counts, and the network that comes out serves the chip."""
    target = Speck(backend="simulator", threads=1)
    ctx = make_context(tmp_path)
    target.place(ctx.plan)
    observer = ChipObserver(target, ctx.plan, layers=layers)
    with_chip = replace(ctx, observer=observer)
    net = ctx.build("snn")
    scale_to_rate(net, ctx.sample())
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    loss = sltt_gradient(net, batch, with_chip, 0.5)
    counts = observer.windows()["spike2"].counts
    expected = sum(float(ctx.task.loss(0.5 * c, batch.target)) / len(counts) for c in counts)
    assert loss == pytest.approx(expected, rel=1e-6)
    observer.load(sltt(with_chip).net)
    right = []
    for part in ctx.batches(ctx.experiences[0].test, train=False).epoch(0):
        observer.open(part)
        right.append(observer.windows()["spike2"].counts.sum(0).argmax(1) == part.target)
    assert torch.cat(right).float().mean() > 0.8


def test_sltt_is_bptt_with_the_states_detached(tmp_path: Path) -> None:
    """The gradient of T separate backward passes equals that of one pass over the graph cut between steps."""
    ctx = make_context(tmp_path)
    net = ctx.build("snn")
    batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
    scale_to_rate(net, batch.frames)
    sltt_gradient(net, batch, ctx, 0.5)
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    state: dict[str, Tensor] = {}
    losses = []
    for frame in batch.frames:
        cut = {k: v.detach() for k, v in state.items()}
        out, state, _ = forward(net, frame[None], cut, fire=straight_through(["spike2"]))
        losses.append(ctx.task.loss(0.5 * out[0], batch.target))
    torch.stack(losses).mean().backward()
    expected = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(found) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "epoch"), [("sltt", 1), ("sltt", 3), ("two_stages", 1), ("two_stages", 3), ("two_stages", 6)]
)
def test_resumed_after_a_kill_gives_the_same_weights(name: str, epoch: int, tmp_path: Path) -> None:
    """Cut off in any stage, a run goes on from its last epoch and ends as if nothing had been."""
    whole = METHODS[name](make_context(tmp_path / "whole")).net

    def kill(_: dict[str, float], at: int) -> None:
        if at == epoch:
            raise _KilledError

    with pytest.raises(_KilledError):
        METHODS[name](make_context(tmp_path / "cut", kill))
    resumed = METHODS[name](make_context(tmp_path / "cut")).net
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_fit_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged again, as it was, and no step is taken."""
    first: list[Any] = []
    again: list[Any] = []
    sltt(make_context(tmp_path, lambda *line: first.append(line)))
    with monkeypatch.context() as patched:
        patched.setattr(Update, "__call__", lambda _: pytest.fail("a step was taken"))
        sltt(make_context(tmp_path, lambda *line: again.append(line)))
    assert again == first
    assert len(again) == 4


def test_two_ranks_keep_equal_weights_and_match_one(tmp_path: Path) -> None:
    """Two ranks with half the batch each take the steps that one rank takes with the whole."""
    port = 20000 + os.getpid() % 20000
    ranks = []
    for rank in range(2):
        env = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
        ranks.append(subprocess.Popen([sys.executable, __file__, str(tmp_path)], env=env))
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    a, b = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    alone = make_context(tmp_path / "alone", epochs=2)
    whole = Weights(sltt(alone).net).state_dict()
    for name in a:
        assert torch.equal(a[name], b[name])
        torch.testing.assert_close(a[name], whole[name], rtol=1e-3, atol=1e-4)


def _rank(folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    ctx = make_context(folder / "checkpoints", epochs=2, batch_size=6)  # one folder, as in a run
    net = sltt(replace(ctx)).net
    torch.save(Weights(net).state_dict(), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]))
