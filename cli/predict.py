"""``cilspl predict``: what the network of a run answers to recordings or samples of the user's own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.cli import extensions_option

if TYPE_CHECKING:
    import numpy as np

    from cil_spl.results.runs import Run

MOST_OUTPUTS = 64  # more are not printed one by one


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


def _read(run: Run, files: Sequence[str], experience: int | None) -> list[Sequence[np.ndarray]]:
    """The recordings or samples of each file."""
    from cil_spl.data.files import read_recording
    from cil_spl.data.preparation import chosen
    from cil_spl.data.sample_files import read_samples

    if preparations := run.preparations():
        preparation = chosen(preparations, experience)
        return [[*read_samples(path, preparation)] for path in files]
    if experience is not None:
        raise RequestError(f"--experience {experience}: the run was trained on recordings of events; leave it out")
    size = _sensor_size(run)
    return [[read_recording(path, size)] for path in files]


def _outputs_in(folder: str, files: Sequence[str]) -> list[Path]:
    """Where the outputs of each file go.

    Raises:
        RequestError: a file is there already, or two would get the same name.
    """
    found: list[Path] = []
    for name in files:
        path = Path(folder) / f"{Path(name).stem}.outputs.npy"
        if path in found:
            raise RequestError(f"{name}: another file has the same name, and both would become {path}; rename one")
        if path.exists():
            raise RequestError(f"--output {folder}: {path} is there already; delete it, or choose another folder")
        found.append(path)
    return found


def _write(path: Path, answers: Sequence[Any]) -> None:
    import numpy as np

    from cil_spl.base.files import write_whole

    values = [answer.values for answer in answers]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            np.save(file, values[0] if len(values) == 1 else np.stack(values), allow_pickle=False)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _show(answer: Any, classes: Sequence[str], data: np.ndarray) -> None:
    if answer.label is not None:
        print(f"class          {answer.label}")
    names = range(len(answer.counts)) if answer.label is None else classes
    events = data.dtype.names is not None
    if len(answer.counts) <= MOST_OUTPUTS or answer.label is not None:
        counts = "  ".join(f"{name}: {count:g}" for name, count in zip(names, answer.counts, strict=True))
    else:
        low, high = answer.counts.min(), answer.counts.max()
        counts = f"{len(answer.counts)} outputs, from {low:g} to {high:g}; --output FOLDER keeps them"
    print(f"output events  {counts}")
    if answer.decision_us is not None:
        print(f"decided at     {answer.decision_us / 1000:.1f} ms")
    if events:
        print(f"input events   {len(data)}, over {(data['t'][-1] - data['t'][0]) / 1000:.1f} ms")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl predict",
        description="The answer of a run's deployed network to recordings of events, or to samples such as images, "
        "whichever the run was trained on. "
        "Recordings: .bin (N-MNIST), .npy (structured x, y, t, p), .npz, .csv and .txt (columns as a header "
        "has them, or x, y, t, p); times in whole microseconds. "
        "Samples: .npy of shape (channels, height, width), with one channel (height, width) too, or several along an "
        "axis in front, with values as the data set has them, or fractions from 0 to 1; .png of 8 bits; "
        "for a run on image_folder .jpg and .png of any size.",
    )
    parser.add_argument("run", metavar="RUN", help="run id, the beginning of it, or the run's folder")
    parser.add_argument("files", metavar="FILE", nargs="+", help="recordings or samples")
    parser.add_argument(
        "--experience", type=int, metavar="N", help="of which the samples are, from 0, where the run learnt several"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write what the outputs say there, as NAME.outputs.npy: a reconstruction as an image, counts as a rule",
    )
    extensions_option(parser)
    given = parser.parse_args(argv)

    from cil_spl.results import runs

    run = runs.find(given.run)
    inputs = _read(run, given.files, given.experience)  # before torch is imported
    kept = None if given.output is None else _outputs_in(given.output, given.files)

    from cil_spl import load

    fence.look_in(os.getcwd(), given.extensions)
    network = load.load(run, given.extensions)
    for number, (path, several) in enumerate(zip(given.files, inputs, strict=True)):
        answers = [network.predict(one, given.experience) for one in several]
        for i, (one, answer) in enumerate(zip(several, answers, strict=True)):
            if len(given.files) > 1 or len(several) > 1:
                print(f"{path}{f' [{i}]' if len(several) > 1 else ''}:")
            _show(answer, network.classes, one)
        if kept is not None:
            _write(kept[number], answers)
            print(f"kept in        {kept[number]}")
    return 0
