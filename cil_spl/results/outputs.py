"""The files that a finished run leaves beside its record: of its task, its data and its experiences, and pictures."""

from __future__ import annotations

from cil_spl.data import preparation
from cil_spl.data.experiences import tested
from cil_spl.results import by_experience, figures, scores
from cil_spl.results.record import Record
from cil_spl.targets.deploy import Deployed
from cil_spl.targets.target import Target
from cil_spl.training.context import TrainingContext


def leave_files(record: Record, ctx: TrainingContext, target: Target, deployed: Deployed) -> None:
    """Write them into the run's folder, or where its extension lies until it has ended."""
    preparation.keep(record.place, ctx.experiences)
    test = tested(ctx.experiences)
    ctx.task.files(record.place, deployed.evaluations, test)
    scores.write(record.place, deployed.evaluations, test.name, ctx.task)
    by_experience.write(record.place, deployed.by_experience, ctx.experiences, ctx.task)
    figures.draw(record, ctx, target, deployed)
