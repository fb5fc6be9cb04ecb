"""The straight line: config → data → model → train → quantise → deploy → evaluate → track."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cil_spl import schema
from cil_spl.base import fence, process, ranks
from cil_spl.data import datasets
from cil_spl.data.events import Splits
from cil_spl.models.plan import Plan
from cil_spl.results.outputs import leave_files
from cil_spl.results.record import open_record
from cil_spl.results.resumption import check_resumable
from cil_spl.results.row import row_of, score_name
from cil_spl.results.same import tags_of, tags_of_data
from cil_spl.results.start import check_data, ready
from cil_spl.results.store import check_store, look_at_store
from cil_spl.targets.deploy import deploy, with_target
from cil_spl.training.checkpoints import write_network
from cil_spl.training.context import context_of


def run(cfg: DictConfig, folder: Path | str, *, resume: bool = False, extensions: Sequence[str] = ()) -> dict[str, Any]:
    """Train, quantise, deploy, evaluate and track one run; everything it leaves lies in ``folder``.

    Args:
        cfg: the composed config.
        folder: made where it is missing.
        resume: go on with the run that ``folder`` holds, from its last epoch.
        extensions: modules of the user's own whose functions the config may name.

    Returns:
        the run's row; an empty one on ranks other than the first, which only train.

    Raises:
        RequestError: before any work, if the config, the data or the target cannot do it.
    """
    cfg = schema.check_config(cfg, extensions)
    if resume:
        check_resumable(Path(folder), cfg.trainer.epochs)
    with ready(cfg, schema.asked(cfg)) as (task, plan, target, observer, warnings, start):
        check_store(cfg.tracking)
        threads = process.prepare(cfg.seed, cfg.trainer.threads, cfg.trainer.device)
        experiences = _data(cfg)
        tags = threads | {"backend": target.backend} | tags_of(cfg, experiences)
        with open_record(cfg, folder, tags=tags, resume=resume) as record:
            for text in (*schema.remarks(cfg), *warnings):
                record.warn(text)
            ctx = context_of(cfg, plan, experiences, task, record, start)
            trained = fence.make(cfg, "method", with_target(ctx, target, observer))
            if not ranks.first():
                return {}
            write_network(record.place / "weights.pt", trained.net)
            deployed = deploy(target, trained, ctx, record.place)
            metrics = deployed.metrics(score_name(task), task) | dict(trained.notes or {})
            row = row_of(cfg, target.backend, task, metrics)
            leave_files(record, ctx, target, deployed)
            record.finish(metrics, row)
    return row


def _data(cfg: DictConfig) -> tuple[Splits, ...]:
    experiences = datasets.load(
        cfg.dataset, cfg.get("test_dataset"), cfg.seed, cfg.extensions, duration_us=cfg.frames.duration_us
    )
    schema.check_experiences(cfg, len(experiences))
    check_data(cfg, experiences)
    return experiences


def validate(cfg: DictConfig, extensions: Sequence[str] = ()) -> tuple[DictConfig, Plan, list[str]]:
    """All that can be known before any data is read: the checked config, the plan, and the target's warnings.

    Nothing is left behind: no folder, no store.

    Raises:
        RequestError: as :func:`run` would.
    """
    cfg = schema.check_config(cfg, extensions)
    with ready(cfg, schema.asked(cfg)) as (_, plan, _, _, warnings, _):
        look_at_store(cfg.tracking)
    return cfg, plan, [*schema.remarks(cfg), *warnings]


def data_tags(cfg: DictConfig) -> dict[str, str]:
    """The tags by which the data of a run are known again; they are read, and checked, as :func:`run` does.

    Args:
        cfg: a checked config.

    Raises:
        RequestError: as :func:`run` would.
    """
    return tags_of_data(_data(cfg))
