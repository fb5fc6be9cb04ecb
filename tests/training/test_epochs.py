"""Epochs, the best of them, stopping, schedules and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint
from cil_spl.training.context import Frames
from cil_spl.training.epochs import Fitted, fit
from cil_spl.training.update import Trainer, Update, schedule


class Number:
    """A stateful thing: a number that training moves."""

    value = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def batches() -> Batches:
    events = [np.zeros(2, EVENT) for _ in range(6)]
    return Batches(from_list(events, [0, 1] * 3, (4, 4, 2), ("a", "b")), 2, Frames(1), shuffle=True)


def run(
    folder: Path, scores: list[float], thing: Number | None = None, **trainer: Any
) -> tuple[Fitted, Number, list[Any]]:
    thing = thing or Number()
    logged: list[Any] = []

    def step(_: Any) -> dict[str, float]:
        thing.value += 1
        return {"loss": 1.0}

    fitted = fit(
        step=step,
        score=lambda: {"accuracy": scores[len(logged)]},
        batches=batches(),
        keep={"thing": thing},
        trainer=replace(Trainer(epochs=len(scores)), **trainer),
        monitor="accuracy",
        folder=folder,
        log=lambda metrics, epoch: logged.append((epoch, metrics)),
    )
    return fitted, thing, logged


def test_the_best_epoch_is_put_back(tmp_path: Path) -> None:
    fitted, thing, logged = run(tmp_path, [0.2, 0.8, 0.5, 0.8])
    assert (fitted.best_epoch, fitted.best_score, fitted.epochs) == (2, 0.8, 4)
    assert thing.value == 6  # after two epochs of three batches; the tie goes to the earlier
    assert [epoch for epoch, _ in logged] == [1, 2, 3, 4]
    assert logged[0][1]["train/loss"] == 1.0


def test_patience(tmp_path: Path) -> None:
    fitted, thing, _ = run(tmp_path, [0.2, 0.8, 0.5, 0.6, 0.9], patience=2)
    assert fitted.epochs == 4
    assert fitted.stopped == "no better for 2 epochs"
    assert thing.value == 6


def test_a_time_limit_ends_it_and_keeps_what_there_is(tmp_path: Path) -> None:
    fitted, _, logged = run(tmp_path, [0.2, 0.8, 0.5], max_seconds=1e-9)
    assert fitted.epochs == 1
    assert len(logged) == 1
    assert "max_seconds" in fitted.stopped


def test_a_loss_that_is_not_a_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"method\.lr: the loss became nan in epoch 1"):
        fit(
            step=lambda _: {"loss": float("nan")},
            score=lambda: {"accuracy": 0.0},
            batches=batches(),
            keep={},
            trainer=Trainer(epochs=1),
            monitor="accuracy",
            folder=tmp_path,
            log=lambda *_: None,
        )


def test_schedules() -> None:
    cosine = schedule("cosine", 100, warmup_steps=10)
    assert [cosine(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert cosine(55) == pytest.approx(0.5)
    assert cosine(100) == pytest.approx(0.0)
    step = schedule("step", 100)
    assert [step(s) for s in (0, 59, 60, 84, 85, 100)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule("constant", 100)(99) == 1


def test_an_update_leaves_no_gradient_and_tells_that_weights_changed() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 9.0)  # left by something else
    told: list[int] = []
    update = Update(
        [weight],
        Trainer(optimizer="sgd", momentum=0, schedule="constant"),
        lr=0.1,
        total_steps=5,
        changed=[lambda: told.append(1)],
    )
    (weight * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    update()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 0.8, 0.7]))
    assert weight.grad is None
    assert told == [1]


def test_a_gradient_is_clipped_and_transformed() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))

    def double(params: list[torch.nn.Parameter]) -> None:
        for p in params:
            p.grad = p.grad * 2 if p.grad is not None else None

    trainer = Trainer(optimizer="sgd", momentum=0, schedule="constant", grad_clip=1.0)
    update = Update([weight], trainer, lr=1.0, total_steps=1, transform=double)
    (weight * torch.tensor([3.0, 4.0])).sum().backward()
    update()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_foreign_checkpoints_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"x\.pt: (no such file|not a checkpoint)"):
        read_checkpoint(path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "x.pt")
    with pytest.raises(RequestError, match="format 99; this version reads 1"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, {"a": 1})

    def full(_: Any, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"a": 2})
    assert read_checkpoint(path)["a"] == 1
