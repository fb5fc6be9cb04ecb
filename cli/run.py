"""``cilspl run``: Hydra's command line around the pipeline."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cil_spl.base import ranks, signals
from cil_spl.base.errors import RequestError
from cil_spl.cli import DONE, FAILED, INTERRUPTED, WRONG, complain, resume, validate
from cil_spl.cli.compose import extensions_of, typed_words
from cil_spl.cli.explain import explain, request_behind
from cil_spl.cli.hydra_fence import FencedLoader, fenced
from cil_spl.cli.sweep import Flags, Jobs, around_launchers, folder_of, short, tidy
from cil_spl.cli.words import check_folder, for_hydra, quoted
from cil_spl.results.folder import RUN_FILE, read_info
from cil_spl.results.record import describe, refuse
from cil_spl.results.store import URI_VARIABLE, anchor, redact, store_uri

RUN_DIR, ROWS = "CILSPL_RUN_DIR", "CILSPL_ROWS"
WIDTH = 80  # of a terminal
_log = logging.getLogger(__name__)


class _Now:
    """What this process is running; read by :func:`main` once Hydra is done."""

    code = DONE
    folder: Path | None = None


class Once(logging.Filter):
    """Lets a warning pass once in a process: the runs of a sweep would all say the same."""

    said: ClassVar[set[str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        fresh = text not in self.said
        self.said.add(text)
        return fresh


class Short(logging.Formatter):
    """Words alone; what epochs came to, in lines that a terminal holds."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.name != "cil_spl.training.epochs":
            return text
        return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


class JobError(Exception):
    """A run of a sweep that has already said what was wrong."""


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
    words = typed_words(job.overrides.task)
    try:
        _run(
            anchored(cfg, Path(start)),
            here,
            extensions_of(cfg, words, start),
            resume=not single and (here / RUN_FILE).exists(),
        )
    except KeyboardInterrupt:
        tidy(here)
        raise
    except Exception as error:
        code = _tell(error)
        if single:
            tidy(here)
        elif code == WRONG:
            refuse(cfg, here, request_behind(error) or error)
        if single:
            _Now.code = code
            return None
        raise JobError(f"{here}: {error}") from None
    _note_row(here)
    show(here, short=not single)
    return _score(here)


def _note_row(folder: Path) -> None:
    """Add the run's row to the file that ``--rows`` names."""
    file = os.environ.get(ROWS)
    if file and ranks.first():
        from cil_spl.results import runs, same

        try:
            same.add_row(Path(file), runs.read(folder).info | {"folder": str(folder)})
        except RequestError as error:
            complain(str(error))
            _Now.code = WRONG


def _score(folder: Path) -> float | None:
    from cil_spl.results import row, runs

    return row.score_of(runs.read(folder).info) if ranks.first() else None


def anchored(cfg: DictConfig, base: Path | None = None) -> DictConfig:
    """The config with an absolute address of the store; what is no address is left for the check to refuse."""
    uri = OmegaConf.select(cfg, "tracking.uri")
    if isinstance(uri, str | int | None) and not isinstance(uri, bool) and OmegaConf.is_dict(cfg.get("tracking")):
        cfg.tracking.uri = store_uri(None if uri is None else str(uri), base)  # YAML makes a number of 5
    return cfg


def _run(cfg: DictConfig, folder: Path, extensions: list[str], *, resume: bool = False) -> None:
    from cil_spl import schema

    schema.check_config(cfg, extensions)  # tells in half a second what the pipeline, with torch, would tell in five
    if ranks.first():  # at once: torch is loaded only now
        names = [cfg[group].name for group in ("method", "dataset", "target")]
        _log.info("%s on %s for %s, seed %s: %s", *names, cfg.seed, short(folder))
    from cil_spl import pipeline

    pipeline.run(cfg, folder, resume=resume, extensions=extensions)


def carry_out(cfg: DictConfig, folder: Path, extensions: list[str], *, resume: bool = False) -> int:
    """Run without Hydra around it; returns the exit code."""
    _Now.code, _Now.folder = DONE, folder
    try:
        _run(anchored(cfg), folder, extensions, resume=resume)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except Exception as error:
        return _tell(error)
    show(folder)
    return DONE


def show(folder: Path, *, short: bool = False) -> None:
    """The row of the run in ``folder``, on the first rank; in a line for one of a sweep."""
    if ranks.first():
        from cil_spl.results import report, runs

        info = runs.read(folder).info
        if short:
            report.show_line(info, folder.name)
        else:
            report.show_row(info, folder)


def _interrupted(error: KeyboardInterrupt, *, sweep: bool = False) -> int:
    """Say where an interrupted run stands and how to go on; the exit code is that of what its record says."""
    ended = None if sweep else _ended()
    if ended is not None:
        complain(f"interrupted after the run had ended; {short(_Now.folder)} is {ended}")
        return DONE if ended == "finished" else FAILED
    complain(f"interrupted{_how_to_go_on()}")
    return 143 if isinstance(error, signals.Terminated) else INTERRUPTED


def _ended() -> str | None:
    """How the run ended that was interrupted after that; None of one that was cut off."""
    if _Now.folder is None or not os.path.exists(_Now.folder / RUN_FILE):
        return None
    info, _ = read_info(_Now.folder)
    return info["status"] if info["status"] in ("finished", "failed") and "extension" not in info else None


def _how_to_go_on() -> str:
    if _Now.folder is None or not os.path.exists(_Now.folder / RUN_FILE):
        return " before the run began"
    info = read_info(_Now.folder)[0]
    place, extension = short(_Now.folder), info.get("extension")
    modules = info["params"].get("extensions") or []
    again = f"cilspl run resume={place}" + (f" extensions=[{','.join(map(str, modules))}]" if modules else "")
    if extension is not None:
        word = f"trainer.epochs={extension['epochs']}"
        return f"; {place} stays the finished run that it was; `{again} {word}` goes on"
    return f"; {place} is marked killed; `{again}` goes on with it"


def _tidy_begun() -> None:
    """Leave no folder of a run that was cut off after Hydra had made it and before the run began."""
    cfg = FencedLoader.latest
    with contextlib.suppress(OmegaConfBaseException, OSError):
        folder = _Now.folder or (None if cfg is None else Path(cfg.hydra.run.dir).absolute())
        if folder is not None:
            tidy(folder)


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
    argv, flags = _flags_of(argv)
    argv = for_hydra(argv)
    several = "-m" in argv or "--multirun" in argv
    if flags.dry_run and not several:
        return validate.main(argv)
    if ranks.count() > 1:
        argv = _of_several_ranks(argv)
    if several:
        argv = [*argv, *folder_of([word for word in argv if word not in ("-m", "--multirun")], flags.again)]
    try:
        if flags.rows is not None:
            os.environ[ROWS] = str(flags.rows)  # for jobs in processes of their own, too
        return hydra_main(argv, "cilspl run", flags)
    finally:
        if flags.rows is not None:
            del os.environ[ROWS]


def _flags_of(argv: list[str]) -> tuple[list[str], Flags]:
    """What is ours among the words, and what is left for Hydra."""
    parser = argparse.ArgumentParser(prog="cilspl run", add_help=False, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--skip-refused", action="store_true")
    parser.add_argument("--rows", type=lambda text: Path(text).resolve())
    given, rest = parser.parse_known_args(argv)
    return rest, Flags(**vars(given))


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


@contextlib.contextmanager
def narrow_help() -> Iterator[None]:
    """Within it, Hydra's help lists the choices of a group in lines that a terminal holds."""
    before = Hydra.format_config_groups

    def narrow(self: Hydra, *args: Any, **kwargs: Any) -> str:
        lines = before(self, *args, **kwargs).splitlines()
        return "".join(f"{textwrap.fill(line, WIDTH, subsequent_indent='    ')}\n" for line in lines)

    Hydra.format_config_groups = narrow  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.format_config_groups = before  # type: ignore[method-assign]


def hydra_main(argv: list[str], program: str, flags: Flags | None = None) -> int:
    """Hand ``argv`` to Hydra and turn what comes back into an exit code."""
    store = os.environ.get(URI_VARIABLE)
    try:
        return _hydra_main(argv, program, flags or Flags())
    finally:
        if store is None:
            os.environ.pop(URI_VARIABLE, None)  # set where a password was typed


def _hydra_main(argv: list[str], program: str, flags: Flags) -> int:
    _Now.code, _Now.folder, FencedLoader.latest = DONE, None, None
    if any(word.startswith("--e") for word in argv):
        complain("--experimental-rerun: it unpickles a file, which can run anything; give the overrides of that run")
        return WRONG
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    handlers = list(logging.getLogger().handlers)
    sys.argv = [program, *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, instead of ending the process
    sweeps: list[Jobs] = []
    try:
        with fenced(), around_launchers(flags, sweeps), narrow_help():
            hydra.main(config_path="pkg://cil_spl.conf", config_name="config", version_base="1.3")(task)()
    except JobError:
        pass
    except KeyboardInterrupt as error:
        if not sweeps:
            _tidy_begun()
        code = _interrupted(error, sweep=bool(sweeps))
        for sweep in sweeps:
            sweep.end(interrupted=True)
        return code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED if end.code else DONE
    except BrokenPipeError:  # `cilspl run --help | head`
        raise
    except Exception as error:  # runs tell their own; what comes out here is Hydra reading the command line
        if full == "1":
            raise
        _tidy_begun()
        complain(explain(error, argv))
        return WRONG
    finally:
        sys.argv = before
        logging.getLogger().handlers[:] = handlers  # Hydra's write to the run's folder, which may be gone
        if full is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
    return max((sweep.end() for sweep in sweeps), default=_Now.code)
