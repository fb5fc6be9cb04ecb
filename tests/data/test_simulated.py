"""The two simulated data sets: which digit is where, what they refuse, and that nothing else changes a recording."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cil_spl.base.errors import RequestError
from cil_spl.data.events import Recordings, check_events
from cil_spl.data.idx import read_idx
from cil_spl.data.simulated import enlarge, event_digits_recordings, saccade_mnist_recordings

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


@pytest.fixture(scope="module")
def event_digits() -> tuple[Recordings, Recordings]:
    return event_digits_recordings()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty training and twenty test images of three classes, in unequal shares, as idx files."""
    rng = np.random.default_rng(0)
    for stem, n in (("train", 60), ("t10k", 20)):
        images = np.zeros((n, 28, 28))
        images[:, 8:20, 8:20] = rng.integers(0, 256, (n, 12, 12))
        labels = np.where(np.arange(n) % 6 < 3, 0, np.where(np.arange(n) % 6 < 5, 1, 2))
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_event_digits_have_a_fixed_stratified_split(event_digits: tuple[Recordings, Recordings]) -> None:
    train, test = event_digits
    assert (len(train), len(test)) == (1438, 359)
    share = np.bincount(test.target) / (np.bincount(train.target) + np.bincount(test.target))
    assert np.abs(share - 0.2).max() < 0.01
    # Literal, so that no version of anything can move a digit from one split to the other unseen.
    assert test.origin[:6].tolist() == [f"sklearn/digits/{i}" for i in (20, 21, 22, 23, 24, 25)]
    assert not set(train.origin) & set(test.origin)
    assert len(set(train.origin) | set(test.origin)) == 1797
    other_train, other_test = event_digits_recordings(seed=1)
    assert np.array_equal(other_test.origin, test.origin)
    assert np.array_equal(other_train.target, train.target)
    assert not np.array_equal(other_test[0], test[0])
    check_events(train[7], train.sensor_size, train.name[7])
    assert 1000 < len(train.events) / len(train) < 8000
    assert train.classes == tuple("0123456789")


def test_event_digits_look_like_their_digits(event_digits: tuple[Recordings, Recordings]) -> None:
    """A nearest mean of event counts tells most test digits apart: classes, maps and orientation belong together."""
    train, test = event_digits

    def counts(part: Recordings) -> np.ndarray:
        out = np.zeros((len(part), 34, 34))
        for i in range(len(out)):
            np.add.at(out[i], (part[i]["y"], part[i]["x"]), 1)
        return out.reshape(len(out), -1) ** 0.5

    a, b = counts(train), counts(test)
    means = np.stack([a[train.target == k].mean(0) for k in range(10)])
    nearest = ((b[:, None] - means[None]) ** 2).sum(-1).argmin(1)
    assert (nearest == test.target).mean() > 0.75


def test_enlarged_scans_have_an_mnist_digits_size() -> None:
    scan = np.zeros((1, 8, 8))
    scan[0, :, 3:5] = 1
    image = enlarge(scan)[0]
    assert image.shape == (28, 28)
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.flatnonzero(image.max(1) > 0.5)[[0, -1]].tolist() == [4, 23]
    assert np.allclose(image, image[:, ::-1])
    assert image[:4].max() == image[:, :4].max() == 0


def test_a_recording_depends_on_nothing_but_its_digit(folder: Path) -> None:
    train, test = saccade_mnist_recordings(folder)
    assert (len(train), len(test)) == (60, 20)
    assert train.origin[5] == "mnist/train/5"
    assert test.origin[5] == "mnist/test/5"
    assert train.classes == ("0", "1", "2")
    left, _ = saccade_mnist_recordings(folder, exclude={"mnist/train/0", "mnist/train/4", "mnist/test/1"}, n_train=30)
    assert not {"mnist/train/0", "mnist/train/4"} & set(left.origin)
    assert len(left) == 30
    for i in (0, 17):
        j = int(np.flatnonzero(train.origin == left.origin[i])[0])
        assert np.array_equal(left[i], train[j])
        assert left.target[i] == train.target[j]


def test_training_and_test_images_have_noise_of_their_own(folder: Path) -> None:
    same = (folder / "train-images-idx3-ubyte").read_bytes()
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(read_idx(folder / "train-images-idx3-ubyte")[:20]))
    assert same == (folder / "train-images-idx3-ubyte").read_bytes()
    train, test = saccade_mnist_recordings(folder, n_train=20, n_test=20)
    assert not np.array_equal(train[0], test[0])


@pytest.mark.parametrize("n", [6, 20, 59])
def test_limits_keep_the_classes_proportions(folder: Path, n: int) -> None:
    train, test = saccade_mnist_recordings(folder, n_train=n, n_test=6)
    assert len(train) == n
    assert np.abs(np.bincount(train.target, minlength=3) - n * np.array([3, 2, 1]) / 6).max() < 1
    assert np.bincount(test.target).tolist() == [3, 2, 1]
    numbers = [int(o.rsplit("/", 1)[1]) for o in train.origin]
    assert numbers == sorted(numbers)
    assert min(numbers) == 0


def test_files_may_lie_where_torchvision_puts_them(folder: Path, tmp_path: Path) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in list(folder.glob("*ubyte*")):
        file.rename(raw / file.name)
    assert len(saccade_mnist_recordings(tmp_path / "root", n_train=6, n_test=6)[0]) == 6


@pytest.mark.parametrize(
    ("name", "damage", "word"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "47039 bytes"),
        ("train-images-idx3-ubyte", lambda b: b + b"\0", "47041 bytes"),
        ("train-images-idx3-ubyte", lambda b: b[:9], "not an idx file"),
        ("train-images-idx3-ubyte", lambda b: b"", "not an idx file"),
        ("train-images-idx3-ubyte", lambda b: b"\x89PNG" + b[4:], "not an idx file"),
        ("train-labels-idx1-ubyte.gz", lambda b: b[:-12], "cannot be read"),
        ("train-labels-idx1-ubyte.gz", lambda b: b"no gzip at all", "cannot be read"),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(np.zeros(59))), "the same N"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, damage: object, word: str) -> None:
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(RequestError, match=word) as error:
        saccade_mnist_recordings(folder)
    assert str(file) in str(error.value)


def test_missing_files_and_empty_results_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no recording is left"):
        saccade_mnist_recordings(folder, n_train=0)
    with pytest.raises(RequestError, match=r"simulator\.speed=2"):
        saccade_mnist_recordings(folder, simulator={"speed": 2})
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte.*dataset\.download=true"):
        saccade_mnist_recordings(folder)


def test_a_failing_download_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    (folder / "t10k-images-idx3-ubyte").unlink()
    asked = []

    def refuse(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append((url, known_hash, fname, path))
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(RequestError, match=r"could not be fetched.*no network"):
        saccade_mnist_recordings(folder, download=True)
    assert len(asked) == 2  # both mirrors
    assert all(a[1].startswith("sha256:8d422c7b") and a[2:] == ("t10k-images-idx3-ubyte.gz", folder) for a in asked)


@pytest.mark.skipif(not MNIST.is_dir(), reason="needs MNIST's files in ../shared/data/mnist")
def test_mnist_itself() -> None:
    train, _ = saccade_mnist_recordings(MNIST, n_train=100, n_test=20)
    assert np.bincount(train.target).tolist() == [10, 11, 10, 10, 10, 9, 10, 10, 10, 10]
    assert train.target[train.origin == "mnist/train/0"].tolist() == [5]
    n = train.stop - train.start
    # Real recordings: 4,133 on average, from 1,112 to 7,152.
    assert 3800 < n.mean() < 4600
    assert 1000 < n.min() < n.max() < 7500
    ones = n[train.target == 1].mean()
    zeros = n[train.target == 0].mean()
    assert zeros > 1.7 * ones
