"""Epochs, the best of them, stopping, schedules and checkpoints."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.base.process import seed_everything
from cil_spl.data.batches import Batches
from cil_spl.data.events import EVENT, from_list
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint
from cil_spl.training.context import Frames
from cil_spl.training.epochs import Fitted, fit, make_lean, read_stages
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
    folder: Path, scores: list[float], thing: Number | None = None, better: Any = "more", **trainer: Any
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
        better=better,
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": None}, "a checkpoint of another kind"),
        ({"fitted": None}, "a checkpoint of another kind"),
        ({"generators": None}, "a checkpoint of another method or version; take the file from a copy"),
        ({"fitted": {"epochs": 1, "since": 3}}, "a checkpoint of another method or version"),
        ({"keep": {"other": {"value": 1}}}, "a checkpoint of another method or version"),
        ({"fitted": {"epochs": "1"}}, r"a checkpoint of another method .*\(fitted.epochs=1\)"),
        ({"fitted": {"epochs": -1}}, r"a checkpoint of another method .*\(fitted.epochs=-1\)"),
        ({"fitted": {"seconds": float("nan")}}, "a checkpoint of another method .*fitted.seconds=nan"),
        ({"fitted": {"history": [1]}}, "a checkpoint of another method .*fitted.history="),
        ({"generators": [{"python": 3}]}, "a checkpoint of another method or version.*TypeError"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_kind_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run(tmp_path, [0.2, 0.8])
    path = tmp_path / "train-last.pt"
    whole = read_checkpoint(path)
    write_checkpoint(path, {k: v for k, v in {**whole, **changes}.items() if v is not None})
    with pytest.raises(RequestError, match=rf"train-last\.pt: {message}"):
        run(tmp_path, [0.2, 0.8, 0.9])
    write_checkpoint(path, whole)
    write_checkpoint(tmp_path / "train-best.pt", {"keep": {"thing": {"value": 1}, "more": {}}})
    assert run(tmp_path, [0.2, 0.8])[1].value == 1
    write_checkpoint(tmp_path / "train-best.pt", {"keep": {"more": {}}})
    with pytest.raises(RequestError, match=r"train-best\.pt: a checkpoint of another method or version"):
        run(tmp_path, [0.2, 0.8])


def test_patience(tmp_path: Path) -> None:
    fitted, thing, _ = run(tmp_path, [0.2, 0.8, 0.5, 0.6, 0.9], patience=2)
    assert fitted.epochs == 4
    assert fitted.stopped == "no better for 2 epochs"
    assert thing.value == 6


def test_where_less_is_better_the_lowest_epoch_is_put_back(tmp_path: Path) -> None:
    fitted, thing, _ = run(tmp_path, [0.8, 0.2, 0.5, 0.2, 0.1], better="less", patience=2)
    assert (fitted.best_epoch, fitted.best_score, fitted.epochs) == (2, 0.2, 4)
    assert thing.value == 6
    again, thing, _ = run(tmp_path, [0.8, 0.2, 0.5, 0.2, 0.1], better="less", patience=2)
    assert (again.best_epoch, thing.value) == (2, 6)


def test_an_epoch_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    for better in ("more", "less"):
        fitted, _, _ = run(tmp_path / better, [float("nan"), 0.5], better=better)
        assert (fitted.best_epoch, fitted.best_score) == (2, 0.5)


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


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_a_stage_that_patience_ends_ends_there_after_a_kill_too(killed_after: int, tmp_path: Path) -> None:
    """Cut off at any epoch, the last included, it chooses the same epoch and runs as many."""
    scores = [0.2, 0.8, 0.5, 0.6, 0.9, 0.95]
    whole, _, logged = run(tmp_path / "whole", scores, patience=2)
    cut: list[Any] = []

    class KilledError(Exception):
        pass

    def log(metrics: dict[str, float], epoch: int) -> None:
        cut.append((epoch, metrics))

    def score() -> dict[str, float]:
        if len(cut) == killed_after:
            raise KilledError
        return {"accuracy": scores[len(cut)]}

    options: dict[str, Any] = {"step": lambda _: {"loss": 1.0}, "batches": batches(), "monitor": "accuracy", "log": log}
    options |= {"trainer": Trainer(epochs=6, patience=2), "folder": tmp_path / "cut", "keep": {}}
    if killed_after < whole.epochs:
        with pytest.raises(KilledError):
            fit(**options, score=score)
    else:
        fit(**options, score=lambda: {"accuracy": scores[len(cut)]})
    cut.clear()
    fitted = fit(**options, score=lambda: {"accuracy": scores[len(cut)]})
    assert (fitted.epochs, fitted.best_epoch, fitted.stopped) == (4, 2, "no better for 2 epochs")
    assert (whole.epochs, whole.best_epoch) == (4, 2)
    assert [epoch for epoch, _ in cut] == [epoch for epoch, _ in logged] == [1, 2, 3, 4]


def test_more_epochs_extend_a_fit_that_did_all_of_its(tmp_path: Path) -> None:
    run(tmp_path, [0.2, 0.8])
    fitted, thing, logged = run(tmp_path, [0.2, 0.8, 0.5, 0.9])
    assert [epoch for epoch, _ in logged] == [1, 2, 3, 4]
    assert (fitted.best_epoch, fitted.epochs, thing.value) == (4, 4, 12)


def test_what_was_made_after_another_stage_is_left_aside(tmp_path: Path) -> None:
    """A second stage stands on the first: once that has trained on, the second begins anew."""
    thing = Number()

    def stage(name: str, epochs: int, after: list[tuple[str, int]]) -> Fitted:
        def step(_: Any) -> dict[str, float]:
            thing.value += 1
            return {"loss": 1.0}

        return fit(
            step=step,
            score=lambda: {"accuracy": thing.value},
            batches=batches(),
            keep={"thing": thing},
            trainer=Trainer(epochs=epochs),
            monitor="accuracy",
            folder=tmp_path,
            log=lambda *_: None,
            stage=name,
            after=after,
        )

    stage("one", 1, [])
    stage("two", 1, [("one", 1)])
    assert thing.value == 6
    stage("two", 1, [("one", 1)])
    assert thing.value == 6
    thing.value = 100
    stage("two", 1, [("one", 2)])
    assert thing.value == 103


def test_every_generator_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Python's, numpy's and torch's: what a step draws after a kill is what it would have drawn."""

    def draws(folder: Path, epochs: int) -> list[tuple[float, float, float]]:
        found: list[tuple[float, float, float]] = []

        def step(_: Any) -> dict[str, float]:
            found.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002
            return {"loss": 1.0}

        fit(
            step=step,
            score=lambda: {"accuracy": 0.0},
            batches=batches(),
            keep={},
            trainer=Trainer(epochs=epochs),
            monitor="accuracy",
            folder=folder,
            log=lambda *_: None,
        )
        return found

    seed_everything(7)
    whole = draws(tmp_path / "whole", 3)
    seed_everything(7)
    begun = draws(tmp_path / "cut", 1)
    seed_everything(99)
    assert begun + draws(tmp_path / "cut", 3) == whole


def test_a_stage_that_others_have_followed_keeps_what_it_came_to(tmp_path: Path) -> None:
    """Its best weights, not its last and no optimizer; it gets no more epochs."""
    optimizer = Number()

    def stage(scores: list[float], thing: Number) -> Fitted:
        return fit(
            step=lambda _: setattr(thing, "value", thing.value + 1) or {"loss": 1.0},  # type: ignore[func-returns-value]
            score=lambda: {"accuracy": scores.pop(0)},
            batches=batches(),
            keep={"net": thing, "update": optimizer},
            trainer=Trainer(epochs=epochs),
            monitor="accuracy",
            folder=tmp_path,
            log=lambda *_: None,
            stage="one",
        )

    epochs = 3
    first = stage([0.2, 0.9, 0.5], Number())
    optimizer.value = 7.0
    assert not read_stages(tmp_path)["one"].lean
    for _ in range(2):  # once more changes nothing
        make_lean(tmp_path, "one")
        assert set(read_checkpoint(tmp_path / "one-best.pt")["keep"]) == {"net"}
        assert "keep" not in read_checkpoint(tmp_path / "one-last.pt")
    found = read_stages(tmp_path)["one"]
    assert (found.lean, found.fitted, found.reached) == (True, first, 3)
    thing = Number()
    again = stage([], thing)  # it is over
    assert again == first
    assert thing.value == 6
    assert optimizer.value == 7.0  # not its business any more
    epochs = 4
    with pytest.raises(RequestError, match=r"one-last\.pt: the stage is over and others have followed it"):
        stage([0.1], Number())


def test_a_stage_without_a_best_epoch_stays_whole(tmp_path: Path) -> None:
    run(tmp_path, [float("nan")])
    make_lean(tmp_path, "train")
    assert not read_stages(tmp_path)["train"].lean
    assert "keep" in read_checkpoint(tmp_path / "train-last.pt")
