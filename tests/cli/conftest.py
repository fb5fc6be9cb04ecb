"""A user at the command line, in this process; the pipeline is a stand-in."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import cil_spl
from cil_spl import cli, schema
from cil_spl.base.errors import RequestError
from cil_spl.results import sources
from cil_spl.results.record import open_record
from cil_spl.results.values import plain


def run_in(place: Path, *words: str) -> None:
    """Type a command in a folder, for fixtures that outlive a test; it has to succeed."""
    before, argv = Path.cwd(), sys.argv
    os.chdir(place)
    try:
        sys.argv = ["cilspl", *words]
        assert cli.main() == 0
    finally:
        os.chdir(before)
        sys.argv = argv


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    for name in ("MLFLOW_TRACKING_URI", "CILSPL_RUN_DIR", "RANK", "WORLD_SIZE", "NO_COLOR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(here, template):
    """... with a tracking store in it."""
    shutil.copy(template, here / "mlflow.db")
    return here


DATA = {"data": "d", "data_all": "a"}


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def cilspl(capsys, monkeypatch):
    """Type a command."""

    def type_in(*words: str) -> Said:
        capsys.readouterr()
        if "cil_spl.cli.run" in sys.modules:  # what was warned of before was in another process
            sys.modules["cil_spl.cli.run"].Once.said.clear()
        monkeypatch.setattr(sys, "argv", ["cilspl", *words])
        try:
            code = cli.main()
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return type_in


@pytest.fixture
def pipeline(monkeypatch):
    """A pipeline that does, at once, what the run's name says; ``ran`` holds the configs it was given."""
    stand_in = types.ModuleType("cil_spl.pipeline")
    stand_in.ran = []

    def run(cfg, folder, *, resume=False, extensions=()):
        cfg = schema.check_config(cfg, extensions)
        stand_in.ran.append(cfg.copy())
        if cfg.name == "refuse":
            raise RequestError("dataset.root=/nope: no such folder")
        tags = {"backend": "simulator", **DATA, "sources": sources.deciding(plain(cfg))}
        with open_record(cfg, folder, tags=tags, resume=resume) as record:
            for epoch, score in enumerate((0.5, 0.75, 0.625)):
                record.log({"val/accuracy": score}, epoch)
            if cfg.name == "bug":
                raise ZeroDivisionError("by zero")
            if cfg.name == "full":
                raise OSError(28, "No space left on device")
            if cfg.name == "wrapped":
                try:
                    raise RequestError("method.x=1: not with this")
                except RequestError as error:
                    raise RuntimeError("Error in call to target") from error
            if cfg.name == "interrupt" or (cfg.name == "no_more" and cfg.trainer.epochs == 50):
                raise KeyboardInterrupt
            if cfg.name == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
            if cfg.name == "odd_seeds_fail" and cfg.seed % 2:
                raise ZeroDivisionError("odd")
            accuracy = 0.9 + 0.01 * cfg.seed + (cfg.trainer.epochs - 25) / 1000
            record.warn("layer conv2 is silent")
            record.finish(
                {"deployed/accuracy": accuracy, "val/deployed_accuracy": 0.75},
                {
                    "method": cfg.method.name,
                    "model": cfg.model.name,
                    "dataset": cfg.dataset.name,
                    "target": cfg.target.name,
                    "backend": "simulator",
                    "seed": cfg.seed,
                    "columns": "accuracy %",
                    "score": "val/deployed_accuracy",
                    "float/accuracy": accuracy + 0.015,
                    "quantized/accuracy": accuracy + 0.01,
                    "deployed/accuracy": accuracy,
                    "drop": 0.015,
                    "deployed/synops": 1234567.0,
                    "n": 360,
                },
            )
        return record.info["row"]

    def validate(cfg, extensions=()):
        return schema.check_config(cfg, extensions), None, ["conv1: an odd map"]

    stand_in.run, stand_in.validate, stand_in.data_tags = run, validate, lambda cfg: DATA
    monkeypatch.setitem(sys.modules, "cil_spl.pipeline", stand_in)
    monkeypatch.setattr(cil_spl, "pipeline", stand_in, raising=False)
    _forget_load()
    yield stand_in
    _forget_load()


def _forget_load():
    """The module that holds on to the pipeline it was imported with; a test's own stand-in for it stays."""
    if getattr(sys.modules.get("cil_spl.load"), "__file__", None):
        del sys.modules["cil_spl.load"], cil_spl.load
