"""What holds for every test: no network, no samna, nothing written to the user's folders."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
GUARD = ROOT / "tests" / "guard"

sys.path.insert(0, str(GUARD))
import offline  # noqa: E402

offline.block()

# Set before any test module imports torch, matplotlib or numba, and inherited by subprocesses.
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(GUARD), os.environ.get("PYTHONPATH")) if p)
os.environ["PIP_NO_INDEX"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "CILSPL_RUN_DIR", "NO_COLOR"):
    os.environ.pop(_name, None)
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
if not os.access(ROOT / "cil_spl", os.W_OK):  # numba compiles beside the source where it can
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"cilspl-numba-{os.getuid()}"))

# Machines are slow at times, and that is no defect; examples are drawn anew each time, except in CI.
settings.register_profile(
    "cilspl", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("cilspl")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for the whole session, so that recordings are simulated once for all xdist workers."""
    base = tmp_path_factory.getbasetemp()
    shared_by_workers = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["CILSPL_CACHE"] = str(shared_by_workers / "cilspl-cache")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and reference data beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the reference data in {folder.name}/ beside the checkout")
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store; making one takes seconds, copying none."""
    from cil_spl.results.store import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path
