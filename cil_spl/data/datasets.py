"""Data sets by name, and what happens to any of them between its files and training.

A data set is a function that takes keywords and returns ``Splits``; a config names it in ``_target_``. It returns
recordings as the sensor gave them; ``load`` does the rest for all of them alike: pre-processing, what is left out,
the check for leaks, the validation split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, MinLen

from cil_spl.base import fence, options
from cil_spl.base.annotations import Keys, Says, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest
from cil_spl.data import cache, exclusions, folders, known, recorded
from cil_spl.data import nmnist as nmnist_files
from cil_spl.data import preprocess as stage
from cil_spl.data.events import Recordings, Splits
from cil_spl.data.options import Dataset
from cil_spl.data.saccade_parameters import Parameters
from cil_spl.data.splits import stratified_split

# Keys of every data set that `load` sees to; a data set's function gets the others.
COMMON = options.names(Dataset)

Simulator = Annotated[Mapping[str, Any], Keys(Parameters)]
Folder = Annotated[str, MinLen(1), Says("the folder that holds the data set")]
Seed = Annotated[int, Ge(0)]
DEFAULTS: Mapping[str, Any] = {}  # of the simulator


def event_digits(*, simulator: Simulator = DEFAULTS, simulator_seed: Seed = 0) -> Splits:
    """scikit-learn's handwritten digits as simulated recordings, 34 x 34 x 2; needs no files.

    Args:
        simulator: parameters of the saccade simulator that differ from its defaults.
        simulator_seed: of the simulator's random numbers.
    """
    from cil_spl.data.simulated import event_digits_recordings

    settings = {"simulator": _plain(simulator), "simulator_seed": simulator_seed}
    return _cached(
        {"dataset": "event_digits", **settings},
        (),
        ("simulated", "saccades", "saccade_parameters"),
        lambda: event_digits_recordings(seed=simulator_seed, simulator=_plain(simulator)),
    )


def saccade_mnist(
    *,
    root: Folder = "data/mnist",
    download: bool = True,
    n_train: Annotated[int, Ge(1)] | None = None,
    n_test: Annotated[int, Ge(1)] | None = None,
    simulator: Simulator = DEFAULTS,
    simulator_seed: Seed = 0,
) -> Splits:
    """Images in MNIST's file format as simulated recordings, 34 x 34 x 2.

    Args:
        root: folder with the four idx files.
        download: fetch MNIST there if they are absent.
        n_train, n_test: only so many, in the classes' proportions; None for all.
        simulator: parameters of the saccade simulator that differ from its defaults.
        simulator_seed: of the simulator's random numbers.

    Raises:
        RequestError: a file is missing, cut off or foreign; it is named.
    """
    from cil_spl.data.simulated import idx_file, saccade_mnist_recordings

    settings = {"simulator": _plain(simulator), "simulator_seed": simulator_seed, "n_train": n_train, "n_test": n_test}
    folder = folders.folder_of(root)
    names = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    files = [idx_file(folder, name, download) for name in names]  # fetched before their fingerprint is taken
    return _cached(
        {"dataset": "saccade_mnist", **settings},
        files,
        ("simulated", "saccades", "saccade_parameters"),
        lambda: saccade_mnist_recordings(
            folder,
            n_train=n_train,
            n_test=n_test,
            seed=simulator_seed,
            simulator=_plain(simulator),
        ),
    )


def nmnist(
    *, root: Folder = "data", download: bool = True, test_digits_from: Literal["auto", "train", "test"] = "auto"
) -> Splits:
    """N-MNIST in its official layout, or any part of it, 34 x 34 x 2, ten classes.

    Args:
        root: holds ``Train`` and ``Test``, or a folder ``NMNIST`` that does.
        download: fetch it through tonic if it is absent.
        test_digits_from: which MNIST images ``Test`` shows: ``auto``, ``train`` or ``test``, see ``nmnist.read``.

    Raises:
        RequestError: the folder is missing or empty, or a file cut off or foreign; it is named.
    """
    at = folders.folder_of(root)
    folder = nmnist_files.find(at)
    if folder is None:
        folders.refuse_download(at, download, "Train or Test, nor NMNIST/Train or NMNIST/Test")
        folder = recorded.fetch("NMNIST", at, 1200, [{"train": True}, {"train": False}])
    return _cached(
        {"dataset": "nmnist", "test_digits_from": test_digits_from},
        [folder / name for name in nmnist_files.FOLDERS.values()],
        ("nmnist",),
        lambda: nmnist_files.read(folder, test_digits_from),
    )


def dvs_gesture(*, root: Folder = "data", download: bool = True) -> Splits:
    """The IBM gestures, 128 x 128 x 2, 11 classes.

    Args:
        root: holds ``ibmGestureTrain`` and ``ibmGestureTest``, or a folder ``DVSGesture`` that does.
        download: fetch it through tonic if it is absent.

    Raises:
        RequestError: the folder is missing or empty, or a file cut off or foreign; it is named.
    """
    at, parts = folders.folder_of(root), ("ibmGestureTrain", "ibmGestureTest")
    folder = next((f for f in (at, at / "DVSGesture") if any((f / p).is_dir() for p in parts)), None)
    if folder is None:
        folders.refuse_download(at, download, "ibmGestureTrain or ibmGestureTest, nor a folder DVSGesture that does")
        folder = recorded.fetch("DVSGesture", at, 2900, [{"train": True}, {"train": False}])
    return _cached(
        {"dataset": "dvs_gesture"},
        [folder / part for part in parts],
        ("recorded",),
        lambda: recorded.read_dvs_gesture(folder),
    )


def cifar10_dvs(*, root: Folder = "data", download: bool = True) -> Splits:
    """CIFAR10-DVS, 128 x 128 x 2, ten classes; every tenth recording of a class is a test recording.

    Args:
        root: holds a folder per class, or a folder ``CIFAR10DVS`` that does.
        download: fetch it through tonic if it is absent.

    Raises:
        RequestError: the folder is missing or empty, a file cut off or foreign, or the package ``aedat`` is missing.
    """
    at = folders.folder_of(root)
    folder = next((f for f in (at, at / "CIFAR10DVS") if any(f.glob("*/*.aedat4"))), None)
    if folder is None:
        folders.refuse_download(at, download, "<class>/<name>.aedat4, nor a folder CIFAR10DVS that does")
        folder = recorded.fetch("CIFAR10DVS", at, 8300, [{}])
    return _cached({"dataset": "cifar10_dvs"}, [folder], ("recorded",), lambda: recorded.read_cifar10_dvs(folder))


def check_dataset(dataset: Mapping[str, Any], group: str = "dataset", extensions: Sequence[str] = ()) -> dict[str, Any]:
    """Refuse a config of a data set whose keys or values make no sense, before any file is opened.

    Args:
        dataset: the keys of the config group.
        group: what messages call it.
        extensions: modules besides cil_spl whose functions it may name.

    Returns:
        The keys in their types, with their defaults.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    config = _plain(dataset)
    function = fence.locate(group, config.get("_target_"), extensions)
    allowed = [*COMMON, *options.names(function)]
    for key, value in config.items():
        if key not in allowed and key != "_target_" and not options.takes_any(function):
            raise RequestError(f"{group}.{key}={shown(value)}: no such key; {nearest(key, allowed)}")
    found = options.checked(Dataset, {key: value for key, value in config.items() if key in COMMON}, group)
    found |= options.checked(function, _own(config), group)
    if group == "dataset" and found["split"] != "test":
        raise RequestError(f"dataset.split={found['split']}: it is for test_dataset.split; leave it at test")
    stage.preprocessed_sensor_size(tuple(found["sensor_size"]), found["preprocess"])
    exclusions.listed(found["exclude_indices"])
    known.check_known(config["_target_"], found, group)
    return {"_target_": config["_target_"]} | {key: found[key] for key in [*config, *found] if key in found}


def check_folder(dataset: Mapping[str, Any], group: str = "dataset") -> None:
    """Refuse the folder of one of our sets that is not there, before anything is read or downloaded.

    Raises:
        RequestError: names the folder and what to do.
    """
    path = str(dataset["_target_"])
    if path in known.KNOWN and "root" in dataset:
        default = options.defaults(globals()[path.rpartition(".")[2]])["root"]
        folders.check_root(dataset["root"], default, bool(dataset["download"]), group)


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a data set's function gets."""
    return {key: value for key, value in config.items() if key not in COMMON and key != "_target_"}


def preprocessed_sensor_size(dataset: Mapping[str, Any]) -> tuple[int, int, int]:
    """(width, height, polarities) of what a network gets, from the config of a data set alone.

    Raises:
        RequestError: the pre-processing is not allowed or does not go with ``sensor_size``.
    """
    config = _plain(dataset)
    return stage.preprocessed_sensor_size(tuple(config["sensor_size"]), config.get("preprocess"))


def load(
    dataset: Mapping[str, Any],
    test_dataset: Mapping[str, Any] | None = None,
    seed: int = 0,
    extensions: Sequence[str] = (),
) -> tuple[Splits, ...]:
    """The experiences that a config asks for, one as a rule, ready for training.

    Recordings are pre-processed as ``dataset.preprocess`` says, those of ``test_dataset`` as well.

    Args:
        dataset: a config of group ``dataset``.
        test_dataset: another one, whose ``split`` becomes the test set.
        seed: of the validation split.
        extensions: modules besides cil_spl whose functions the configs may name.

    Raises:
        RequestError: a config that makes no sense, files that are missing or damaged, a split without recordings, or
            training recordings of a digit that is also in the test set.
    """
    config = check_dataset(dataset, "dataset", extensions)
    sets = _call(config, "dataset", extensions)
    experiences = sets if isinstance(sets, tuple) else (sets,)
    test = None
    if test_dataset is not None:
        test = _test_from(check_dataset(test_dataset, "test_dataset", extensions), config, extensions)
    return tuple(_ready(splits, test, config, seed) for splits in experiences)


def _ready(splits: Splits, test: Recordings | None, config: dict[str, Any], seed: int) -> Splits:
    """One experience: pre-processed, without what is left out, checked, split."""
    own_test = test is None
    parts = {"train": splits.train, "val": splits.val} | ({"test": splits.test} if test is None else {})
    parts = _preprocessed(parts, config.get("preprocess"))
    train, val = parts["train"], parts["val"]
    test = parts["test"] if test is None else test
    if not len(test):
        raise RequestError(f"dataset={config.get('name')} has no test recordings; name others: dataset@test_dataset=…")
    wanted = exclusions.listed(config.get("exclude_indices"))
    if wanted is not None:
        before = len(train) + len(val)
        train, val = (exclusions.without(part, wanted, test) for part in (train, val))
        if wanted == exclusions.TEST_DATASET and own_test and len(train) + len(val) == before:
            raise RequestError(
                f"dataset.exclude_indices={wanted}: there is no test_dataset, and no training recording shows what the "
                "set's own test recordings show; leave it null, or choose one with dataset@test_dataset=NAME"
            )
    if not len(train):
        raise RequestError(
            f"dataset={config.get('name')} has no training recordings (left out: dataset.exclude_indices)"
        )
    for part in (train, val):
        exclusions.check_leaks(part, test)
    if not len(val):
        first, second = stratified_split(train.target, config.get("val_fraction", 0.1), seed)
        train, val = train.subset(first), train.subset(second)
    return Splits(train, val, test)


def _test_from(config: dict[str, Any], training: dict[str, Any], extensions: Sequence[str]) -> Recordings:
    own, theirs = (stage.Preprocess.from_config(c.get("preprocess")) for c in (config, training))
    if own not in (stage.Preprocess(), theirs):
        raise RequestError(
            "test_dataset.preprocess differs from dataset.preprocess, which is used for both; leave it out"
        )
    for key, value in (("sensor_size", config["sensor_size"]), ("n_classes", config["n_classes"])):
        if value != training[key]:
            raise RequestError(
                f"test_dataset.{key}={shown(value)}: dataset.{key} is {shown(training[key])}; they must be the same"
            )
    sets = _call(config, "test_dataset", extensions)
    if isinstance(sets, tuple):
        raise RequestError(f"test_dataset={config.get('name')} has several experiences; a test set needs one")
    split = config.get("split", "test")
    named = {"train": [sets.train, sets.val], "test": [sets.test]}
    picked = [p for p in named.get(split, [sets.train, sets.val, sets.test]) if len(p)]
    if not picked:
        raise RequestError(f"test_dataset={config.get('name')} has no recordings in split={split}")
    parts = _preprocessed({str(i): part for i, part in enumerate(picked)}, training.get("preprocess"))
    return _joined(list(parts.values()))


def _call(config: dict[str, Any], group: str, extensions: Sequence[str]) -> Splits | tuple[Splits, ...]:
    function = fence.locate(group, config.get("_target_"), extensions)
    check_folder(config, group)
    try:
        sets = function(**_own(config))
    except RequestError as error:  # the function does not know which of the two groups it serves
        raise RequestError(re.sub(r"\bdataset(?=[.=])", group, str(error))) from error
    known.check_returned(sets, config, group)
    return sets


def _cached(key: dict[str, Any], sources: Sequence[Path], code: tuple[str, ...], make: Any) -> Splits:
    """Training and test recordings through the cache; the validation set is left to ``load``."""

    def sets() -> dict[str, Recordings]:
        made = make()
        return made if isinstance(made, dict) else dict(zip(("train", "test"), made, strict=True))

    full = {**key, "sources": cache.fingerprint(sources), "code": cache.code_fingerprint("events", *code)}
    kept = cache.load_or_make(full, sets)
    return Splits(kept["train"], kept["train"].subset([]), kept["test"])


def _preprocessed(parts: dict[str, Recordings], preprocess: Mapping[str, Any] | None) -> dict[str, Recordings]:
    settings = stage.Preprocess.from_config(preprocess)
    identities = {name: cache.identity(part) for name, part in parts.items()}

    def make() -> dict[str, Recordings]:
        return {name: stage.preprocess_recordings(part, settings) for name, part in parts.items()}

    if settings == stage.Preprocess() or None in identities.values():
        return make()
    code = cache.code_fingerprint("events", "preprocess")
    return cache.load_or_make({"preprocess": asdict(settings), "of": identities, "code": code}, make)


def _joined(parts: list[Recordings]) -> Recordings:
    if len(parts) == 1:
        return parts[0]
    flat = [part.gather(np.arange(len(part))) for part in parts]
    ends = np.cumsum([0, *(len(events) for events, _ in flat)])
    return replace(
        parts[0],
        events=np.concatenate([events for events, _ in flat]),
        start=np.concatenate([offsets[:-1] + end for (_, offsets), end in zip(flat, ends, strict=False)]),
        stop=np.concatenate([offsets[1:] + end for (_, offsets), end in zip(flat, ends, strict=False)]),
        target=np.concatenate([part.target for part in parts]),
        name=np.concatenate([part.name for part in parts]),
        origin=np.concatenate([part.origin for part in parts]),
    )


def _plain(config: Any) -> Any:
    """Plain dictionaries and lists, of OmegaConf's or any other mapping."""
    if config is None:
        return None
    from omegaconf import OmegaConf

    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=True)
    return OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
