"""The plan that a config asks for."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from cil_spl.data.datasets import preprocessed_sensor_size
from cil_spl.models.build import plan_from
from cil_spl.models.plan import Plan
from cil_spl.models.presets import PRESETS
from cil_spl.tasks.task import Task


def plan_of(cfg: Any, task: Task) -> Plan:
    """The network's plan, from ``model`` and ``dataset`` of a config and the outputs that the task needs; reads no
    data."""
    width, height, polarities = preprocessed_sensor_size(cfg.dataset)
    shape = (polarities, height, width)
    blocks: Any = PRESETS[cfg.model.preset] if cfg.model.layers is None else OmegaConf.to_container(cfg.model.layers)
    name = cfg.model.preset if cfg.model.layers is None else cfg.model.name
    return plan_from(name, blocks, shape, task.outputs(shape, cfg.dataset.n_classes))
