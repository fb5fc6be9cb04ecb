"""A folder with a tracking store, for what is kept of runs."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch, template):
    """A folder to stand in, with a store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, tmp_path / "mlflow.db")
    return tmp_path
