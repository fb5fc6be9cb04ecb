"""Several processes that train one network, a rank each, as ``torchrun`` starts them; alone, nothing is done.

Rank 0 decides and writes; the others compute.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def number() -> int:
    """This process's rank; 0 where it is alone."""
    return int(os.environ.get("RANK") or 0)


def count() -> int:
    """How many ranks there are."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def first() -> bool:
    """Whether this process decides and writes."""
    return number() == 0


def start(device: str = "cpu") -> None:
    """Join the other ranks; waits until all are there. Nothing to do for one alone, or twice."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")


def stop() -> None:
    """Leave the other ranks."""
    if together():
        import torch.distributed as dist

        dist.destroy_process_group()


def agree(value: Any) -> Any:
    """What rank 0 has, on every rank: a plain value."""
    if not together():
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def gather(value: Any) -> list[Any]:
    """Every rank's plain value, in the order of ranks, on every rank."""
    if not together():
        return [value]
    import torch.distributed as dist

    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, value)
    return held


def average(values: Mapping[str, float]) -> dict[str, float]:
    """Means over ranks, by name; every rank gives the same names."""
    if not together():
        return dict(values)
    parts = gather(dict(values))
    return {name: sum(part[name] for part in parts) / len(parts) for name in values}


def mean(values: Any) -> None:
    """Put the mean over ranks in the place of a tensor's values."""
    if together():
        import torch.distributed as dist

        dist.all_reduce(values)
        values /= dist.get_world_size()


def together() -> bool:
    """Whether this process has joined others."""
    import sys

    if "torch" not in sys.modules:  # whoever has not loaded torch has no process group
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
