"""The smallest run there is: two classes, four-by-four blocks of events, an epoch of four batches; some seconds."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from cil_spl import cli
from tests.fuzz.kinds import Refused

DATA = '''\
import numpy as np

from cil_spl.data.events import EVENT, Splits, from_list


def bars(*, n: int = 24) -> Splits:
    """A bar on the left or on the right."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        events = np.zeros(60, EVENT)
        events["x"], events["y"] = 4 * (i % 2) + rng.integers(0, 4, 60), rng.integers(0, 8, 60)
        events["t"] = np.sort(rng.integers(0, 10_000, 60))
        made.append(events)

    def part(begin, end):
        return from_list(made[begin:end], [i % 2 for i in range(begin, end)], (8, 8, 2), ("left", "right"))

    return Splits(part(0, 16), part(16, 20), part(20, 24))
'''
DATA_YAML = """\
# Bars on the left or on the right.
defaults: [common/recordings@_here_]
_target_: fuzz_bars.bars
name: bars
n: 24
n_classes: 2
sensor_size: [8, 8, 2]
"""
WORDS = (
    "--config-dir", "mine", "dataset=bars", "extensions=[fuzz_bars]", "method=bptt", "observer=none", "frames.bins=2",
    "trainer.epochs=1", "trainer.batch_size=4", "tracking.enabled=false",
    "model.layers=[{conv: 2, kernel: 3, padding: 1, pool: 2}, {linear: classes}]",
)  # fmt: skip
_made: dict[str, Path] = {}


def lay_out(folder: Path) -> None:
    """The user's files, in the folder where commands are typed."""
    (folder / "mine" / "dataset").mkdir(parents=True)
    (folder / "mine" / "dataset" / "bars.yaml").write_text(DATA_YAML)
    (folder / "fuzz_bars.py").write_text(DATA)


@contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """As a user who stands in a folder, with nothing on the terminal; the search path is put back."""
    before, path, variables = Path.cwd(), list(sys.path), dict(os.environ)
    os.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "CILSPL_RUN_DIR", "HYDRA_FULL_ERROR"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(os.environ) - set(variables):
            del os.environ[name]
        os.environ.update(variables)


def typed(folder: Path, *words: str) -> str:
    """Type a command; what it prints.

    Raises:
        Refused: it refused, with one message; what it said.
        RuntimeError: it ended in another way than by 0, or by 2 and a message.
    """
    out, err = io.StringIO(), io.StringIO()
    with standing_in(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
    said = err.getvalue()
    if code == 0:
        return out.getvalue()
    message = said.rpartition("cilspl")[2] if "usage: " in said else said[said.find("cilspl: ") :]
    if code != 2 or "Traceback" in said or "cilspl" not in said:
        raise RuntimeError(f"exit code {code}: {said[-3000:]}")
    raise Refused(message.partition(": ")[2])


def run_in(folder: Path) -> Path:
    """The folder of a finished run, below ``folder``; made once in a process, and copied."""
    if "run" not in _made or not _made["run"].is_dir():
        lay_out(folder)
        typed(folder, "run", *WORDS, "hydra.run.dir=runs/one")
        _made["run"] = Path(shutil.copytree(folder, folder.with_name(f"{folder.name} made")))
        return folder / "runs" / "one"
    shutil.copytree(_made["run"], folder, dirs_exist_ok=True)
    return folder / "runs" / "one"
