"""The deployed network of a run, ready for recordings of one's own, in a notebook as on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from cil_spl import pipeline, schema
from cil_spl.base.errors import RequestError
from cil_spl.chip.interchange import load as load_chip
from cil_spl.models.build import build
from cil_spl.models.neurons import load_weights
from cil_spl.results.runs import Run
from cil_spl.targets.deployed import DeployedNetwork
from cil_spl.training.checkpoints import read_checkpoint


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
    config = schema.check_config(schema.known_part(run.config()), extensions)
    target = pipeline.make(config, "target")
    if target.runs != "spikes":
        raise RequestError(
            f"{run.folder}: target={config.target.name} leaves no chip network; ask a run on target=speck"
        )
    plan = pipeline.plan_of(config)
    net = build(plan, family="snn", neuron=config.model.neuron)
    load_weights(net, read_checkpoint(run.path("weights.pt"), "weights")["weights"])
    target.load(load_chip(run.path("chip.npz")), plan, net)
    task = pipeline.make(config, "task")
    return DeployedNetwork(config, plan, net, target, task, _classes(run, int(config.dataset.n_classes)))


def _classes(run: Run, n: int) -> tuple[str, ...]:
    """Names from the run's confusion matrix, numbers where it left none."""
    import csv

    if (run.folder / "confusion.csv").exists():
        with run.path("confusion.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            head = next(csv.reader(file), [])
        if len(head) == n + 2:  # corner, classes, none
            return tuple(head[1:-1])
    return tuple(str(k) for k in range(n))
