"""``cilspl predict``: what the network of a run answers to a recording of one's own."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.cli import extensions_option

if TYPE_CHECKING:
    from cil_spl.results.runs import Run


def _sensor_size(run: Run) -> tuple[int, int, int]:
    """(width, height, polarities) of what the run's network is shown, from the run's config."""
    from omegaconf import OmegaConf

    from cil_spl.base import options
    from cil_spl.data.options import Dataset

    said: Any = OmegaConf.to_container(run.config()).get("dataset", {})  # type: ignore[union-attr]
    try:
        checked = options.checked(Dataset, {key: said[key] for key in options.names(Dataset) if key in said}, "dataset")
    except RequestError as error:
        raise RequestError(f"{run.folder}/config.yaml: damaged, {error}; take it from a copy of the run") from error
    width, height, polarities = checked["sensor_size"]
    return width, height, polarities


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl predict",
        description="The answer of a run's deployed network to a recording. "
        "Files: .bin (N-MNIST), .npy (structured x, y, t, p), .npz, .csv (x,y,t,p); times in microseconds.",
    )
    parser.add_argument("run", metavar="RUN", help="run id, the beginning of it, or the run's folder")
    parser.add_argument("files", metavar="FILE", nargs="+", help="recordings")
    extensions_option(parser)
    given = parser.parse_args(argv)

    from cil_spl.data.files import read_recording
    from cil_spl.results import runs

    run = runs.find(given.run)
    data = run.config().dataset
    if "sensor_size" not in data:
        raise RequestError(
            f"{given.run}: it was trained on samples of dataset={data.name}; predict takes recordings of events only"
        )
    size = _sensor_size(run)
    recordings = [read_recording(path, size) for path in given.files]  # before torch is imported

    from cil_spl import load

    fence.look_in(os.getcwd(), given.extensions)
    network = load.load(run, given.extensions)
    for path, events in zip(given.files, recordings, strict=True):
        answer = network.predict(events)
        if len(given.files) > 1:
            print(f"{path}:")
        names = range(len(answer.counts)) if answer.label is None else network.classes
        if answer.label is not None:
            print(f"class          {answer.label}")
        counts = "  ".join(f"{name}: {count:g}" for name, count in zip(names, answer.counts, strict=True))
        print(f"output events  {counts}")
        if answer.decision_us is not None:
            print(f"decided at     {answer.decision_us / 1000:.1f} ms")
        print(f"input events   {len(events)}, over {(events['t'][-1] - events['t'][0]) / 1000:.1f} ms")
    return 0
