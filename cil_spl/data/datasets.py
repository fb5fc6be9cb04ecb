"""Data sets of recordings by name, and what happens to any data set between its files and training.

A data set is a function that takes keywords and returns ``Splits``; a config names it in ``_target_``. It returns
recordings as the sensor gave them, or samples (those of images are in ``images.py``); ``load`` does the rest for all of
them alike: pre-processing or standardising, what is left out, the check for leaks, limits, the validation split,
experiences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge

from cil_spl.base import fence, options
from cil_spl.base.annotations import Keys, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest
from cil_spl.data import cache, known, leaks, recorded, samples
from cil_spl.data import nmnist as nmnist_files
from cil_spl.data import preprocess as stage
from cil_spl.data.download import Download, Folder, absent, check_root, folder_of, may_fetch
from cil_spl.data.events import Data, Splits, joined
from cil_spl.data.experiences import check_experiences, experiences_of
from cil_spl.data.options import SampleDataset, kind_of, options_of
from cil_spl.data.prepared import prepared
from cil_spl.data.saccade_parameters import Parameters
from cil_spl.data.samples import Samples, spread, standardised
from cil_spl.data.splits import random_sample, random_split, stratified_sample, stratified_split

Simulator = Annotated[Mapping[str, Any], Keys(Parameters)]
Seed = Annotated[int, Ge(0)]
_ROOT, _MNIST = "data", "data/mnist"
DEFAULTS: Mapping[str, Any] = {}  # of the simulator


def event_digits(*, simulator: Simulator = DEFAULTS, simulator_seed: Seed = 0) -> Splits:
    """scikit-learn's handwritten digits as simulated recordings, 34 x 34 x 2; needs no files.

    Args:
        simulator: parameters of the saccade simulator that differ from its defaults.
        simulator_seed: of the simulator's random numbers.
    """
    from cil_spl.data.simulated import event_digits_recordings

    settings = {"simulator": _plain(simulator), "simulator_seed": simulator_seed}
    return cache.splits(
        {"dataset": "event_digits", **settings},
        (),
        ("simulated", "saccades", "saccade_parameters", "idx"),
        lambda: event_digits_recordings(seed=simulator_seed, simulator=_plain(simulator)),
    )


def saccade_mnist(
    *,
    root: Folder = _MNIST,
    download: Download = None,
    n_train: Annotated[int, Ge(1)] | None = None,
    n_test: Annotated[int, Ge(1)] | None = None,
    simulator: Simulator = DEFAULTS,
    simulator_seed: Seed = 0,
) -> Splits:
    """Images in MNIST's file format as simulated recordings, 34 x 34 x 2.

    Args:
        root: folder with the four idx files.
        download: fetch MNIST there if they are absent; None into the default folder only.
        n_train, n_test: only so many, in the classes' proportions; None for all.
        simulator: parameters of the saccade simulator that differ from its defaults.
        simulator_seed: of the simulator's random numbers.

    Raises:
        RequestError: a file is missing, cut off or foreign; it is named.
    """
    from cil_spl.data.idx import files_of
    from cil_spl.data.simulated import saccade_mnist_recordings

    settings = {"simulator": _plain(simulator), "simulator_seed": simulator_seed, "n_train": n_train, "n_test": n_test}
    folder = folder_of(root)
    files = files_of(folder, may_fetch(root, _MNIST, download))  # fetched before their fingerprint is taken
    return cache.splits(
        {"dataset": "saccade_mnist", **settings},
        files,
        ("simulated", "saccades", "saccade_parameters", "idx"),
        lambda: saccade_mnist_recordings(
            folder,
            n_train=n_train,
            n_test=n_test,
            seed=simulator_seed,
            simulator=_plain(simulator),
        ),
    )


def nmnist(
    *, root: Folder = _ROOT, download: Download = None, test_digits_from: Literal["auto", "train", "test"] = "auto"
) -> Splits:
    """N-MNIST in its official layout, or any part of it, 34 x 34 x 2, ten classes.

    Args:
        root: holds ``Train`` and ``Test``, or a folder ``NMNIST`` that does.
        download: fetch it through tonic if it is absent; None into the default folder only.
        test_digits_from: which MNIST images ``Test`` shows: ``auto``, ``train`` or ``test``, see ``nmnist.read``.

    Raises:
        RequestError: the folder is missing or empty, or a file cut off or foreign; it is named.
    """
    at = folder_of(root)
    folder = nmnist_files.find(at)
    if folder is None:
        absent(at, may_fetch(root, _ROOT, download), "Train or Test, nor NMNIST/Train or NMNIST/Test")
        folder = recorded.fetch("NMNIST", at, 1200, [{"train": True}, {"train": False}])
    return cache.splits(
        {"dataset": "nmnist", "test_digits_from": test_digits_from},
        [folder / name for name in nmnist_files.FOLDERS.values()],
        ("nmnist",),
        lambda: nmnist_files.read(folder, test_digits_from),
    )


def dvs_gesture(*, root: Folder = _ROOT, download: Download = None) -> Splits:
    """The IBM gestures, 128 x 128 x 2, 11 classes.

    Args:
        root: holds ``ibmGestureTrain`` and ``ibmGestureTest``, or a folder ``DVSGesture`` that does.
        download: fetch it through tonic if it is absent; None into the default folder only.

    Raises:
        RequestError: the folder is missing or empty, or a file cut off or foreign; it is named.
    """
    at, parts = folder_of(root), ("ibmGestureTrain", "ibmGestureTest")
    folder = next((f for f in (at, at / "DVSGesture") if any((f / p).is_dir() for p in parts)), None)
    if folder is None:
        absent(
            at, may_fetch(root, _ROOT, download), "ibmGestureTrain or ibmGestureTest, nor a folder DVSGesture that does"
        )
        folder = recorded.fetch("DVSGesture", at, 2900, [{"train": True}, {"train": False}])
    return cache.splits(
        {"dataset": "dvs_gesture"},
        [folder / part for part in parts],
        ("recorded",),
        lambda: recorded.read_dvs_gesture(folder),
    )


def cifar10_dvs(*, root: Folder = _ROOT, download: Download = None) -> Splits:
    """CIFAR10-DVS, 128 x 128 x 2, ten classes; every tenth recording of a class is a test recording.

    Args:
        root: holds a folder per class, or a folder ``CIFAR10DVS`` that does.
        download: fetch it through tonic if it is absent; None into the default folder only.

    Raises:
        RequestError: the folder is missing or empty, a file cut off or foreign, or the package ``aedat`` is missing.
    """
    at = folder_of(root)
    folder = next((f for f in (at, at / "CIFAR10DVS") if any(f.glob("*/*.aedat4"))), None)
    if folder is None:
        absent(at, may_fetch(root, _ROOT, download), "<class>/<name>.aedat4, nor a folder CIFAR10DVS that does")
        folder = recorded.fetch("CIFAR10DVS", at, 8300, [{}])
    return cache.splits({"dataset": "cifar10_dvs"}, [folder], ("recorded",), lambda: recorded.read_cifar10_dvs(folder))


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
    common = options_of(config)
    allowed = [*options.names(common), *options.names(function)]
    for key, value in config.items():
        if key not in allowed and key != "_target_" and not options.takes_any(function):
            raise RequestError(f"{group}.{key}={shown(value)}: no such key; {nearest(key, allowed)}")
    shared = {key: value for key, value in config.items() if key in options.names(common)}
    found = options.checked(common, shared, group)
    found |= options.checked(function, _own(config, function), group)
    if group == "dataset" and found["split"] != "test":
        raise RequestError(f"dataset.split={found['split']}: it is for test_dataset.split; leave it at test")
    if common is SampleDataset:
        check_experiences(found, group)
    else:
        stage.preprocessed_sensor_size(tuple(found["sensor_size"]), found["preprocess"])
    leaks.listed(found["exclude_indices"])
    known.check_known(config["_target_"], found, group)
    return {"_target_": config["_target_"]} | {key: found[key] for key in [*config, *found] if key in found}


def check_folder(dataset: Mapping[str, Any], group: str = "dataset") -> None:
    """Refuse the folder of one of our sets that is not there, before anything is read or downloaded.

    Raises:
        RequestError: names the folder and what to do.
    """
    target = str(dataset["_target_"])
    if known.is_ours(target) and "root" in dataset:
        default = options.defaults(fence.locate(group, target))["root"] if "download" in dataset else None
        check_root(dataset["root"], default, dataset.get("download", False), group)


def _own(config: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """The keys that a data set's function gets: its own, and of those that all sets share the ones that it names."""
    others = {"_target_", *options.names(options_of(config))} - set(options.names(function))
    return {key: value for key, value in config.items() if key not in others}


def input_shape(dataset: Mapping[str, Any]) -> tuple[int, int, int]:
    """(channels, height, width) of what a network gets, from the config of a data set alone.

    Raises:
        RequestError: the pre-processing is not allowed or does not go with ``sensor_size``.
    """
    config = _plain(dataset)
    if kind_of(config) == "values":
        channels, height, width = config["input_shape"]
        return channels, height, width
    width, height, polarities = stage.preprocessed_sensor_size(tuple(config["sensor_size"]), config.get("preprocess"))
    return polarities, height, width


def load(
    dataset: Mapping[str, Any],
    test_dataset: Mapping[str, Any] | None = None,
    seed: int = 0,
    extensions: Sequence[str] = (),
    *,
    duration_us: int | None = None,
) -> tuple[Splits, ...]:
    """The experiences that a config asks for, one as a rule, ready for training.

    Recordings are pre-processed as ``dataset.preprocess`` says, samples standardised where it is asked for; those of
    ``test_dataset`` as well.

    Args:
        dataset: a config of group ``dataset``.
        test_dataset: another one, whose ``split`` becomes the test set.
        seed: of the validation split, and of which images ``n_train`` keeps.
        extensions: modules besides cil_spl whose functions the configs may name.
        duration_us: ``frames.duration_us`` of the run, for recordings that begin later (:mod:`cil_spl.data.times`).

    Raises:
        RequestError: a config that makes no sense, files that are missing or damaged, a split without data, or training
            data that also stand in the test set.
    """
    config = check_dataset(dataset, "dataset", extensions)
    tested = None if test_dataset is None else check_dataset(test_dataset, "test_dataset", extensions)
    if tested is not None:
        check_pair(config, tested)
    sets = _call(config, "dataset", extensions)
    experiences = sets if isinstance(sets, tuple) else (sets,)
    test = None if tested is None else _test_from(tested, config, extensions, duration_us)
    ready = [_ready(splits, test, config, seed, duration_us) for splits in experiences]
    if kind_of(config) == "events":
        return tuple(ready)
    for key in ("split_classes", "permutations"):
        if len(ready) > 1 and config[key] is not None:
            raise RequestError(
                f"dataset.{key}={config[key]}: {config['name']} has {len(ready)} experiences; leave it null"
            )
    return tuple(one for splits in ready for one in experiences_of(splits, config))


def _ready(splits: Splits, test: Data | None, config: dict[str, Any], seed: int, duration_us: int | None) -> Splits:
    """One experience: pre-processed, without what is left out, checked, split."""
    own_test = test is None
    train, val, test = _preprocessed_splits(splits, test, config, duration_us)
    what = "samples" if isinstance(test, Samples) else "recordings"
    if not len(test):
        raise RequestError(f"dataset={config.get('name')} has no test {what}; name others: dataset@test_dataset=…")
    wanted = leaks.listed(config.get("exclude_indices"))
    if wanted is not None:
        leaks.warn_unmatched((train, val), wanted)
        before = len(train) + len(val)
        train, val = (leaks.without(part, wanted, test) for part in (train, val))
        if wanted == leaks.TEST_DATASET and own_test and len(train) + len(val) == before:
            raise RequestError(
                f"dataset.exclude_indices={wanted}: there is no test_dataset, and no training recording shows what the "
                "set's own test recordings show; leave it null, or choose one with dataset@test_dataset=NAME"
            )
    if not len(train):
        raise RequestError(f"dataset={config.get('name')} has no training {what} (left out: dataset.exclude_indices)")
    for part in (train, val):
        leaks.check(part, test, what)
    if isinstance(train, Samples) and config["standardise"]:
        statistics = spread(train)
        train, val, test = (standardised(part, *statistics) for part in (train, val, test))  # type: ignore[arg-type]
    drawn_from = "".join(cache.contents(part) for part in (train, val))
    train = _limited(train, config, "n_train", seed)
    test = _limited(test, config, "n_test", 0)  # whatever the seed, so that runs with others are tested on the same
    if not len(val):
        n, share = len(train), config.get("val_fraction", 0.1)
        parts = random_split(n, share, seed) if train.classes is None else stratified_split(train.target, share, seed)
        train, val = (train.subset(part) for part in parts)
    return replace(splits, train=train, val=val, test=test, drawn_from=drawn_from)


def _preprocessed_splits(
    splits: Splits, test: Data | None, config: dict[str, Any], duration_us: int | None
) -> tuple[Data, Data, Data]:
    """Training, validation and test set after the stage; a test set from elsewhere has been through it already."""
    parts: dict[str, Any] = {"train": splits.train, "val": splits.val} | ({"test": splits.test} if test is None else {})
    if kind_of(config) == "events":
        parts = prepared(parts, config.get("preprocess"), duration_us)
    return parts["train"], parts["val"], parts["test"] if test is None else test


def _limited(part: Data, config: Mapping[str, Any], key: str, seed: int) -> Data:
    """So many samples as the config asks for, drawn in the classes' proportions; all recordings."""
    n = config.get(key) if isinstance(part, Samples) else None
    if n is None:
        return part
    if n > len(part):
        raise RequestError(f"dataset.{key}={n}: there are {len(part)}; choose at most so many, or null for all")
    chosen = random_sample(len(part), n, seed) if part.classes is None else stratified_sample(part.target, n, seed)
    return part.subset(chosen)


def check_pair(training: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    """Refuse a test set that a network of the training set cannot be tested on, before any file is opened.

    Args:
        training, test: configs that :func:`check_dataset` gave.

    Raises:
        RequestError: names the key of ``test_dataset`` and what is allowed.
    """
    if kind_of(test) != kind_of(training):
        raise RequestError(
            f"test_dataset={test['name']} gives {kind_of(test)}, dataset={training['name']} {kind_of(training)}; "
            "choose a test set of the same kind"
        )
    if kind_of(test) == "events":
        own, theirs = (stage.Preprocess.from_config(c.get("preprocess")) for c in (test, training))
        if own not in (stage.Preprocess(), theirs):
            raise RequestError(
                "test_dataset.preprocess differs from dataset.preprocess, which is used for both; leave it out"
            )
    for key in ("input_shape" if kind_of(test) == "values" else "sensor_size", "n_classes"):
        if test[key] != training[key]:
            raise RequestError(
                f"test_dataset.{key}={shown(test[key])}: dataset.{key} is {shown(training[key])}; they must be the same"
            )


def _test_from(
    config: dict[str, Any], training: dict[str, Any], extensions: Sequence[str], duration_us: int | None
) -> Data:
    sets = _call(config, "test_dataset", extensions)
    if isinstance(sets, tuple):
        raise RequestError(f"test_dataset={config.get('name')} has several experiences; a test set needs one")
    split = config.get("split", "test")
    by_split = {"train": [sets.train, sets.val], "test": [sets.test]}
    picked: list[Any] = [p for p in by_split.get(split, [sets.train, sets.val, sets.test]) if len(p)]
    if not picked:
        raise RequestError(f"test_dataset={config.get('name')} has no data in split={split}")
    if kind_of(config) == "values":
        return samples.joined(picked)
    named = {str(i): part for i, part in enumerate(picked)}
    parts = prepared(named, training.get("preprocess"), duration_us)
    return joined(list(parts.values()))


def _call(config: dict[str, Any], group: str, extensions: Sequence[str]) -> Splits | tuple[Splits, ...]:
    check_folder(config, group)
    function = fence.locate(group, config.get("_target_"), extensions)
    try:
        sets = function(**_own(config, function))
    except RequestError as error:  # the function does not know which of the two groups it serves
        raise RequestError(re.sub(r"\bdataset(?=[.=])", group, str(error))) from error
    known.check_returned(sets, config, group)
    return sets


def _plain(config: Any) -> Any:
    """Plain dictionaries and lists, of OmegaConf's or any other mapping."""
    if config is None:
        return None
    from omegaconf import OmegaConf

    if OmegaConf.is_config(config):
        return OmegaConf.to_container(config, resolve=True)
    return OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
