"""Whether a data set is as its config says: ours before anything is read, a user's own when it has been read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.data import nmnist
from cil_spl.data.events import Recordings, Splits, check_recordings
from cil_spl.data.options import kind_of
from cil_spl.data.pictures import shorter_side
from cil_spl.data.samples import Samples, check_samples

# Of our sets, by path: sensor_size or input_shape, and number of classes, None where the files say it. Of a user's own
# set both are known once it has been read.
KNOWN: dict[str, tuple[tuple[int, int, int], int | None]] = {
    "cil_spl.data.datasets.event_digits": ((34, 34, 2), 10),
    "cil_spl.data.datasets.saccade_mnist": ((34, 34, 2), None),
    "cil_spl.data.datasets.nmnist": (nmnist.SENSOR_SIZE, len(nmnist.CLASSES)),
    "cil_spl.data.datasets.dvs_gesture": ((128, 128, 2), 11),
    "cil_spl.data.datasets.cifar10_dvs": ((128, 128, 2), 10),
    "cil_spl.data.images.digits": ((1, 8, 8), 10),
    "cil_spl.data.images.mnist": ((1, 28, 28), 10),
    "cil_spl.data.images.fashion_mnist": ((1, 28, 28), 10),
    "cil_spl.data.images.cifar10": ((3, 32, 32), 10),
}
FOLDERS = "cil_spl.data.images.image_folder"  # of any size
NO_VALIDATION = "epochs and settings are chosen on them, so it needs part of the training recordings, for example 0.1"


def is_ours(target: str) -> bool:
    """Whether a path is that of one of our data sets."""
    return target.startswith("cil_spl.data.")


def check_known(target: str, found: Mapping[str, Any], group: str) -> None:
    """Refuse what a set of ours never has; of a user's own it is found out when it is read."""
    if target == FOLDERS:
        shorter_side(found["input_shape"], found["resize"], group)
    if target not in KNOWN:
        return
    name = target.rpartition(".")[2]
    size, n_classes = KNOWN[target]
    key = "input_shape" if kind_of(found) == "values" else "sensor_size"
    if tuple(found[key]) != size:
        remedy = f", {group}.preprocess changes what the network gets" if key == "sensor_size" else ""
        raise RequestError(
            f"{group}.{key}={shown(found[key])}: those of {name} are of {shown(list(size))}; leave it so{remedy}"
        )
    if n_classes is not None and found["n_classes"] != n_classes:
        raise RequestError(f"{group}.n_classes={found['n_classes']}: {name} has {n_classes} classes; leave it so")


def check_split(dataset: Mapping[str, Any]) -> None:
    """Refuse to train on one of our sets without validation recordings; a user's own may bring some."""
    if is_ours(dataset["_target_"]) and not dataset["val_fraction"]:
        raise RequestError(
            f"dataset.val_fraction=0: {dataset['name']} has no validation recordings of its own; {NO_VALIDATION}"
        )


def check_validation(dataset: Mapping[str, Any], experiences: Sequence[Splits]) -> None:
    """Refuse to train without validation recordings, once the data set has been read."""
    if not all(len(splits.val) for splits in experiences):
        raise RequestError(
            f"dataset.val_fraction={dataset['val_fraction']:g}: dataset={dataset['name']} is left without validation "
            f"recordings ({len(experiences[0].train)} to train on); {NO_VALIDATION}, and two recordings of a class"
        )


def check_returned(sets: Any, config: dict[str, Any], group: str) -> None:
    """Refuse what is no data set, and recordings that are not as the config says."""
    key = f"{group}._target_={config['_target_']}"
    experiences = sets if isinstance(sets, tuple) else (sets,)
    if not experiences or not all(isinstance(splits, Splits) for splits in experiences):
        kinds = ", ".join(type(splits).__name__ for splits in experiences)
        kinds = f"a tuple ({kinds})" if isinstance(sets, tuple) else kinds
        raise RequestError(
            f"{key}: it returned {kinds}; needs Splits(train, val, test), or a tuple of them for several experiences"
        )
    for splits in experiences:
        for name in ("train", "val", "test"):
            _check_part(getattr(splits, name), config, group, f"{key}: its {name}")


def _check_part(part: Any, config: Mapping[str, Any], group: str, where: str) -> None:
    """Refuse data that are not what the config says."""
    wanted, size = (Samples, "input_shape") if kind_of(config) == "values" else (Recordings, "sensor_size")
    if not isinstance(part, (Samples, Recordings)):
        raise RequestError(
            f"{where} is of type {type(part).__name__}; needs Recordings, which events.from_list makes, or Samples, "
            "which samples.from_arrays makes"
        )
    if not isinstance(part, wanted):
        given = "Samples" if isinstance(part, Samples) else "Recordings"
        raise RequestError(f"{group}.{size}={shown(config[size])}: the data set gives {given}, which have none")
    if isinstance(part, Recordings):
        check_recordings(part, where)
    else:
        check_samples(part, where)
    what = "recordings" if isinstance(part, Recordings) else "samples"
    found = part.input_shape if isinstance(part, Samples) else part.sensor_size
    if tuple(found) != tuple(config[size]):
        raise RequestError(f"{group}.{size}={shown(config[size])}: the {what} are of {shown(list(found))}")
    n = None if part.classes is None else len(part.classes)
    if n != config["n_classes"]:
        of = "no classes" if n is None else f"{n} classes"
        raise RequestError(
            f"{group}.n_classes={shown(config['n_classes'])}: the {what} have {of}; set {group}.n_classes={shown(n)}"
        )
