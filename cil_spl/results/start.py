"""What training starts from: the weights of an earlier run."""

from __future__ import annotations

from pathlib import Path

import torch

from cil_spl.base.errors import RequestError
from cil_spl.results import runs
from cil_spl.training.checkpoints import read_checkpoint


def starting_weights(name: str | None) -> dict[str, torch.Tensor] | None:
    """The weights that ``start_from`` names: a file, a run's folder, or an MLflow run id; None for fresh ones.

    Raises:
        RequestError: there is no such run, or the file holds no weights.
    """
    if name is None:
        return None
    path = Path(name)
    if not path.is_file():
        path = runs.find(name).weights()
    content = read_checkpoint(path)
    weights = content.get("weights", content.get("keep", {}).get("net"))
    if weights is None:
        raise RequestError(f"start_from={name}: this file holds no weights; name a run, or its weights.pt")
    return weights
