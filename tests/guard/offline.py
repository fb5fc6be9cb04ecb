"""What no test may do: reach the network, or import samna, which would start pip.

``block()`` cannot be undone within the process. Subprocesses inherit it through ``sitecustomize``
beside this file, whose folder conftest.py puts on PYTHONPATH.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import ipaddress
import socket
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg")
_RESOLVING = ("socket.getaddrinfo", "socket.gethostbyname")
_HARDWARE = ("samna", "samnagui", "sinabs.backend.dynapcnn")


class NetworkBlockedError(ConnectionRefusedError):
    """A test tried to reach beyond this machine. An OSError, so that code meets it as a network that is down."""


class HardwareBlockedError(RuntimeError):
    """A test imported the vendor's library. No ImportError, so that no ``except ImportError`` hides it."""


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host is None or host in ("", "localhost", "<broadcast>", socket.gethostname()):
        return host != "<broadcast>"
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in _CONNECTING:
        connection, address = args
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or address is None:
            return
        if not _is_here(address[0]):
            raise NetworkBlockedError(f"tests must not reach the network: {event} to {address!r}")
    elif event in _RESOLVING and not _is_here(args[0]):
        raise NetworkBlockedError(f"tests must not reach the network: {event} of {args[0]!r}")


class _NoHardware(importlib.abc.MetaPathFinder):
    """Refuses samna and what imports it, unless a test has put a stand-in for samna into sys.modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        hardware = any(fullname == name or fullname.startswith(f"{name}.") for name in _HARDWARE)
        if hardware and "samna" not in sys.modules:
            raise HardwareBlockedError(
                f"import of {fullname}: the samna package starts pip when imported; "
                "a test that needs it puts a mock into sys.modules['samna'] first"
            )
        return None


def block() -> None:
    """Begin; a second call does nothing."""
    if not any(isinstance(finder, _NoHardware) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoHardware())
        sys.addaudithook(_audit)
