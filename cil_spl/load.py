"""The deployed network of a run, ready for data of the user's own, in a notebook as on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf

from cil_spl import schema
from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.chip.interchange import load as load_chip
from cil_spl.models.configured import network_of, plan_of
from cil_spl.models.neurons import load_weights
from cil_spl.models.plan import Plan
from cil_spl.results.runs import Run
from cil_spl.targets.deployed import DeployedNetwork
from cil_spl.targets.target import TargetNetwork
from cil_spl.training.checkpoints import read_checkpoint

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
    left = read_checkpoint(run.path("weights.pt"), "weights")
    # A method may have folded a normalisation: then the network is not the config's; earlier versions had no such.
    plan = Plan.from_dict(left["plan"]) if "plan" in left else plan_of(config, task)
    net = network_of(config, task, plan, "snn")
    load_weights(net, left["weights"])
    left_chip = CHIP_FILE in run.info.get("files", {}) or (run.folder / CHIP_FILE).exists()
    network = TargetNetwork(net, load_chip(run.path(CHIP_FILE)) if left_chip else None)
    classes = _classes(run, config.dataset.n_classes or 0)
    return DeployedNetwork(config, network, target, task, classes, run.preparations())


def _classes(run: Run, n: int) -> tuple[str, ...]:
    """Names from the run's confusion matrix, numbers where it left none."""
    import csv

    if (run.folder / "confusion.csv").exists():
        with run.path("confusion.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            head = next(csv.reader(file), [])
        if len(head) == n + 2:  # corner, classes, none
            return tuple(head[1:-1])
    return tuple(str(k) for k in range(n))
