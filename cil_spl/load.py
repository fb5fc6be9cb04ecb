"""The deployed network of a run, ready for data of the user's own, in a notebook as on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from cil_spl import schema
from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.base.files import warn_once
from cil_spl.chip.interchange import load as load_chip
from cil_spl.chip.quantize import bake
from cil_spl.data.datasets import input_shape
from cil_spl.models.configured import network_of, plan_of
from cil_spl.models.net import Net
from cil_spl.models.neurons import load_weights
from cil_spl.models.plan import WEIGHTED, Plan, pair
from cil_spl.results.runs import Run
from cil_spl.targets.deployed import DeployedNetwork
from cil_spl.targets.target import TargetNetwork
from cil_spl.tasks.task import Task
from cil_spl.training.checkpoints import check_weights, read_checkpoint

CHIP_FILE = "chip.npz"


def load(run: Run, extensions: Sequence[str] = ()) -> DeployedNetwork:
    """The network that a run left.

    Args:
        run: from :func:`cil_spl.results.runs.find`.
        extensions: modules whose functions the run's config may name. Its own list allows nothing: the folder may come
            from someone else.

    Raises:
        RequestError: the run left none (it did not finish, or its target runs no spiking network), or its files are
            damaged or of another format, or its config names a function that may not be called.
    """
    if run.status != "finished":
        raise RequestError(f"{run.folder}: the run is {run.status}; only a finished one has a network to ask")
    known = schema.known_part(run.config())
    OmegaConf.update(known, "trainer.device", "cpu", force_add=True)  # the GPU it was trained on need not be here
    config = schema.check_config(known, extensions)
    target = fence.make(config, "target")
    if target.family != "snn":
        raise RequestError(
            f"{run.folder}: target={config.target.name} leaves no chip network; ask a run on target=speck"
        )
    task = fence.make(config, "task")
    net = trained_network(run, config, task)
    expected = _shapes(config, task)
    left_chip = CHIP_FILE in run.info.get("files", {}) or (run.folder / CHIP_FILE).exists()
    chip = load_chip(run.path(CHIP_FILE)) if left_chip else None
    if chip is not None and (chip.input_shape, chip.n_classes) != expected:
        raise RequestError(
            f"{run.folder / CHIP_FILE}: from {chip.input_shape} to {chip.n_classes} outputs, the run's data and task "
            f"need {expected[0]} to {expected[1]}; take the file from a copy of the run"
        )
    network = TargetNetwork(net, chip)
    classes = _classes(run, config.dataset.n_classes or 0)
    return DeployedNetwork(config, network, target, task, classes, run.preparations())


def trained_network(run: Run, config: Any, task: Task) -> Net:
    """The spiking network that a run left, with its weights.

    Raises:
        RequestError: its file is damaged or missing, or holds another network than the data and the task need.
    """
    path = run.path("weights.pt")
    left = read_checkpoint(path, "weights")
    weights = check_weights(path, left["weights"])
    try:
        # A method may have folded a normalisation: then the network is not the config's; earlier versions had no such.
        plan = Plan.from_dict(left["plan"]) if "plan" in left else plan_of(config, task)
        _check_plan(plan, weights, *_shapes(config, task))
        net = network_of(config, task, plan, "snn")
        bake(net)  # a run leaves an ordinary network, also of one whose weights are computed of others
        load_weights(net, weights)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    return net


def _shapes(config: Any, task: Task) -> tuple[tuple[int, int, int], int]:
    """What a network of these data and this task takes (C, H, W), and how many outputs it has."""
    shape = input_shape(config.dataset)
    return shape, task.outputs(shape, config.dataset.n_classes)


def _check_plan(plan: Plan, weights: Mapping[str, Tensor], shape: tuple[int, int, int], outputs: int) -> None:
    """Hold a plan against the run's data and against the weights beside it, before memory is taken for a layer.

    Raises:
        RequestError: it is that of another network; names the layer.
    """
    shapes = plan.shapes()
    if plan.input_shape != shape or shapes[plan.output] != (outputs,):
        raise RequestError(
            f"plan: from {plan.input_shape} to {shapes[plan.output]}, the run's data and task need {shape} to "
            f"{(outputs,)}"
        )
    for layer in plan.layers:
        if layer.kind not in WEIGHTED:
            continue
        before, params = shapes[plan.inputs_of(layer.name)[0]], layer.params
        kernel = pair(params["kernel_size"]) if layer.kind == "conv" else ()
        needed = (shapes[layer.name][0], before[0], *kernel)
        found = weights.get(f"{layer.name}.weight")
        if found is None or tuple(found.shape) != needed:
            raise RequestError(
                f"weights: {layer.name}.weight should have shape {needed}, found "
                f"{'nothing' if found is None else tuple(found.shape)}; they belong to another model"
            )


def _classes(run: Run, n: int) -> tuple[str, ...]:
    """Names from the run's confusion matrix, numbers where it left none."""
    import csv

    if (run.folder / "confusion.csv").exists():
        with run.path("confusion.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            head = next(csv.reader(file), [])
        if len(head) == n + 2:  # corner, classes, none
            return tuple(head[1:-1])
    elif "confusion.csv" in run.info.get("files", {}):
        warn_once(f"{run.folder}: its confusion.csv is gone, which has the names of the classes; they are numbers here")
    return tuple(str(k) for k in range(n))
