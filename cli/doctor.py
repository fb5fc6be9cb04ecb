"""``cilspl doctor``: what is installed, what is connected, where things go; samna is looked at, never imported."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cil_spl import __version__
from cil_spl.base import places
from cil_spl.base.errors import RequestError
from cil_spl.targets.board import samna_kind

PACKAGES = ("torch", "sinabs", "tonic", "numba", "numpy", "mlflow", "hydra-core", "omegaconf", "scikit-learn")
OK, NOTE, WRONG = "ok", "--", "!!"
Line = tuple[str, str, str]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl doctor",
        description="Versions, which samna, devices, the tracking store, writable folders. "
        "Exits with 1 when something that a run needs is missing.",
    )
    parser.parse_args(argv)
    bad = 0
    for check in (versions, computing, chip, tracking, folders):
        for mark, name, text in check():
            bad += mark == WRONG
            print(f"{mark} {name:<12} {text}", flush=True)
    print("all that a run needs is there" if not bad else f"{bad} marked !! need attention")
    return 1 if bad else 0


def versions() -> Iterator[Line]:
    yield OK, "cilspl", f"{__version__} in {Path(__file__).resolve().parent}"
    yield OK, "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        try:
            yield OK, name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield WRONG, name, "not installed; pip install cilspl brings it"


def computing() -> Iterator[Line]:
    try:
        import numba
        import torch
    except ImportError as error:
        yield WRONG, "computing", str(error)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} of torch, {numba.get_num_threads()} of numba"
    yield OK, "threads", f"{threads}, on {cores} cores"
    if torch.cuda.is_available():
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield OK, "CUDA", cards
        if importlib.util.find_spec("triton") is None:
            yield NOTE, "triton", "not installed; neurons go step by step on a GPU (pip install 'cilspl[gpu]')"
    else:
        yield NOTE, "CUDA", "no device (not needed; trainer.device=cpu)"


def chip() -> Iterator[Line]:
    kind, text = samna()
    yield (OK if kind == "real" else NOTE), "samna", text
    if kind == "real":
        from cil_spl.targets import devkit

        try:
            found = devkit.connected()
        except Exception as error:  # samna's bindings may raise anything
            yield WRONG, "boards", str(error)
            return
        yield (OK if found else NOTE), "boards", ", ".join(found) or "no Speck 2e or 2f is connected"
    else:
        yield NOTE, "boards", "cannot be listed without the real samna; target=speck runs on the simulator"


def samna() -> tuple[str, str]:
    """Which samna is installed, and what to say of it."""
    kind = samna_kind()
    version = "" if kind == "absent" else importlib.metadata.version("samna")
    return kind, {
        "absent": "not installed (not needed; the simulator runs without it)",
        "stub": f"{version}, the registry's stub: importing it would start pip, so nothing here does",
        "foreign": f"{version}, compiled for another Python or system; install it anew from the vendor",
        "real": f"{version}, the real one, compiled for this Python",
    }[kind]


def tracking() -> Iterator[Line]:
    from cil_spl.results.store import connect, redact, sqlite_path, store_uri

    uri = store_uri()
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        yield _folder("tracking", path.parent, f"{redact(uri)}, not there yet; the first run makes it")
        return
    try:
        client = connect(uri)
        runs = len(client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000))
        yield OK, "tracking", f"{redact(uri)}, {runs}{'+' if runs == 1000 else ''} runs"
    except RequestError as error:
        yield WRONG, "tracking", str(error)


def folders() -> Iterator[Line]:
    from cil_spl.data import cache

    yield _attempt("cache", lambda: _folder("cache", cache.folder(), f"{cache.folder()}, {megabytes(cache.size())}"))
    kernels = places.kernel_folder()
    how = "" if os.environ.get(places.KERNEL_VARIABLE) else " (beside the source)"
    yield _folder("kernels", kernels, f"{kernels}{how}, where numba keeps what it compiles")
    yield _folder("runs", Path("runs").resolve(), str(Path("runs").resolve()))


def megabytes(size: int) -> str:
    """Bytes as they are read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _attempt(name: str, line: Callable[[], Line]) -> Line:
    try:
        return line()
    except OSError as error:
        return WRONG, name, str(error)


def _folder(name: str, folder: Path, text: str) -> Line:
    """Whether a file can be made there, or in the nearest folder above that exists."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return OK, name, f"{text}, writable"
    except OSError as error:
        return WRONG, name, f"{text}: cannot be written ({error.strerror or error})"
