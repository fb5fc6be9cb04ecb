from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cil_spl.base.errors import RequestError
from cil_spl.data import cache, datasets, known, recorded
from cil_spl.data.events import EVENT, Splits, from_list

# The sets that this module holds are named as a user's own module is.
load = partial(datasets.load, extensions=[__name__])

CONF = Path(__file__).parents[2] / "conf" / "dataset"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("CILSPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("the tests do not reach the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def config(name, **changes):
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        composed = compose("config", overrides=[f"dataset={name}"]).dataset
    OmegaConf.set_struct(composed, False)
    return OmegaConf.merge(composed, changes)


def some(n=20, seed=0, side=34):
    rng = np.random.default_rng(seed)
    e = np.zeros(n, EVENT)
    e["x"], e["y"], e["p"] = rng.integers(0, side, n), rng.integers(0, side, n), rng.integers(0, 2, n)
    e["t"] = np.sort(rng.integers(0, 300_000, n))
    return e


def write_nmnist(root: Path, numbers: dict[str, range]) -> Path:
    """N-MNIST's layout, recordings of random events, classes in turn."""
    for split, chosen in numbers.items():
        for number in chosen:
            e = some(12, number)
            raw = np.zeros((len(e), 5), np.uint8)
            raw[:, 0], raw[:, 1], raw[:, 2] = e["x"], e["y"], (e["p"].astype(int) << 7) | (e["t"] >> 16)
            raw[:, 3], raw[:, 4] = (e["t"] >> 8) & 255, e["t"] & 255
            file = root / split / str(number % 10) / f"{number:05d}.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw.tobytes())
    return root


def entries(here):
    return [p for p in here.iterdir() if p.name != "locks"] if here.is_dir() else []


# Two small sets of one's own, as a user would write them, named by this module's import path.


def own(*, n: int = 40, origin: str = "scene", test_origin: str = "other", empty: str = "", val: int = 0) -> Splits:
    data = from_list(
        [some(5, i, 8) for i in range(n)],
        np.arange(n) % 4,
        (8, 8, 2),
        "abcd",
        origins=[f"{origin}/{i}" for i in range(n)],
    )
    test = from_list(
        [some(5, 99 - i, 8) for i in range(8)],
        np.arange(8) % 4,
        (8, 8, 2),
        "abcd",
        names=[f"test {i}" for i in range(8)],
        origins=[f"{test_origin}/{i}" for i in range(8)],
    )
    none = data.subset([])
    return Splits(none if empty == "train" else data, data.subset(range(val)), none if empty == "test" else test)


def odd(*, kind: str) -> object:
    good = own()
    made = {"none": None, "arrays": ([some()], [0]), "empty": (), "list": replace(good, train=[some()])}
    return made.get(kind, replace(good, train=replace(good.train, target=good.train.target[1:])))


def two(*, sizes: int = 2) -> tuple[Splits, ...]:
    return tuple(own(n=20 * (i + 1)) for i in range(sizes))


def own_config(function="own", **changes):
    base = {"_target_": f"{__name__}.{function}", "name": function, "sensor_size": [8, 8, 2], "n_classes": 4}
    return OmegaConf.merge(OmegaConf.create(base), changes)


def test_nmnist_is_read_split_and_cached(tmp_path, here):
    root = write_nmnist(tmp_path / "data" / "NMNIST", {"Train": range(1, 201), "Test": range(1, 31)}).parent
    (splits,) = load(config("nmnist", root=str(root)), seed=3)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [180, 20, 30]
    assert np.bincount(splits.val.target).tolist() == [2] * 10
    assert len(entries(here)) == 1
    (again,) = load(config("nmnist", root=str(root)), seed=3)
    assert again.val.name.tolist() == splits.val.name.tolist()
    assert len(entries(here)) == 1
    (other,) = load(config("nmnist", root=str(root)), seed=4)
    assert other.val.name.tolist() != splits.val.name.tolist()
    assert len(entries(here)) == 1  # the seed parts the set, it does not change it


def test_changed_files_and_settings_are_read_anew(tmp_path, here):
    root = write_nmnist(tmp_path / "data", {"Train": range(1, 31), "Test": range(1, 11)})
    load(config("nmnist", root=str(root)))
    write_nmnist(root, {"Train": range(31, 41)})
    (splits,) = load(config("nmnist", root=str(root)))
    assert len(splits.train) + len(splits.val) == 40
    assert len(entries(here)) == 2
    load(config("nmnist", root=str(root), test_digits_from="test"))
    assert len(entries(here)) == 3
    load(config("nmnist", root=str(root), preprocess={"pool": 2}))
    load(config("nmnist", root=str(root), preprocess={"pool": 2}))
    assert len(entries(here)) == 4
    load(config("nmnist", root=str(root), preprocess={"pool": 2, "mirror_x": True}))
    assert len(entries(here)) == 5


def test_preprocessing_reaches_every_split(tmp_path):
    stage = {"pool": 2, "polarity": "merge"}
    root = write_nmnist(tmp_path / "data", {"Train": range(1, 41), "Test": range(1, 11)})
    chosen = config("nmnist", root=str(root), preprocess=stage)
    (splits,) = load(chosen)
    (plain,) = load(config("nmnist", root=str(root)))
    for part, whole in ((splits.train, plain.train), (splits.val, plain.val), (splits.test, plain.test)):
        assert part.sensor_size == (17, 17, 1)
        assert part.input_shape == datasets.input_shape(chosen) == (1, 17, 17)
        assert part.name.tolist() == whole.name.tolist()
        for i in range(len(part)):
            assert part[i]["x"].tolist() == (whole[i]["x"] // 2).tolist()


def test_bad_files_leave_nothing_in_the_cache(tmp_path, here):
    root = write_nmnist(tmp_path / "data", {"Train": range(1, 11), "Test": range(1, 11)})
    bad = root / "Train" / "4" / "00004.bin"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-1])
    with pytest.raises(RequestError) as caught:
        load(config("nmnist", root=str(root)))
    assert str(bad) in str(caught.value)
    assert entries(here) == []
    bad.write_bytes(whole)
    load(config("nmnist", root=str(root)))


@pytest.mark.parametrize("state", ["missing", "empty", "foreign"])
@pytest.mark.parametrize("name", ["nmnist", "dvs_gesture", "cifar10_dvs", "saccade_mnist"])
def test_a_folder_without_the_set_is_named(tmp_path, here, name, state):
    root = tmp_path / "data"
    if state != "missing":
        root.mkdir()
    if state == "foreign":
        (root / "photo.jpg").touch()
    remedy = "set dataset.root to the folder that holds" if state == "missing" else r"dataset\.download=true"
    with pytest.raises(RequestError, match=remedy) as caught:
        load(config(name, root=str(root), download=False))
    assert f"dataset.root={root}" in str(caught.value)
    assert entries(here) == []


def test_a_missing_test_set_is_named_as_such(tmp_path):
    training = write_nmnist(tmp_path / "data", {"Train": range(1, 21), "Test": range(1, 11)})
    with pytest.raises(RequestError, match=r"test_dataset\.root=.*none does not exist; set test_dataset\.root"):
        load(config("nmnist", root=str(training)), config("nmnist", root=str(tmp_path / "none"), download=False))
    (tmp_path / "none").mkdir()
    with pytest.raises(RequestError, match=r"test_dataset\.root=.* test_dataset\.download=true"):
        load(config("nmnist", root=str(training)), config("nmnist", root=str(tmp_path / "none"), download=False))


@pytest.mark.parametrize("download", [True, False, None])
@pytest.mark.parametrize("name", ["nmnist", "dvs_gesture", "cifar10_dvs", "saccade_mnist"])
def test_a_folder_that_is_not_there_is_not_made(tmp_path, name, download, monkeypatch):
    """Most often it is misspelt; only the default one is made where it is missing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"dataset\.root=nmnits does not exist; set dataset\.root") as caught:
        load(config(name, root="nmnits", download=download))
    assert ("mkdir -p nmnits" in str(caught.value)) == (download is not False)
    assert ("set dataset.download=true" in str(caught.value)) == (download is None)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"dataset\.root=file is a file"):
        load(config(name, root="file", download=download))
    datasets.check_folder(config(name, download=True))
    datasets.check_folder(config(name))
    with pytest.raises(RequestError, match=r"dataset\.root=data\S* does not exist; .* or dataset\.download=true"):
        datasets.check_folder(config(name, download=False))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("name", ["nmnist", "dvs_gesture", "cifar10_dvs"])
def test_download_without_a_network_says_so_and_leaves_nothing(tmp_path, here, name):
    (tmp_path / "data").mkdir()
    with pytest.raises(RequestError, match="could not be downloaded") as caught:
        load(config(name, root=str(tmp_path / "data"), download=True))
    assert f"dataset.root={tmp_path / 'data'}" in str(caught.value)
    left = [p.name for p in (tmp_path / "data").iterdir() if not p.name.endswith(".lock")]
    assert left == []
    assert entries(here) == []


@pytest.mark.parametrize("name", ["nmnist", "dvs_gesture", "cifar10_dvs", "saccade_mnist", "mnist", "cifar10"])
def test_nothing_is_fetched_into_a_folder_that_the_user_named(tmp_path, here, name, monkeypatch):
    """``dataset.root`` of another set, or misspelt so that it is another folder."""
    import pooch

    asked = []
    monkeypatch.setattr(recorded, "fetch", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(pooch, "retrieve", lambda *arguments: asked.append(arguments))
    root = tmp_path / "home"
    root.mkdir()
    (root / "letter.txt").touch()
    with pytest.raises(RequestError, match=r"dataset\.root=.*home.*dataset\.download=true"):
        load(config(name, root=str(root)))
    assert asked == []
    assert [path.name for path in root.iterdir()] == ["letter.txt"]


def test_download_goes_through_tonic_and_is_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    import tonic.datasets

    calls = []

    def download(self):
        folder = Path(self.location_on_system)
        calls.append(self.folder_name)
        if len(calls) == 2:
            raise OSError("cut off")
        write_nmnist(folder, {self.folder_name: range(1, 21)})

    monkeypatch.setattr(tonic.datasets.NMNIST, "download", download)
    (tmp_path / "data").mkdir()
    chosen = config("nmnist", root=str(tmp_path / "data"), download=True)
    with pytest.raises(RequestError, match="cut off"):
        load(chosen)
    assert not (tmp_path / "data" / "NMNIST").exists()
    (splits,) = load(chosen)
    assert calls == ["Train", "Test", "Train", "Test"]
    assert [len(splits.train) + len(splits.val), len(splits.test)] == [20, 20]
    load(chosen)
    assert len(calls) == 4


def test_leaks_are_refused_with_the_way_out(tmp_path):
    # A number above 10,000 in Test: cut from the training set, so 31 to 40 are the same digits on both sides.
    root = write_nmnist(tmp_path / "data", {"Train": range(1, 41), "Test": [*range(31, 41), 12_000]})
    with pytest.raises(RequestError) as caught:
        load(config("nmnist", root=str(root)))
    for words in ("10 of 40", "mnist/train/39", "Train/0/00040.bin", "Test/0/00040.bin"):
        assert words in str(caught.value)
    assert "dataset.exclude_indices=test_dataset" in str(caught.value)
    (splits,) = load(config("nmnist", root=str(root), exclude_indices="test_dataset"))
    kept = [*splits.train.origin, *splits.val.origin]
    assert sorted(kept, key=lambda o: int(o.rpartition("/")[2])) == [f"mnist/train/{i}" for i in range(30)]
    # The same numbers where Test is of the test set: no leak.
    load(config("nmnist", root=str(root), test_digits_from="test"))


def test_leaks_through_test_dataset(tmp_path):
    root = write_nmnist(tmp_path / "data", {"Train": range(1, 21), "Test": range(1, 11)})
    other = write_nmnist(tmp_path / "other", {"Train": range(11, 31), "Test": range(5, 8)})
    training = config("nmnist", root=str(root), split="test")
    with pytest.raises(RequestError, match="10 of 20"):
        load(training, config("nmnist", root=str(other), split="train"))
    (test_only,) = load(training, config("nmnist", root=str(other)))
    assert len(test_only.test) == 3
    chosen = config("nmnist", root=str(root), exclude_indices="test_dataset")
    (splits,) = load(chosen, config("nmnist", root=str(other), split="all"))
    assert [len(splits.train) + len(splits.val), len(splits.test)] == [10, 23]
    assert splits.test.origin.tolist()[-1] == "mnist/test/6"
    whole = load(config("nmnist", root=str(other)))[0]
    known = {str(n): part[i].tolist() for part in (whole.train, whole.val, whole.test) for i, n in enumerate(part.name)}
    for i in range(23):
        assert splits.test[i].tolist() == known[str(splits.test.name[i])]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (None, 40),
        ([], 40),
        ([5, "7", "scene/9"], 37),
        (["scene/5", "other/6", "ene/7"], 39),
        ("file", 38),
    ],
)
def test_exclude_indices(tmp_path, exclude, left):
    if exclude == "file":
        (tmp_path / "list.txt").write_text("# digits\n3\n\nscene/4\n")
        exclude = str(tmp_path / "list.txt")
    (splits,) = load(own_config(exclude_indices=exclude))
    assert len(splits.train) + len(splits.val) == left
    assert len(splits.test) == 8  # never touched


def test_entries_that_match_nothing_are_named(tmp_path, caplog):
    (tmp_path / "list.txt").write_text("5\nscnee/7\n", encoding="utf-8-sig")  # with the mark of some editors
    (splits,) = load(own_config(exclude_indices=str(tmp_path / "list.txt")))
    assert len(splits.train) + len(splits.val) == 39
    assert "dataset.exclude_indices: 1 of 2 entries match nothing to train on: scnee/7" in caplog.text


@pytest.mark.parametrize("exclude", ["nofile.txt", {"a": 1}, [1.5], 7, [True]])
def test_exclude_indices_of_another_kind(exclude):
    with pytest.raises(RequestError, match=r"dataset\.exclude_indices="):
        load(own_config(exclude_indices=exclude))


def test_a_set_of_ones_own():
    (splits,) = load(own_config(n=80))
    assert np.bincount(splits.val.target).tolist() == [2, 2, 2, 2]
    (splits,) = load(own_config(val_fraction=0))
    assert [len(splits.train), len(splits.val)] == [40, 0]
    (splits,) = load(own_config(val=12, origin="", val_fraction=0.5))
    assert [len(splits.train), len(splits.val)] == [40, 12]  # its own validation set stays
    (splits,) = load(own_config(preprocess={"crop": [0, 0, 4, 6]}))
    assert splits.test.sensor_size == (4, 6, 2)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", r"^dataset\._target_=\S+\.odd: it returned NoneType; needs Splits\(train, val, test\)"),
        ("arrays", r"_target_=\S+\.odd: it returned a tuple \(list, list\); needs Splits"),
        ("empty", r"it returned a tuple \(\); needs Splits"),
        (
            "list",
            r"^dataset\._target_=\S+\.odd: its train is of type list; needs Recordings, which events\.from_list",
        ),
        ("labels", r"_target_=\S+\.odd: its train: target is of shape \(39,\); needs an array of shape \(40,\)"),
    ],
)
def test_what_is_no_data_set_is_said(kind, message):
    with pytest.raises(RequestError, match=message):
        load(own_config("odd", kind=kind))


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "image_folder"))
def test_what_is_known_of_our_sets_is_what_their_yaml_says(name):
    said = config(name)
    size, n_classes = known.KNOWN[said._target_]
    key = "sensor_size" if "sensor_size" in said else "input_shape"
    assert list(size) == said[key]
    assert n_classes in (None, said.n_classes)
    other = {"sensor_size": [34, 34, 1], "preprocess": {"pool": 1}} if key == "sensor_size" else {key: [34, 34, 1]}
    with pytest.raises(RequestError, match=rf"dataset\.{key}=\[34,34,1\]: those of {name} are of"):
        datasets.check_dataset(config(name, **other))
    if n_classes is not None:
        with pytest.raises(RequestError, match=rf"dataset\.n_classes=12: {name} has {n_classes} classes"):
            datasets.check_dataset(config(name, n_classes=12))


def test_pictures_may_have_any_size_and_any_number_of_classes():
    found = datasets.check_dataset(config("image_folder", input_shape=[1, 9, 30], n_classes=12, resize=30))
    assert (found["input_shape"], found["n_classes"]) == ([1, 9, 30], 12)


def test_a_set_without_validation_recordings_is_not_trained_on():
    (alone,) = load(own_config(val_fraction=0))
    with pytest.raises(RequestError, match=r"dataset\.val_fraction=0: dataset=own is left without validation"):
        known.check_validation(own_config(val_fraction=0), (alone,))
    (its_own,) = load(own_config(val=12, origin="", val_fraction=0))
    known.check_validation(own_config(val_fraction=0), (its_own,))
    with pytest.raises(RequestError, match=r"dataset\.val_fraction=0: nmnist has no validation recordings of its own"):
        known.check_split(config("nmnist", val_fraction=0))
    known.check_split(own_config(val_fraction=0))


def test_several_experiences():
    splits = load(own_config("two", sizes=3))
    assert [len(s.train) + len(s.val) for s in splits] == [20, 40, 60]
    with pytest.raises(RequestError, match="several experiences"):
        load(own_config(), own_config("two"))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"_target_": "cil_spl.data.datasets.nothing"}, "dataset._target_=cil_spl.data.datasets.nothing"),
        ({"m": 3}, "dataset.m=3"),
        ({"n": "many"}, "dataset.n=many"),
        ({"n": True}, "dataset.n=true"),
        ({"sensor_size": [8, 8]}, "sensor_size="),
        ({"sensor_size": [9, 8, 2]}, r"sensor_size=\[9,8,2\]: the recordings are of \[8,8,2\]"),
        ({"exclude_indices": "test_dataset"}, "exclude_indices=test_dataset: there is no test_dataset, and no"),
        ({"n_classes": 1}, "n_classes=1"),
        ({"n_classes": 5}, "n_classes=5"),
        ({"val_fraction": 1}, "val_fraction=1"),
        ({"val_fraction": "a"}, "val_fraction=a"),
        ({"split": "all"}, "dataset.split=all"),
        ({"split": "half"}, "dataset.split=half"),
        ({"preprocess": {"pool": 3}}, "preprocess.pool=3"),
        ({"preprocess": {"crop": [0, 0, 9, 9]}}, "preprocess.crop"),
        ({"augment": {"drop": 2}}, "augment.drop=2"),
        ({"empty": "train"}, "no training recordings"),
        ({"empty": "test"}, "no test recordings"),
        ({"test_origin": "scene"}, "8 of 40"),
        ({"exclude_indices": list(range(40))}, "no training recordings"),
    ],
)
def test_bad_configs_name_the_key(changes, names):
    with pytest.raises(RequestError, match=names):
        load(own_config(**changes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"m": 3}, "test_dataset.m=3"),
        ({"preprocess": {"mirror_x": True}}, "test_dataset.preprocess"),
        ({"sensor_size": [16, 16, 2]}, "test_dataset.sensor_size"),
        ({"n_classes": 3}, "test_dataset.n_classes=3"),
        ({"empty": "test"}, "split=test"),
    ],
)
def test_bad_test_sets_name_the_key(changes, names):
    with pytest.raises(RequestError, match=names):
        load(own_config(), own_config(test_origin="third", **changes))


def test_needed_keys():
    with pytest.raises(RequestError, match=r"dataset\.root=null: needs the folder"):
        load(config("nmnist", root=None))
    with pytest.raises(RequestError, match="test_digits_from=both"):
        datasets.check_dataset(config("nmnist", test_digits_from="both"))


COMMON = {
    "val_fraction": 0.1,
    "split": "test",
    "exclude_indices": None,
    "preprocess": {
        "polarity": "both", "pool": 1, "crop": None, "mirror_x": False, "mirror_y": False, "rotate": 0,
    },
    "augment": {"shift": 0, "rotate_degrees": 0.0, "jitter_us": 0.0, "drop": 0.0},
}  # fmt: skip
POOLED = {"sensor_size": [128, 128, 2], "preprocess": {**COMMON["preprocess"], "pool": 4}}
DIGITS = {"sensor_size": [34, 34, 2], "n_classes": 10}
SIMULATED = {"simulator": {}, "simulator_seed": 0}
COMPOSED = {
    "cifar10_dvs": POOLED | {"root": "data", "download": None, "n_classes": 10},
    "dvs_gesture": POOLED | {"root": "data", "download": None, "n_classes": 11},
    "event_digits": DIGITS | SIMULATED | {"augment": {**COMMON["augment"], "shift": 1, "rotate_degrees": 5.0}},
    "nmnist": DIGITS | {"root": "data", "download": None, "test_digits_from": "auto"},
    "saccade_mnist": DIGITS | SIMULATED | {"root": "data/mnist", "download": None, "n_train": None, "n_test": None},
}
OF_SAMPLES = {
    "val_fraction": 0.1, "split": "test", "exclude_indices": None, "n_train": None, "n_test": None,
    "standardise": False, "split_classes": None, "outputs": "own", "permutations": None, "permutation_seed": 0,
    "n_classes": 10, "augment": {"padding": 0, "flip": False, "crop_area": None},
}  # fmt: skip
IMAGES = {
    "cifar10": {
        "input_shape": [3, 32, 32],
        "standardise": True,
        "augment": {"padding": 4, "flip": True, "crop_area": None},
    },
    "digits": {"input_shape": [1, 8, 8]},
    "fashion_mnist": {"input_shape": [1, 28, 28]},
    "mnist": {"input_shape": [1, 28, 28]},
}
IMAGES |= {name: IMAGES[name] | {"root": f"data/{name}", "download": None} for name in IMAGES if name != "digits"}
IMAGES["image_folder"] = {
    "input_shape": [3, 224, 224], "n_classes": 1000, "root": "data/imagenet", "resize": None, "standardise": True,
    "augment": {"padding": 0, "flip": True, "crop_area": [0.08, 1.0]},
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_what_a_data_set_shares_and_what_is_its_own(name):
    """The small set alone is augmented by default."""
    expected = {"_target_": f"cil_spl.data.datasets.{name}", "name": name, **COMMON, **COMPOSED[name]}
    assert OmegaConf.to_container(config(name)) == expected
    assert datasets.check_dataset(config(name)) == expected


@pytest.mark.parametrize("name", IMAGES)
def test_what_a_data_set_of_images_shares_and_what_is_its_own(name):
    expected = {"_target_": f"cil_spl.data.images.{name}", "name": name, **OF_SAMPLES, **IMAGES[name]}
    assert OmegaConf.to_container(config(name)) == expected
    assert datasets.check_dataset(config(name)) == expected


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda f: f.stem)
def test_every_key_is_explained(file):
    assert file.stem in (*COMPOSED, *IMAGES, "recordings", "samples")
    text = re.sub(r"defaults:\n  - common/(recordings|samples)@_here_\n  - _self_\n\n", "", file.read_text())
    lines = text.splitlines()
    explained = ("preprocess", "shift", "rotate_degrees", "augment", "padding", "flip", "crop_area")
    for above, line in zip(["", *lines], lines, strict=False):
        # What is explained in common/ is not explained again.
        assert "#" in line or "#" in above or line.split(":")[0].strip() in explained


def write_gestures(root: Path) -> Path:
    for part, users in (("ibmGestureTrain", (1, 2)), ("ibmGestureTest", (3,))):
        for user in users:
            folder = root / part / f"user{user:02d}_led"
            folder.mkdir(parents=True)
            for gesture in range(11):
                e = some(30, user * 20 + gesture, 128)
                columns = [e["x"], e["y"], e["p"], e["t"] // 1000 + 500]
                np.save(folder / f"{gesture}.npy", np.stack(columns, 1).astype(np.float64))
    return root


def test_dvs_gesture(tmp_path):
    root = write_gestures(tmp_path / "data" / "DVSGesture").parent
    chosen = config("dvs_gesture", root=str(root), preprocess={"pool": 1})
    (splits,) = load(chosen)
    assert [len(splits.train) + len(splits.val), len(splits.test)] == [22, 11]
    assert splits.test.target.tolist() == [0, 1, 10, *range(2, 10)]  # in the order of the files' names
    e = some(30, 3 * 20 + 1, 128)
    assert splits.test[1]["x"].tolist() == e["x"].tolist()
    assert splits.test[1]["y"].tolist() == e["y"].tolist()
    assert splits.test[1]["p"].tolist() == e["p"].tolist()
    ms = e["t"] // 1000
    assert splits.test[1]["t"].tolist() == ((ms - ms[0]) * 1000).tolist()
    (pooled,) = load(config("dvs_gesture", root=str(root / "DVSGesture")))
    assert pooled.train.sensor_size == (32, 32, 2)
    bad = root / "DVSGesture" / "ibmGestureTrain" / "user01_led" / "3.npy"
    bad.write_bytes(bad.read_bytes()[:-9])
    with pytest.raises(RequestError) as caught:
        load(chosen)
    assert str(bad) in str(caught.value)


def test_dvs_gesture_with_a_foreign_file(tmp_path):
    root = write_gestures(tmp_path / "data")
    np.save(root / "ibmGestureTrain" / "user01_led" / "notes.npy", np.zeros(3))
    with pytest.raises(RequestError, match="notes"):
        load(config("dvs_gesture", root=str(root)))


def test_cifar10_dvs(tmp_path, monkeypatch):
    root = tmp_path / "data"
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(20):
            (root / name / f"cifar10_{name}_{i}.aedat4").touch()

    class Decoder:
        def __init__(self, file):
            self.file = Path(file)

        def id_to_stream(self):
            return {0: {"type": "events"}}

        def __iter__(self):
            e = some(10, len(self.file.stem), 128)
            out = np.zeros(10, [("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("on", bool)])
            out["t"] = e["t"].astype(np.uint64) + np.uint64(1 << 50)
            out["x"], out["y"], out["on"] = e["x"], e["y"], e["p"]
            yield {"stream_id": 0, "events": out}

    monkeypatch.setitem(sys.modules, "aedat", types.SimpleNamespace(Decoder=Decoder))
    (splits,) = load(config("cifar10_dvs", root=str(root), preprocess={"pool": 1}))
    assert [len(splits.train) + len(splits.val), len(splits.test)] == [180, 20]
    assert splits.test.name.tolist()[:3] == [
        "airplane/cifar10_airplane_9.aedat4",
        "airplane/cifar10_airplane_19.aedat4",
        "automobile/cifar10_automobile_9.aedat4",
    ]
    assert splits.test.classes == tuple(classes)
    assert np.bincount(splits.test.target).tolist() == [2] * 10
    e = some(10, len("cifar10_airplane_9"), 128)
    assert splits.test[0]["t"].tolist() == (e["t"] - e["t"][0]).tolist()
    assert splits.test[0]["p"].tolist() == e["p"].tolist()
    assert cache.size() > 0


def test_cifar10_dvs_without_its_reader(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a_1.aedat4").touch()
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(RequestError, match="pip install aedat"):
        load(config("cifar10_dvs", root=str(tmp_path)))
