"""Where every generator of random numbers stands, of every rank, as a checkpoint keeps it: plain values and tensors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cil_spl.base import ranks


def state() -> list[dict[str, Any]]:
    """Python's, numpy's, torch's and CUDA's global generators, a dictionary for each rank."""
    version, words, gauss = random.getstate()
    kind, key, at, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (libraries draw from it)
    return ranks.gather(
        {
            "python": [version, list(words), gauss],
            "numpy": [kind, torch.from_numpy(np.asarray(key).astype(np.int64)), at, has_gauss, cached],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
    )


def load_state(saved: list[dict[str, Any]] | Tensor) -> None:
    """Put :func:`state` back; an earlier version kept torch's alone. A rank that is new takes that of rank 0."""
    if isinstance(saved, Tensor):
        torch.set_rng_state(saved)
        return
    mine = saved[ranks.number() if ranks.number() < len(saved) else 0]
    version, words, gauss = mine["python"]
    random.setstate((version, tuple(words), gauss))
    kind, key, at, has_gauss, cached = mine["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), at, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(mine["torch"])
    if torch.cuda.is_available() and len(mine["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(mine["cuda"])
