"""One ``cilspl run`` up to the end of its first training step: when it came to what, as JSON on the last line.

    python benchmarks/start/first_step.py BEGAN [override ...]     BEGAN is time.time() before this process was started

The places are where the pipeline goes from one stage to the next; they are marked as modules are imported, so that
nothing is imported earlier than in a run.
"""

from __future__ import annotations

import functools
import importlib.abc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

BEGAN = float(sys.argv[1])
marks: list[tuple[str, float, float]] = []


def mark(what: str) -> None:
    """What ends now: its name, seconds since the start by the clock, and of this process on the processor."""
    marks.append((what, time.time() - BEGAN, time.process_time()))


def marked(holder: Any, name: str, before: str = "", after: str = "", then: Callable[[], None] | None = None) -> None:
    """Mark the first call of a function: what ends when it begins, and when it ends."""
    function = getattr(holder, name)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        setattr(holder, name, function)
        if before:
            mark(before)
        found = function(*args, **kwargs)
        if after:
            mark(after)
        if then is not None:
            then()
        return found

    setattr(holder, name, run)


def tell() -> None:
    """The run is not needed any more."""
    sys.stderr.flush()
    print(json.dumps(marks), flush=True)
    os._exit(0)


def mark_pipeline(pipeline: ModuleType) -> None:
    """The stages of a run."""
    from cil_spl.training.update import Update

    mark("imports: torch and the pipeline")
    marked(pipeline, "check_store", before="config: plan, target", after="MLflow: import, store")
    marked(pipeline.datasets, "load", before="threads, seeds", after="data set")
    marked(pipeline, "context_of", before="record, its run in MLflow")
    marked(Update, "__init__", after="network, scaling of its weights")
    marked(Update, "__call__", after="first step", then=tell)


class AtImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Marks the pipeline when it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Ours for the pipeline alone."""
        if name != "cil_spl.pipeline":
            return None
        mark("command line, Hydra, config")
        found = PathFinder.find_spec(name, path)
        assert found is not None
        self.loader: Any = found.loader
        found.loader = self
        return found

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        """As usual, and marked."""
        self.loader.exec_module(module)
        mark_pipeline(module)


if __name__ == "__main__":
    mark("Python")
    sys.meta_path.insert(0, AtImport())
    from cil_spl.cli import main

    sys.exit(main(["run", *sys.argv[2:]]))
