"""Where compiled kernels go when the source, the home or the cache cannot be written to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cil_spl.base import places


@pytest.fixture
def read_only_source(monkeypatch, tmp_path):
    """A place without the variable, and a package that cannot be written to."""
    monkeypatch.delenv(places.KERNEL_VARIABLE, raising=False)
    monkeypatch.setattr(places, "_beside_the_source", lambda: False)
    monkeypatch.setenv(places.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    yield tmp_path
    os.environ.pop(places.KERNEL_VARIABLE, None)  # which the function set


def test_beside_the_source_nothing_is_set(monkeypatch):
    monkeypatch.delenv(places.KERNEL_VARIABLE, raising=False)
    monkeypatch.setattr(places, "_beside_the_source", lambda: True)
    places.choose_kernel_folder()
    assert places.KERNEL_VARIABLE not in os.environ
    assert places.kernel_folder() == Path(places.__file__).parents[1]


def test_the_users_own_folder_stays(monkeypatch, read_only_source):
    monkeypatch.setenv(places.KERNEL_VARIABLE, "/mine")
    places.choose_kernel_folder()
    assert places.kernel_folder() == Path("/mine")


def test_the_cache_folder_holds_them(read_only_source):
    places.choose_kernel_folder()
    assert places.kernel_folder() == read_only_source / "cache" / "kernels"
    assert places.kernel_folder().is_dir()


def test_a_cache_that_cannot_be_written_to_leaves_the_temporary_folder(read_only_source):
    (read_only_source / "cache").write_text("a file in place of the folder")
    places.choose_kernel_folder()
    assert places.kernel_folder().parent == read_only_source / "tmp"


def test_numba_takes_it(tmp_path):
    """In a process of its own: where numba keeps kernels is settled when it is imported."""
    code = (
        "import cil_spl.base.places as p; p._beside_the_source = lambda: False; p.choose_kernel_folder();"
        "import numba.core.config as config; print(config.CACHE_DIR)"
    )
    env = {key: value for key, value in os.environ.items() if key != places.KERNEL_VARIABLE}
    env |= {places.CACHE_VARIABLE: str(tmp_path), "HOME": "/dev/null/home"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "kernels")
