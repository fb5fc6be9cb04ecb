"""What has to be sound before a run goes on, and how an extension takes the place of what it extends.

A finished run that gets more epochs stays the finished run that it is, with its record, network and row, until the
longer one has all of them: what that makes is laid into a folder of its own, and takes the place of the old at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cil_spl.base import locks
from cil_spl.base.errors import RequestError
from cil_spl.base.files import file_digest, write_json, write_text
from cil_spl.results.folder import CONFIG_FILE, RUN_FILE, artifacts, read_info, refuse_links
from cil_spl.results.metrics import METRICS_FILE, read_metrics
from cil_spl.results.settings import DATA, EXTENDED, SOURCES

EXTENSION = ".extension"  # of the run's folder: what an extension makes
RECORD = "record.json"  # in it, written last: all is there
EPOCHS = "trainer.epochs"
MIXED = (
    "the code that decides the numbers is not that with which the run was begun (tag sources); its figures come from "
    "both, and a new run would give others"
)


def check_resumable(folder: Path, epochs: int) -> None:
    """Refuse to go on with a run whose checkpoints are not whole and complete, or that has no epoch left to run.

    Args:
        folder: of the run. Nothing in it is changed.
        epochs: how many it shall have (``trainer.epochs``).

    Raises:
        RequestError: names the file or the key, and what to do.
    """
    from cil_spl.training.epochs import ALL_DONE, EPOCH_SECONDS, read_stages

    refuse_links(folder)
    info, _ = read_info(folder)
    stages = read_stages(folder / "checkpoints")
    logged = sum(EPOCH_SECONDS in line for line in read_metrics(folder))
    kept = sum(stage.fitted.epochs for stage in stages.values())
    if logged - kept > (1 if stages else 0):  # an earlier version logged an epoch before it was kept
        missing = f"hold {kept} of them" if stages else "are not there"
        raise RequestError(
            f"{folder / 'checkpoints'}: the run has trained {logged} epochs ({METRICS_FILE}), but its checkpoints "
            f"{missing}; put *-last.pt and *-best.pt back from a copy, or start another run by `cilspl run`"
        )
    had = info["params"].get(EPOCHS)
    if info["status"] != "finished" or had is None or epochs <= had:
        return
    if any(stage.lean for stage in stages.values()):
        raise RequestError(
            f"{EPOCHS}={epochs}: the run has {had}, and trained in the stages {', '.join(stages)}; only a run of one "
            f"stage gets more epochs. Start another run by `cilspl run`"
        )
    begun = info.get("extension")
    trained = max((stage.reached for stage in stages.values()), default=0) > had
    if begun and trained and begun["epochs"] != epochs:
        raise RequestError(
            f"{EPOCHS}={epochs}: an extension to {begun['epochs']} epochs was begun and cut off, and its learning "
            f"rates are those of {begun['epochs']}; go on with {EPOCHS}={begun['epochs']}. The run with {had} epochs "
            f"is kept until then; for another number start another run, from its weights by start_from={folder}"
        )
    if stages and not trained and all(stage.fitted.stopped != ALL_DONE for stage in stages.values()):
        last = list(stages.values())[-1].fitted
        raise RequestError(
            f"{EPOCHS}={epochs}: the run ended after {last.epochs} epochs for good ({last.stopped}), so that no other "
            f"would be run; to train on from its weights start another run with start_from={folder}"
        )


def taken_over(
    folder: Path, had: Mapping[str, str], now: Mapping[str, str], epochs: object
) -> tuple[dict[str, str], str | None]:
    """The tags of a run that goes on, which hold for all of its epochs, and a word to the user where code differs.

    Args:
        folder: of the run.
        had: its tags so far.
        now: those of the present data and code.
        epochs: of the finished run that is extended; None where none is.

    Raises:
        RequestError: the data are not those that it was begun with.
    """
    for tag in DATA:
        if tag in had and tag in now and had[tag] != now[tag]:
            raise RequestError(
                f"{folder}: the run was begun with other data than dataset and test_dataset give now "
                f"({'' if tag == 'data' else 'training or validation data differ, '}{tag} {had[tag][:12]} is now "
                f"{now[tag][:12]}); put them back, or start another run by `cilspl run`, from its weights by start_from"
            )
    found, warning = dict(now), None
    if SOURCES in had and SOURCES in now:
        both = dict.fromkeys([*had[SOURCES].split(", "), now[SOURCES]])
        found[SOURCES] = ", ".join(both)
        warning = None if len(both) == 1 else MIXED
    if epochs is not None:
        found[EXTENDED] = ", ".join([*([had[EXTENDED]] if EXTENDED in had else []), str(epochs)])
    return found, warning


def stage(folder: Path, config: str, info: Mapping[str, Any]) -> None:
    """All that an extension leaves is in its folder; from here on it takes effect, whatever happens.

    Args:
        folder: of the run.
        config: the text of the config.
        info: the record of the extended run; its ``files`` are made here.
    """
    place = folder / EXTENSION
    write_text(place / CONFIG_FILE, config)
    files = {p.relative_to(at).as_posix(): p for at in (folder, place) for p in artifacts(at) if p.suffix != ".log"}
    write_json(place / RECORD, {**info, "files": {name: file_digest(path) for name, path in files.items()}})


def settle(folder: Path) -> bool:
    """Put what an extension has laid ready in its place, or the rest of it; whether there was any."""
    place = folder / EXTENSION
    if not (place / RECORD).exists():
        return False
    for path in artifacts(place):
        target = folder / path.relative_to(place)
        if path.name != RECORD:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    (place / RECORD).replace(folder / RUN_FILE)
    shutil.rmtree(place)
    return True


def settle_left(folder: Path) -> bool:
    """:func:`settle` for an extension whose process was killed while it did so."""
    if not (folder / EXTENSION / RECORD).exists():
        return False
    lock = locks.hold(folder)
    if lock is None:
        return False
    try:
        return settle(folder)
    finally:
        lock.release()
