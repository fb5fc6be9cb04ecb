"""What a run or a sweep leaves, read as commands read it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cil_spl.base.files import DIGEST, file_digest, json_line, read_checked, write_json
from cil_spl.results import runs, same, scores, sweep, table
from cil_spl.results.folder import RUN_FILE, may_differ
from cil_spl.results.metrics import extent, write_metrics
from cil_spl.results.values import flatten
from tests.fuzz import damage, tinyrun
from tests.fuzz.kinds import Damage, Files, Kind


def _of_run(*names: str) -> Callable[[Path], list[Path]]:
    """A run's folder, of whose files some are damaged."""

    def make(folder: Path) -> list[Path]:
        run = tinyrun.run_in(folder)
        for left in ("figures", ".hydra", "checkpoints"):
            shutil.rmtree(run / left, ignore_errors=True)
        shutil.rmtree(folder / "mine")
        return [run / name for name in names]

    return make


def _record(folder: Path) -> Any:
    """As ``cilspl table`` and ``predict`` begin; a folder of a damaged run does not stop the others."""
    below = runs.scan(folder / "runs")
    for run in below:
        table.render(table.tabulate([run.info | {"folder": str(run.folder)}]), "text", 80)
    return runs.read(folder / "runs" / "one").info


def _config(folder: Path) -> Any:
    import omegaconf

    found = omegaconf.OmegaConf.to_container(runs.read(folder / "runs" / "one").config())
    return {key: value for key, value in flatten(found).items() if not may_differ(key)}  # type: ignore[arg-type]


def _metrics(folder: Path) -> Any:
    from cil_spl.results import figures

    found = runs.read(folder / "runs" / "one").metrics()
    figures.learning_curve(found, "accuracy")
    return found


def _scores(folder: Path) -> Any:
    info = runs.read(folder / "runs" / "one").info | {"folder": str(folder / "runs" / "one")}
    found = scores.read(info, info["metrics"]["deployed/accuracy"])
    return found if isinstance(found, scores.Scores) else _refuse(found)


def _refuse(reason: str) -> Any:
    from cil_spl.base.errors import RequestError

    raise RequestError(reason)


def _classes(folder: Path) -> Any:
    from cil_spl import load

    run = runs.read(folder / "runs" / "one")
    return load._classes(run, 2)


def _sealed(name: str, edit: Damage) -> Damage:
    """An edit of a file whose digest the run's record then has, as someone who knows the format leaves it."""

    def do(rng: random.Random, path: Path) -> str:
        told = edit(rng, path)
        record = path.parent / RUN_FILE
        info, _ = read_checked(record)
        if path.is_file():
            info["files"][name] = file_digest(path)
        write_json(record, info)
        return told

    return do


def _metric_lines(rng: random.Random, path: Path) -> str:
    import json

    held = path.read_text().splitlines()
    i = rng.randrange(len(held))
    new, told = damage.edited(rng, json.loads(held[i]))
    try:
        held[i] = json_line(new) if rng.random() < 0.7 else json.dumps(new)
    except (TypeError, ValueError):
        held[i] = json.dumps(new)
    path.write_text("\n".join(held) + "\n")
    return told


def _many_epochs(folder: Path) -> list[Path]:
    """A run's folder, with the lines of more epochs."""
    (path,) = _of_run("metrics.jsonl")(folder)
    (first,) = runs.read(path.parent).metrics()
    write_metrics(
        path.parent,
        [first | {"step": k, "time": f"2026-01-01T00:00:{k:02d}.000+00:00", "val/accuracy": k / 10} for k in range(6)],
    )
    _logged(path.parent)
    return [path]


def _logged(folder: Path) -> None:
    """What a run's record says of its metrics, where these are others than the run's."""
    info, _ = read_checked(folder / RUN_FILE)
    write_json(folder / RUN_FILE, info | {"logged": extent(folder)})


def _sweep(folder: Path) -> list[Path]:
    words = ["seed=0,1", "trainer.epochs=2"]
    sweep.Sweep.open({"enabled": False}, folder, words).plan(
        [{"name": "seed=0", "words": ["seed=0"], "state": "finished", "where": "0"}]
    )
    return [folder / sweep.SWEEP_FILE]


def _read_sweep(folder: Path) -> Any:
    """As going on with it, and as one of its runs finds its parent."""
    sweep.parent_of(folder / "0", "sqlite:///x")
    return dict(sweep.Sweep.open({"enabled": False}, folder, []).info)


def _rows(folder: Path) -> list[Path]:
    info = runs.read(tinyrun.run_in(folder)).info
    for left in ("runs", "mine"):
        shutil.rmtree(folder / left)
    path = folder / sweep.ROWS_FILE
    for seed in (0, 1):
        changed = info | {"params": info["params"] | {"seed": seed}}
        same.add_row(path, {key: value for key, value in changed.items() if key != DIGEST})
    return [path]


def _read_rows(folder: Path) -> Any:
    found = same.read_rows(folder / sweep.ROWS_FILE)
    table.render(table.tabulate([one | {"folder": None} for one in found]), "csv")
    same.finished([], [folder / sweep.ROWS_FILE])
    return found


def _run_file(name: str, read: Callable[[Path], Any], edits: Sequence[Damage], weight: int) -> tuple[Kind, int]:
    sealed = tuple(_sealed(name, edit) for edit in edits)
    return Files(name, _of_run(name), read, damage.ANY, sealed, ours=True), weight


KINDS: list[tuple[Kind, int]] = [
    (Files("run.json", _of_run(RUN_FILE), _record, damage.ANY, damage.JSON, ours=True), 5),
    _run_file("config.yaml", _config, (damage.lines,), 3),
    (
        Files(
            "metrics.jsonl",
            _many_epochs,
            _metrics,
            (*damage.ANY, damage.lines),
            (_metric_lines, damage.nested_json),
            ours=True,
        ),
        3,
    ),
    _run_file("scores.csv", _scores, (damage.lines,), 1),
    _run_file("confusion.csv", _classes, (damage.lines,), 1),
    (Files("sweep.json", _sweep, _read_sweep, damage.ANY, damage.JSON, ours=True), 2),
    (Files("rows.json", _rows, _read_rows, damage.ANY, damage.JSON, ours=True), 2),
]
