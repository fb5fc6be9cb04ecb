"""How much memory there is, and refusing what does not fit before it is allocated."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cil_spl.base import process
from cil_spl.base.errors import RequestError

_SHARE = 4  # an input takes at most this part of what is free: checking and converting it needs copies
_PACKED_AT_MOST = 100  # real data are packed to a tenth; deflate at its best makes a thousandth of zeros
_SMALL = 1 << 28  # bytes that may be zeros alone
_CGROUPS = (  # limit and present use, of version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes() -> int | None:
    """The memory that this process may still take: of the machine, its container and its own limit.

    Returns:
        bytes; None where the system does not say.
    """
    found = [process.memory_bytes(), _of_the_machine(), _of_the_process()]
    found += [_left(limit, used) for limit, used in _CGROUPS]
    known = [one for one in found if one is not None]
    return max(0, min(known)) if known else None


def check_fits(needed: int, what: str, remedy: str, packed: int | None = None) -> None:
    """Refuse an input that would not fit into memory, before anything is allocated.

    Args:
        needed: bytes that it takes when it is read.
        what: how the message calls it, the file as a rule.
        remedy: what to do.
        packed: bytes that it takes in a compressed file.

    Raises:
        RequestError: says how much it takes, and how much there may be.
    """
    if packed is not None and needed > max(_SMALL, _PACKED_AT_MOST * packed):
        raise RequestError(
            f"{what} would unpack {packed} bytes to {needed / 1e9:.3g} GB, more than {_PACKED_AT_MOST} times as much, "
            f"as no real data do; {remedy}"
        )
    free = free_bytes()
    if free is not None and needed > free // _SHARE:
        raise RequestError(
            f"{what} would take {needed / 1e9:.3g} GB; at most {free / _SHARE / 1e9:.3g} GB fit, a quarter of the "
            f"memory that is free; {remedy}"
        )


def _of_the_machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_the_process() -> int | None:
    """What is left below ``ulimit -v``."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return max(0, limit - pages * resource.getpagesize())
    return None


def _left(limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):
        return int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii"))
    return None
