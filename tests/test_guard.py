"""The guard of conftest.py holds, in this process and in those that tests start."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from types import ModuleType

import offline
import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0)])
def test_no_connection_leaves_the_machine(address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(1)
        with pytest.raises(offline.NetworkBlockedError):
            connection.connect(address)
        with pytest.raises(offline.NetworkBlockedError):
            connection.connect_ex(address)
    with socket.socket(family, socket.SOCK_DGRAM) as connection, pytest.raises(offline.NetworkBlockedError):
        connection.sendto(b"x", address)


def test_no_name_is_resolved():
    with pytest.raises(offline.NetworkBlockedError):
        socket.getaddrinfo("example.org", 80)
    with pytest.raises(urllib.error.URLError, match="must not reach the network"):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_this_machine_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5):
                pass


def test_subprocesses_are_offline_too():
    done = python("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)")
    assert "NetworkBlockedError" in done.stderr


@pytest.mark.parametrize("module", ["samna", "sinabs.backend.dynapcnn"])
def test_the_vendor_library_cannot_be_imported(module, monkeypatch):
    for name in [m for m in sys.modules if m == module or m.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it over a stand-in
    with pytest.raises(offline.HardwareBlockedError, match=module):
        importlib.import_module(module)
    assert "HardwareBlockedError" in python(f"import {module}").stderr


def test_a_stand_in_can(monkeypatch):
    monkeypatch.setitem(sys.modules, "samna", ModuleType("samna"))
    assert importlib.import_module("samna").__name__ == "samna"


def test_samna_is_found_without_an_import():
    assert importlib.metadata.files("samna")
    assert "samna" not in sys.modules


def test_nothing_of_a_person_is_touched():
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "pytest" in os.environ["CILSPL_CACHE"]
