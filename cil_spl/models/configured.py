"""The plan and the fresh network that a config asks for."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from cil_spl.base import fence
from cil_spl.data.datasets import input_shape
from cil_spl.models.build import build, plan_from
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.models.presets import PRESETS
from cil_spl.tasks.task import Task


def plan_of(cfg: Any, task: Task) -> Plan:
    """The network's plan, from ``model`` and ``dataset`` of a config and the outputs that the task needs; reads no
    data."""
    if cfg.model["_target_"] is not None:
        return _own(cfg, task).plan
    shape = input_shape(cfg.dataset)
    blocks: Any = PRESETS[cfg.model.preset] if cfg.model.layers is None else OmegaConf.to_container(cfg.model.layers)
    name = cfg.model.preset if cfg.model.layers is None else cfg.model.name
    return plan_from(name, blocks, shape, task.outputs(shape, cfg.dataset.n_classes))


def network_of(cfg: Any, task: Task, plan: Plan, family: str) -> Net:
    """A network with fresh weights: of the plan, or the one that the user's own function makes.

    Args:
        plan: from :func:`plan_of`, or what a method made of it.
        family: see :func:`cil_spl.models.build.build`.
    """
    if cfg.model["_target_"] is not None:
        own = _own(cfg, task)
        if family == cfg.model.family and plan.as_dict() == own.plan.as_dict():
            return own
    return build(plan, family=family, neuron=OmegaConf.to_container(cfg.model.neuron))  # type: ignore[arg-type]


def _own(cfg: Any, task: Task) -> Net:
    from cil_spl.models import own

    shape = input_shape(cfg.dataset)
    make = fence.locate("model", cfg.model["_target_"], cfg.extensions)
    args: Any = OmegaConf.to_container(cfg.model.args)
    return own.network(cfg.model.name, make, args, shape, task.outputs(shape, cfg.dataset.n_classes))
