"""What a run changes in its process: threads, memory, seeds.

Everything of the kind is done here, in this order, so that a run computes with the same numbers of threads from its
first step to its last, whatever has been compiled before.
"""

from __future__ import annotations

import ctypes
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from cil_spl.base import places, ranks
from cil_spl.base.annotations import Why

if TYPE_CHECKING:
    import torch

# The largest machines have some hundreds of cores; every thread takes memory of its own.
Threads = Annotated[
    int, Ge(1), Le(1024), Why("each thread takes memory, and more of them than there are cores make nothing faster")
]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def before_torch() -> None:
    """Settings that torch's libraries and numba read when they are loaded; those of the user stay."""
    # torch's worker threads otherwise spin between two of its operations, on the cores that the simulator and the
    # fused neurons then want.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    places.choose_kernel_folder()


def set_threads(threads: int | None) -> dict[str, int]:
    """Give torch and numba so many threads each; None leaves torch's own number.

    numba sets the number of OpenMP threads, torch's too, when its threading layer starts, at the first parallel
    function of the process. So the layer is started here, and the numbers are set after it.

    Returns:
        the numbers in force, ``{"torch": …, "numba": …}``.
    """
    import numba
    import numba.core.config
    import torch

    wanted = threads or torch.get_num_threads()
    numba.get_num_threads()  # starts the threading layer
    most: int = numba.core.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(wanted, most))
    torch.set_num_threads(wanted)
    return {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()}


def seed_everything(seed: int) -> None:
    """Seed the global generators, and ask torch for deterministic algorithms."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from it)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Memory that nobody has written is read by nobody here; to fill it would be some per cent of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def memory_bytes() -> int | None:
    """The memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def keep_memory() -> None:
    """Keep freed memory: glibc hands large blocks back at once, and every training step would fault them in again."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)


def prepare(seed: int, threads: int | None, device: str) -> dict[str, int]:
    """Make the process ready: memory, ranks, threads, seeds.

    Returns:
        the numbers of threads in force, by their tags: ``{"threads_torch": …, "threads_numba": …}``.
    """
    keep_memory()
    ranks.start(device_of(device).type)
    in_force = set_threads(threads)
    seed_everything(seed)
    return {f"threads_{name}": number for name, number in in_force.items()}


def device_of(name: str) -> torch.device:
    """The device to train on; whether there is such a one has been checked with the config."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.count() > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return torch.device(name)
