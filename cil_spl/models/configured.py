"""The plan and the fresh network that a config asks for."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import OmegaConf

from cil_spl.base import fence, memory
from cil_spl.base.errors import RequestError
from cil_spl.data.datasets import input_shape
from cil_spl.models.build import build, plan_from
from cil_spl.models.net import Net
from cil_spl.models.plan import WEIGHTED, Plan, pair
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
    n_outputs = task.outputs(shape, cfg.dataset.n_classes)
    try:
        plan = plan_from(name, blocks, shape, n_outputs, cfg.model.width)
    except RequestError as error:
        plan_from(name, blocks, shape, n_outputs)  # what is wrong at any width says so itself
        raise RequestError(f"model.width={cfg.model.width:g}: {error}; at model.width=1 it fits") from None
    n = _weights(plan)
    what = f"model.width={cfg.model.width:g}: the {n} weights of model {name}"
    memory.check_fits(4 * n, what, "lower it, or choose a smaller network")  # float32
    return plan


def _weights(plan: Plan) -> int:
    """How many a plan's convolutions and linear layers have."""
    shapes = plan.shapes()
    found = 0
    for i, layer in enumerate(plan.layers):
        if layer.kind in WEIGHTED:
            kernel = pair(layer.params["kernel_size"]) if layer.kind == "conv" else (1, 1)
            found += shapes[plan.inputs(i)[0]][0] * shapes[layer.name][0] * math.prod(kernel)
    return found


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
