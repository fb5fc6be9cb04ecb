"""Weights and checkpoints: read alone, as stages of a training that goes on, and as the network of a run."""

from __future__ import annotations

import io
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cil_spl import load
from cil_spl.base.files import file_digest, read_checked, read_sealed, write_json
from cil_spl.results import runs
from cil_spl.results.folder import RUN_FILE
from cil_spl.training import epochs
from cil_spl.training.checkpoints import check_weights, read_checkpoint, write_checkpoint
from cil_spl.training.options import Trainer
from cil_spl.training.update import Update
from tests.fuzz import damage, runfolders, tinyrun
from tests.fuzz.kinds import Files, Kind


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():  # torch will not have them for ever
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


TENSORS: tuple[Callable[[], Any], ...] = (
    lambda: torch.zeros(0), lambda: torch.tensor(float("nan")), lambda: torch.full((2, 2, 3, 3), float("inf")),
    lambda: torch.zeros(2, 2, 3, 3), lambda: torch.full((2, 2, 3, 3), 1e38), lambda: torch.zeros(2, dtype=torch.bool),
    lambda: torch.zeros(2, dtype=torch.complex64), lambda: torch.zeros(1).expand(10**9),
    lambda: torch.zeros(3).to_sparse(), lambda: torch.empty(5, device="meta"),
    lambda: torch.zeros(2, dtype=torch.float16), lambda: torch.zeros(2, 2, 3, 3, dtype=torch.int64),
    lambda: torch.ones(1), lambda: -torch.ones(1), lambda: torch.nn.Parameter(torch.ones(2)),
    lambda: _quantised(), lambda: b"bytes", lambda: (1, 2),
    lambda: torch.float32,
)  # fmt: skip


def _content(path: Path) -> Any:
    return torch.load(io.BytesIO(read_sealed(path)[0]), weights_only=True)


def _edited(rng: random.Random, path: Path) -> str:
    """A value of a checkpoint that is another, or a tensor; with a checksum that fits."""
    odd = (*damage.ODD, *(make() for make in rng.sample(TENSORS, 6)))
    new, told = damage.edited(rng, _content(path), odd)
    if not isinstance(new, dict):
        new = {"content": new}
    if rng.random() < 0.03:
        new["itself"] = new
    write_checkpoint(path, new)
    return told


def _of_the_run(rng: random.Random, path: Path) -> str:
    """... and with its digest in the run's record."""
    told = _edited(rng, path)
    info, _ = read_checked(path.parent / RUN_FILE)
    info["files"][path.name] = file_digest(path)
    write_json(path.parent / RUN_FILE, info)
    return told


def _pickled(rng: random.Random, path: Path) -> str:
    """What would run code, or another of torch's formats."""
    what = rng.choice(("legacy", "code", "whole module"))
    if what == "legacy":
        torch.save({"format": 2, "weights": {}}, path, _use_new_zipfile_serialization=False)
    elif what == "code":
        import pickle

        path.write_bytes(pickle.dumps({"format": 1, "weights": Path}))
    else:
        torch.save(torch.nn.Linear(1, 1), path)
    return what


def _weights(folder: Path) -> list[Path]:
    run = tinyrun.run_in(folder)
    shutil.move(run / "weights.pt", folder / "weights.pt")
    for left in ("runs", "mine"):
        shutil.rmtree(folder / left)
    return [folder / "weights.pt"]


def _read_weights(folder: Path) -> Any:
    path = folder / "weights.pt"
    found = read_checkpoint(path, "weights")
    return found | {"weights": check_weights(path, found["weights"])}


def _checkpoints(folder: Path) -> list[Path]:
    run = tinyrun.run_in(folder)
    made = sorted((run / "checkpoints").glob("*.pt"))
    for path in made:
        shutil.move(path, folder / path.name)
    for left in ("runs", "mine"):
        shutil.rmtree(folder / left)
    return [folder / path.name for path in made]


def _kept() -> dict[str, Any]:
    """What a method keeps of such a run: a network, and how far its updates are."""
    if not _keep:
        net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, bias=False), torch.nn.Linear(32, 2, bias=False))
        _keep["update"] = Update(net.parameters(), Trainer(), lr=0.01, total_steps=4)
    return _keep


_keep: dict[str, Any] = {}


def _read_stages(folder: Path) -> Any:
    """As ``resume=`` looks at a run, and as the stage then goes on."""
    stages = epochs.read_stages(folder)
    if not stages:
        raise epochs.RequestError("no stage")
    for name in stages:
        state = torch.get_rng_state()
        epochs._go_on(folder / f"{name}{epochs.LAST}", _kept(), (), Trainer())
        torch.set_rng_state(state)
    return stages, [_content(path) for path in sorted(folder.glob("*.pt"))]


def _network(folder: Path) -> Any:
    """As ``cilspl predict``: the network, and an answer."""
    with tinyrun.standing_in(folder):
        found = load.load(runs.read(folder / "runs" / "one"), ["fuzz_bars"])
        from tests.fuzz.recordings import events

        found.predict(events())
    return dict(found.network.net.state_dict())


def _run(folder: Path) -> list[Path]:
    import sys

    made = runfolders._of_run("weights.pt", "chip.npz", "confusion.csv")(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # where the run's own data set lies
    return made


def _edited_of_any(rng: random.Random, path: Path) -> str:
    if path.suffix == ".pt":
        return _of_the_run(rng, path)
    return damage.flip(rng, path)


KINDS: list[tuple[Kind, int]] = [
    (Files("weights", _weights, _read_weights, (*damage.ANY, damage.members), (_edited, _pickled), ours=True), 3),
    (
        Files(
            "checkpoints",
            _checkpoints,
            _read_stages,
            (*damage.ANY, damage.members),
            (_edited, _edited, _pickled),
            ours=True,
        ),
        3,
    ),
    (Files("network of a run", _run, _network, damage.ANY, (_edited_of_any,), ours=True), 2),
]
