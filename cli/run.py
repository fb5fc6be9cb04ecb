"""``cilspl run``: Hydra's command line around the pipeline."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cil_spl.base import ranks, signals
from cil_spl.base.errors import RequestError
from cil_spl.cli import DONE, FAILED, INTERRUPTED, WRONG, complain, resume
from cil_spl.cli.compose import extensions_of
from cil_spl.cli.explain import explain, request_behind
from cil_spl.cli.hydra_fence import fenced
from cil_spl.cli.words import check_folder, for_hydra, quoted
from cil_spl.results.folder import RUN_FILE, read_info
from cil_spl.results.record import describe, refuse
from cil_spl.results.store import URI_VARIABLE, anchor, redact, store_uri
from cil_spl.results.sweep import close_sweep, open_sweep

RUN_DIR = "CILSPL_RUN_DIR"


class _Now:
    """What this process is running; read by :func:`main` once Hydra is done."""

    code = DONE
    folder: Path | None = None
    sweep: Path | None = None


class JobError(Exception):
    """A run of a sweep that has already said what was wrong."""


class Sweep(Callback):
    """Makes the parent run of a sweep, which also checks the store before the first run starts."""

    def on_run_start(self, config: DictConfig, **_kwargs: Any) -> None:
        with contextlib.suppress(OmegaConfBaseException):  # Hydra itself says so
            _Now.folder = Path(config.hydra.run.dir).absolute()  # from here on something may lie there

    def on_multirun_start(self, config: DictConfig, **_kwargs: Any) -> None:
        _Now.sweep = Path(config.hydra.sweep.dir).resolve()
        plain = OmegaConf.to_container(config.tracking, resolve=True)
        assert isinstance(plain, dict)
        if not isinstance(plain.get("uri"), str | None):
            return  # each run says so
        tracking = {**plain, "uri": store_uri(plain.get("uri"))}
        try:
            open_sweep({"tracking": tracking}, _Now.sweep, list(config.hydra.overrides.task))
        except RequestError as error:
            complain(str(error))
            _remove(_Now.sweep)
            raise SystemExit(WRONG) from error  # Hydra turns any Exception here into a warning


def task(cfg: DictConfig) -> float | None:
    """One run, called by Hydra, perhaps in another process.

    Returns:
        the deployed network's score on the validation recordings: what a sweeper may optimise, in the direction that is
        better for the run's task.
    """
    job = HydraConfig.get()
    here = Path(job.runtime.output_dir)
    start = job.runtime.cwd
    _Now.folder = here
    single = job.mode == RunMode.RUN
    try:
        _anchor(cfg, Path(start))
        _run(cfg, here, extensions_of(cfg, list(job.overrides.task), start))
    except KeyboardInterrupt:
        _sweep_up(here)
        raise
    except Exception as error:
        code = _tell(error)
        if single:
            _sweep_up(here)
        elif code == WRONG:
            refuse(cfg, here, request_behind(error) or error)
        if single:
            _Now.code = code
            return None
        raise JobError(f"{here}: {error}") from None
    show(here)
    return _score(here)


def _score(folder: Path) -> float | None:
    from cil_spl.results import row, runs

    return row.score_of(runs.read(folder).info) if ranks.first() else None


def _anchor(cfg: DictConfig, base: Path | None = None) -> None:
    """Make the address of the store absolute; what is no address is left for the check to refuse."""
    uri = OmegaConf.select(cfg, "tracking.uri")
    if isinstance(uri, str | int | None) and not isinstance(uri, bool) and OmegaConf.is_dict(cfg.get("tracking")):
        cfg.tracking.uri = store_uri(None if uri is None else str(uri), base)  # YAML makes a number of 5


def _run(cfg: DictConfig, folder: Path, extensions: list[str], *, resume: bool = False) -> None:
    from cil_spl import schema

    schema.check_config(cfg, extensions)  # tells in half a second what the pipeline, with torch, would tell in five
    from cil_spl import pipeline

    pipeline.run(cfg, folder, resume=resume, extensions=extensions)


def carry_out(cfg: DictConfig, folder: Path, extensions: list[str], *, resume: bool = False) -> int:
    """Run without Hydra around it; returns the exit code."""
    _Now.code, _Now.folder, _Now.sweep = DONE, folder, None
    try:
        _anchor(cfg)
        _run(cfg, folder, extensions, resume=resume)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except Exception as error:
        return _tell(error)
    show(folder)
    return DONE


def show(folder: Path) -> None:
    """The row of the run in ``folder``, on the first rank."""
    if ranks.first():
        from cil_spl.results import report, runs

        report.show_row(runs.read(folder).info, folder)


def _interrupted(error: KeyboardInterrupt) -> int:
    """Say where an interrupted run stands and how to go on; the exit code is that of what its record says."""
    ended = _ended()
    if ended is not None:
        complain(f"interrupted after the run had ended; {_short(_Now.folder)} is {ended}")
        return DONE if ended == "finished" else FAILED
    complain(f"interrupted{_how_to_go_on()}")
    return 143 if isinstance(error, signals.Terminated) else INTERRUPTED


def _ended() -> str | None:
    """How the run ended that was interrupted after that; None of one that was cut off, and of a sweep."""
    if _Now.sweep is not None or _Now.folder is None or not os.path.exists(_Now.folder / RUN_FILE):
        return None
    info, _ = read_info(_Now.folder)
    return info["status"] if info["status"] in ("finished", "failed") and "extension" not in info else None


def _how_to_go_on() -> str:
    if _Now.folder is None or not os.path.exists(_Now.folder / RUN_FILE):
        return " before the run began"
    place, extension = _short(_Now.folder), read_info(_Now.folder)[0].get("extension")
    if extension is not None:
        word = f"trainer.epochs={extension['epochs']}"
        return f"; {place} stays the finished run that it was; `cilspl run resume={place} {word}` goes on"
    return f"; {place} is marked killed; `cilspl run resume={place}` goes on with it"


def _tell(error: Exception) -> int:
    """Say what was wrong, and whose mistake it was: the exit code."""
    request = request_behind(error)
    if request is not None:
        complain(str(request))
        return WRONG
    if isinstance(error, OmegaConfBaseException | HydraException):
        complain(explain(error, []))
        return WRONG if isinstance(error, OmegaConfBaseException) else _trace(error)
    return _trace(error)


def _trace(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno is not None:  # a full disk, a lost mount: no fault of the code
        complain(f"the run failed: {error}")
    elif isinstance(error, MemoryError):
        complain(
            f"the run failed: no memory is left ({error}); lower frames.bins, trainer.batch_size or "
            "trainer.eval_batch_size"
        )
    else:
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
        complain(f"the run failed: {describe(error)}")
    return FAILED


def _sweep_up(here: Path) -> None:
    """A request refused, or a run cut off, before any work leaves no folder."""
    if os.path.isdir(here) and {path.name for path in here.iterdir()} <= {".hydra", "run.log", ".lock"}:
        _remove(here)


def _remove(folder: Path) -> None:
    """A folder of a run or a sweep, and that of the day above it where nothing else is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", folder.parent.name):
        with contextlib.suppress(OSError):  # not empty
            folder.parent.rmdir()


def main(argv: list[str]) -> int:
    """``cilspl run``; returns the exit code."""
    check_folder()
    logging.raiseExceptions = False  # a full disk takes no log, and a traceback for each line of it helps nobody
    with signals.terminable():
        return _main(argv)


def _main(argv: list[str]) -> int:
    if not os.environ.get(RUN_DIR):
        os.environ.pop(RUN_DIR, None)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = anchor(os.environ["MLFLOW_TRACKING_URI"])
    name = resume.asked_for(argv)
    if name is not None:
        return resume.main(name, [quoted(word) for word in argv])
    if ranks.count() > 1:
        argv = _of_several_ranks(argv)
    return hydra_main(argv, program="cilspl run")


def _of_several_ranks(argv: list[str]) -> list[str]:
    """The words with which each rank of torchrun gets the same folder, and only the first writes Hydra's files there.

    Raises:
        RequestError: a sweep, or nothing to name the folder by.
    """
    if "-m" in argv or "--multirun" in argv:
        raise RequestError("-m: a sweep cannot be run on several ranks; start its runs one by one")
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if not os.environ.get(RUN_DIR):
        if run_id == "none":
            raise RequestError(
                "several ranks need one folder, and torchrun has no id to name it by: use --standalone or "
                f"--rdzv-id NAME, or set {RUN_DIR}=runs/NAME"
            )
        os.environ[RUN_DIR] = f"runs/ranks/{run_id}"
    if ranks.first():
        return argv
    return [*argv, "hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]


def hydra_main(argv: list[str], program: str) -> int:
    """Hand ``argv`` to Hydra and turn what comes back into an exit code."""
    store = os.environ.get(URI_VARIABLE)
    try:
        return _hydra_main(argv, program)
    finally:
        if store is None:
            os.environ.pop(URI_VARIABLE, None)  # set where a password was typed


def _hydra_main(argv: list[str], program: str) -> int:
    _Now.code, _Now.folder, _Now.sweep = DONE, None, None
    started = time.time()
    if any(word.startswith("--e") for word in argv):
        complain("--experimental-rerun: it unpickles a file, which can run anything; give the overrides of that run")
        return WRONG
    argv = for_hydra(argv)
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    handlers = list(logging.getLogger().handlers)
    sys.argv = [program, *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, instead of ending the process
    try:
        with fenced():
            hydra.main(config_path="pkg://cil_spl.conf", config_name="config", version_base="1.3")(task)()
    except JobError:
        pass
    except KeyboardInterrupt as error:
        if _Now.sweep is not None:
            close_sweep(_Now.sweep, "killed")
        elif _Now.folder is not None:
            _sweep_up(_Now.folder)
        return _interrupted(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED if end.code else DONE
    except Exception as error:  # runs tell their own; what comes out here is Hydra reading the command line
        if full == "1":
            raise
        if _Now.folder is not None:
            _sweep_up(_Now.folder)
        complain(explain(error, argv))
        return WRONG
    finally:
        sys.argv = before
        logging.getLogger().handlers[:] = handlers  # Hydra's write to the run's folder, which may be gone
        if full is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
    if _Now.sweep is not None:
        return _sum_up(_Now.sweep, started)
    return _Now.code


def _short(path: Path | None) -> str:
    from cil_spl.results import report

    return report.shortened(path) if path is not None else ""


def _sum_up(sweep: Path, started: float) -> int:
    """Close a sweep: how many runs got where; the worst of them is the exit code."""
    from cil_spl.results import report, runs

    jobs = [path.parent.parent for path in sweep.rglob(".hydra/overrides.yaml") if path.stat().st_mtime >= started - 1]
    worst, finished = DONE, 0
    for job in sorted(jobs, key=lambda path: (len(path.name), path.name)):
        try:
            info = runs.read(job).info
        except RequestError:
            info = {"status": "failed", "error": "ended without a record"}
        if info["status"] == "finished":
            finished += 1
            continue
        lines = str(info["error"]).splitlines() or [info["status"]]
        complain(f"{report.shortened(job)} {info['status']}: {lines[0]}")
        worst = FAILED if worst == FAILED or not info.get("refused") else WRONG
    close_sweep(sweep, "finished" if worst == DONE else "failed")
    print(f"{finished} of {len(jobs)} runs finished; `cilspl table --from {report.shortened(sweep)}` compares them")
    return worst
