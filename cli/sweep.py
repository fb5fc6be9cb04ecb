"""``cilspl run -m``: what happens around the runs of a sweep.

Hydra's sweeper says which jobs there are, its launcher runs them, one after another or side by side. Between the two
stands :class:`Jobs`: it checks every job before the first one starts, names each by what differs, leaves out those that
have been made already and goes on with those that were cut off.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cil_spl.base import signals
from cil_spl.base.errors import RequestError
from cil_spl.cli import DONE, FAILED, WRONG, complain
from cil_spl.cli.compose import extensions_of, typed_words
from cil_spl.cli.explain import explain
from cil_spl.cli.words import overrides_of
from cil_spl.results.folder import RUN_FILE
from cil_spl.results.names import job_names, sweep_name
from cil_spl.results.store import redact
from cil_spl.results.sweep import SWEEP_FILE, Sweep, words_of

FOLDERS = "runs/sweeps"
ROWS = "experiments/*/results/*.json"  # finished runs that a checkout holds without their folders
SUBDIR = "hydra.sweep.subdir"
_BEFORE = {"multirun.yaml", ".hydra", "run.log", ".lock"}  # what a folder holds before anything has begun
# What loading data, and the checks of what was loaded, depend on.
_DECIDE_DATA = ("dataset", "test_dataset", "frames", "trainer", "task", "method", "seed", "extensions")


@dataclass(frozen=True)
class Flags:
    """What ``cilspl run`` takes beside Hydra's words.

    Attributes:
        dry_run: show the jobs, run none.
        again: run what has been made already, too.
        skip_refused: leave refused jobs out, instead of starting none.
        rows: a file that gets the row of each run that finishes.
    """

    dry_run: bool = False
    again: bool = False
    skip_refused: bool = False
    rows: Path | None = None


@dataclass
class Job:
    """One run of a sweep.

    Attributes:
        words: its overrides; name: of its folder in that of the sweep.
        state: ``new``, ``made``, ``goes on`` or ``refused``.
        key: by which an equal run is known; None where nothing tells that one is equal.
        info: of a run that has been made, what its record says; where: the folder or file that holds it.
        reason: why it was refused.
    """

    words: list[str]
    name: str = ""
    state: str = "new"
    key: str | None = None
    info: dict[str, Any] | None = None
    where: Path | None = None
    reason: str = ""


@dataclass
class Jobs:
    """A launcher around Hydra's; see the head of this file."""

    launcher: Any
    context: HydraContext
    config: DictConfig
    flags: Flags
    jobs: list[Job] = field(default_factory=list)
    sweep: Sweep | None = None
    _tags: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.config.hydra.sweep.dir).resolve()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs that are left.

        Raises:
            SystemExit: a job was refused, or none was to be run.
        """
        jobs = [Job(list(words)) for words in job_overrides]
        for job, name in zip(jobs, job_names([job.words for job in jobs], self._typed()), strict=True):
            job.name = name
        self._check(jobs)
        self._find_made(jobs)
        self.jobs += jobs
        if self.flags.dry_run:
            self._show(jobs)
            raise SystemExit(DONE)
        self._open()
        left = [job for job in jobs if job.state in ("new", "goes on")]
        told = [f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"]
        made = sum(job.state == "made" for job in jobs)
        told += [f"{made} made already"] if made else []
        _say(", ".join(told) + f": {short(self.folder)}")
        shares = self._threads(len(left))
        returned = iter(
            self.launcher.launch([self._words(job, shares) for job in left], initial_job_idx) if left else []
        )
        return [next(returned) if job.state in ("new", "goes on") else _already(job) for job in jobs]

    def _typed(self) -> list[str]:
        return typed_words(self.config.hydra.overrides.task)

    def _words(self, job: Job, shares: list[str]) -> list[str]:
        typed = any(str(word).startswith(f"{SUBDIR}=") for word in self.config.hydra.overrides.hydra)
        return [*job.words, *([] if typed else [f"{SUBDIR}='{job.name}'"]), *shares]

    def _threads(self, n: int) -> list[str]:
        """Each of several jobs that run side by side gets its part of the processor's cores, where none was typed."""
        side_by_side = OmegaConf.select(self.config, "hydra.launcher.n_jobs")
        if (
            side_by_side is None
            or n < 2
            or any(word.lstrip("+").startswith("trainer.threads=") for word in self._typed())
        ):
            return []
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(n, cores if side_by_side < 0 else side_by_side)
        return [f"trainer.threads={max(1, cores // workers)}"]

    # ---------------------------------------------------------------------------------------------- before they start

    def _check(self, jobs: Sequence[Job]) -> None:
        """Find out what is wrong with each job, before the first of them starts.

        Raises:
            SystemExit: something is, and refused jobs are not to be left out.
        """
        for number, job in enumerate(jobs):
            _bar(f"checking job {number + 1} of {len(jobs)}")
            try:
                job.key = self._key(job.words)
            except RequestError as error:
                job.state, job.reason = "refused", str(error)
            except (HydraException, OmegaConfBaseException) as error:
                job.state, job.reason = "refused", explain(error, job.words)
        _bar("")
        refused = [job for job in jobs if job.state == "refused"]
        for job in refused:
            complain(f"{' '.join(job.words)}: {job.reason}")
        if refused and not (self.flags.skip_refused and len(refused) < len(jobs)):
            n = f"{len(refused)} of {len(jobs)} jobs"
            complain(
                f"{n} refused, so none was started" + ("; --skip-refused runs the others" if len(jobs) > 1 else "")
            )
            if self.sweep is None:
                tidy(self.folder)
            raise SystemExit(WRONG)

    def _key(self, words: list[str]) -> str | None:
        """The key of a job, which is checked as a run checks it, its data too."""
        from cil_spl import pipeline
        from cil_spl.cli.run import anchored
        from cil_spl.results import same

        config = self.context.config_loader.load_sweep_config(self.config, words)
        here = str(config.hydra.runtime.cwd)
        with open_dict(config):
            del config["hydra"]
        extensions = extensions_of(config, words, here)
        checked, _, _ = pipeline.validate(anchored(config, Path(here)), extensions)
        asked = str([checked[group] for group in _DECIDE_DATA])
        if asked not in self._tags:
            self._tags[asked] = pipeline.data_tags(checked)
        return same.key_of_config(checked, self._tags[asked])

    def _find_made(self, jobs: Sequence[Job]) -> None:
        """Note which jobs have been made already, here or elsewhere, and which were cut off."""
        from cil_spl.results import runs, same

        typed = [self.flags.rows] if self.flags.rows and self.flags.rows.exists() else []
        for file in typed:
            same.read_rows(file)  # one that was typed has to be sound
        rows = [*Path().glob(ROWS), *typed]
        made = {} if self.flags.again else same.finished([Path(runs.DEFAULT_FOLDER), self.folder], rows)
        for job in jobs:
            if job.state == "refused":
                continue
            if job.key in made:
                job.state, job.info, job.where = "made", made[job.key].info, made[job.key].where
                continue
            job.name = self._free(job)

    def _free(self, job: Job) -> str:
        """The name of the job's folder: as it is called, with a number where another run lies there."""
        from cil_spl.results import runs, same

        name, number = job.name, 1
        while (self.folder / name / RUN_FILE).exists():
            with contextlib.suppress(RequestError):  # a damaged record is left alone
                info = runs.read(self.folder / name).info
                same_run = job.key is not None and same.key_of(info["params"], info["tags"]) == job.key
                if same_run and info["status"] != "finished" and not info.get("refused") and not self.flags.again:
                    job.state = "goes on"
                    break
            number += 1
            name = f"{job.name}~{number}"
        return name

    def _show(self, jobs: Sequence[Job]) -> None:
        """What a dry run says of each job."""
        for job in jobs:
            where = f" {short(job.where)}" if job.where is not None else ""
            print(f"{job.state + where:<9} {job.name}  {' '.join(job.words)}")
        if self.sweep is None:
            tidy(self.folder)

    def _open(self) -> None:
        if self.sweep is None:
            tracking: Any = OmegaConf.to_container(self.config.tracking, resolve=True)
            try:
                with signals.held_back() as held:  # no parent in the store that nobody ends
                    self.sweep = Sweep.open(tracking, self.folder, self._typed())
            except RequestError as error:
                complain(str(error))
                tidy(self.folder)
                raise SystemExit(WRONG) from error
            held.deliver()
        self.sweep.plan(
            [
                {"name": job.name, "words": job.words, "state": job.state, "where": job.where and str(job.where)}
                for job in self.jobs
            ]
        )

    # ------------------------------------------------------------------------------------------------ after they ended

    def end(self, interrupted: bool = False) -> int:
        """Close the sweep: what did not finish, and the table of what did; returns the exit code, the worst of all."""
        if self.sweep is None:
            return WRONG
        from cil_spl.results import runs, same

        worst, finished = DONE, []
        for job in self.jobs:
            if job.state == "refused":
                continue
            place = self.folder / job.name
            try:
                info = job.info or runs.read(place).info | {"folder": str(place)}
            except RequestError:
                info = {"status": "failed", "error": "ended without a record", "params": {}}
                if interrupted:
                    continue
            if info["status"] == "finished":
                finished.append(info)
                if job.state == "made" and self.flags.rows is not None:
                    same.add_row(self.flags.rows, info)
                continue
            lines = str(info["error"]).splitlines() or [info["status"]]
            complain(f"{short(place)} {info['status']}: {lines[0]}")
            worst = FAILED if worst == FAILED or not info.get("refused") else WRONG
        with signals.held_back():
            table = self.sweep.close("killed" if interrupted else "finished" if worst == DONE else "failed", finished)
        if table:
            print(table, end="")
        n = len([job for job in self.jobs if job.state != "refused"])
        told = f"{len(finished)} of {n} runs finished; "
        print(
            told
            + (
                "the same words go on"
                if interrupted or worst
                else f"`cilspl table --from {short(self.folder)}` compares them"
            )
        )
        return worst


@contextmanager
def around_launchers(flags: Flags, made: list[Jobs]) -> Iterator[None]:
    """Within it, every launcher that Hydra makes has :class:`Jobs` around it, which is added to ``made``."""
    before = Plugins.instantiate_launcher

    def surrounded(self: Plugins, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Jobs:
        launcher = before(self, hydra_context=hydra_context, task_function=task_function, config=config)
        made.append(Jobs(launcher, hydra_context, config, flags))
        return made[-1]

    Plugins.instantiate_launcher = surrounded  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Plugins.instantiate_launcher = before  # type: ignore[method-assign]


def _already(job: Job) -> JobReturn:
    """What a launcher would have returned of a job that is not run."""
    from cil_spl.results.row import score_of

    score = None if job.info is None else score_of(job.info)
    return JobReturn(overrides=job.words, status=JobStatus.COMPLETED, _return_value=score)


def folder_of(words: Sequence[str], again: bool) -> list[str]:
    """The word that names a sweep's folder, the latest one's with these words or a new one; none where one is typed.

    Args:
        words: that were typed, as Hydra takes them.
        again: to take a new one.
    """
    overrides = overrides_of(words)
    if any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in overrides):
        return []
    earlier = None if again else _goes_on(overrides)
    if earlier is not None:
        return [f"hydra.sweep.dir='{earlier}'"]
    try:
        typed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return []  # Hydra says so
    name = sweep_name(str(one.key_or_group) for one in typed if one.is_sweep_override())
    return [f"hydra.sweep.dir='{FOLDERS}/${{now:%Y-%m-%d}}/${{now:%H-%M-%S-%f}}-{name}'"] if name else []


def _goes_on(words: Sequence[str]) -> Path | None:
    kept = [redact(word) for word in words if not re.match(r"[+~]*hydra[./@]", word)]  # those say how, not what
    begun = sorted(Path(FOLDERS).glob(f"*/*/{SWEEP_FILE}"), reverse=True)
    return next((path.parent for path in begun if words_of(path) == kept), None)


def tidy(folder: Path) -> None:
    """Remove the folder of a run or sweep that has not begun, and that of the day where nothing else is in it."""
    if not os.path.isdir(folder) or not {path.name for path in folder.iterdir()} <= _BEFORE:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", folder.parent.name) and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _bar(text: str) -> None:
    """A line on a terminal that the next one takes the place of."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:<60}" if text else f"\r{'':<60}\r")
        sys.stderr.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def short(path: Path | None) -> str:
    from cil_spl.results import report

    return report.shortened(path) if path is not None else ""
