"""The data sets of images: exact on tiny files of each format, and what damaged or missing ones are answered."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data import idx, images
from cil_spl.data.images import cifar10, digits, fashion_mnist, mnist


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CILSPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def pixels(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def write_mnist(root: Path, *, packed: bool = False, n: int = 30) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for stem, count, seed in (("train", n, 1), ("t10k", 10, 2)):
        for what, array in (("images-idx3", pixels(count, (28, 28), seed)), ("labels-idx1", np.arange(count) % 10)):
            data = idx_bytes(array)
            name = f"{stem}-{what}-ubyte" + (".gz" if packed else "")
            (root / name).write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return root


def write_cifar(root: Path, sizes: dict[str, int]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed, (name, n) in enumerate(sizes.items()):
        labels = (np.arange(n) % 10).astype(np.uint8)
        rows = np.concatenate([labels[:, None], pixels(n, (3072,), seed)], axis=1)
        (root / name).write_bytes(rows.tobytes())
    return root


def test_digits_are_scikit_learns_with_the_test_scans_of_event_digits() -> None:
    from sklearn.datasets import load_digits

    splits = digits()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1438, 0, 359)
    assert splits.test.origin[:3].tolist() == ["sklearn/digits/20", "sklearn/digits/21", "sklearn/digits/22"]
    assert splits.train.input_shape == (1, 8, 8)
    whole, labels = load_digits(return_X_y=True)
    for part in (splits.train, splits.test):
        for i in (0, len(part) - 1):
            number = int(part.origin[i].rsplit("/", 1)[1])
            np.testing.assert_array_equal(part[i][0], whole[number].reshape(8, 8) / 16)
            assert part.target[i] == labels[number]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("read", "name", "below"),
    [(mnist, "mnist", "MNIST/raw"), (fashion_mnist, "fashion_mnist", "FashionMNIST/raw"), (mnist, "mnist", ".")],
)
def test_idx_files_are_read_exactly(tmp_path: Path, read: Callable, name: str, below: str, packed: bool) -> None:
    write_mnist(tmp_path / "data" / below, packed=packed)
    splits = read(root=str(tmp_path / "data"), download=False)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 0, 10)
    assert splits.train.target.tolist() == [i % 10 for i in range(30)]
    assert splits.train.origin[7] == f"{name}/train/7"
    assert splits.test.origin[7] == f"{name}/test/7"
    np.testing.assert_array_equal(splits.train.values[:, 0], pixels(30, (28, 28), 1))
    np.testing.assert_array_equal(splits.test[4][0], pixels(10, (28, 28), 2)[4] * np.float32(1 / 255))


def test_the_two_sets_in_idx_files_have_classes_of_their_own(tmp_path: Path) -> None:
    root = str(write_mnist(tmp_path / "data"))
    assert mnist(root=root).train.classes == tuple("0123456789")
    assert fashion_mnist(root=root).train.classes[9] == "Boot"


def test_changed_files_are_read_anew(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "data")
    assert len(mnist(root=str(root)).train) == 30
    write_mnist(root, n=40)
    assert len(mnist(root=str(root)).train) == 40


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


PACKED = f"{IMAGES}.gz"


def packed_header(shape: tuple[int, ...], values: bytes) -> bytes:
    return gzip.compress(bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + values, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, idx_bytes(np.zeros((30, 28, 28))), "each of its 30 images is of one grey, as black ones are"),
        (IMAGES, idx_bytes(np.full((30, 28, 28), 255)), "each of its 30 images is of one grey"),
        (IMAGES, idx_bytes(np.zeros((30, 0, 0))), "its images have 0 x 0 pixels"),
        (IMAGES, idx_bytes(np.zeros((30, 28, 0))), "its images have 28 x 0 pixels"),
        (IMAGES, b"\0\0\x08\x03" + b"\xff" * 12, r"0 bytes of data where its header \(4294967295, 4294967295"),
        (PACKED, packed_header((30, 28, 28), bytes(30 * 784 + 1)), "more bytes of data"),
        (PACKED, packed_header((30, 28, 28), bytes(30 * 784 - 1)), "fewer bytes of data"),
        (PACKED, packed_header((2**32 - 1,) * 3, b""), "fewer bytes of data"),
        (PACKED, packed_header((400_000, 28, 28), bytes(400_000 * 784)), "would unpack .* bytes to 0.314 GB"),
        (PACKED, packed_header((30, 28, 28), bytes(30 * 784))[:-9], "cannot be read"),
        (PACKED, b"", "not an idx file"),
    ],
)
def test_an_idx_file_is_measured_before_it_is_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = write_mnist(tmp_path / "data", packed=name == PACKED)
    (root / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        mnist(root=str(root))
    assert str(root / name) in str(caught.value)


def test_a_packed_idx_file_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    """Ten images by its header, and 400 MB of zeros: nothing of them is kept."""
    import tracemalloc

    (tmp_path / "a.gz").write_bytes(packed_header((10, 28, 28), bytes(400_000_000)))
    tracemalloc.start()
    with pytest.raises(RequestError, match="more bytes of data"):
        idx.read_idx(tmp_path / "a.gz")
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_any_bytes_are_an_idx_file_or_refused_by_name(
    tmp_path: Path, content: bytes, packed: bool, begun: bool
) -> None:
    content = b"\0\0\x08" + content if begun else content
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    refusal = None
    try:
        idx.read_idx(path)
    except RequestError as error:
        refusal = str(error)
    assert refusal is None or str(path) in refusal


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, idx_bytes(np.zeros((30, 28, 28)))[:-1], "23519 bytes of data where its header"),
        (IMAGES, idx_bytes(np.zeros((30, 28, 28))) + b"0", "23521 bytes of data"),
        (IMAGES, b"\0\0\x0d\3" + bytes(12), "not an idx file of unsigned bytes"),
        (IMAGES, b"", "begins with nothing"),
        (IMAGES, idx_bytes(np.zeros((30, 784))), "same N"),
        (LABELS, idx_bytes(np.zeros(29)), "same N"),
        (LABELS, idx_bytes(np.full(30, 10)), "label 0 is 10, allowed are 0 to 9"),
        (LABELS, idx_bytes(np.arange(30) // 29 * 200), "label 29 is 200"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, here: Path, name: str, content: bytes, message: str) -> None:
    root = write_mnist(tmp_path / "data")
    (root / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        mnist(root=str(root))
    assert str(root / name) in str(caught.value)
    assert not [p for p in here.iterdir() if p.name != "locks"]  # nothing is kept


@pytest.mark.parametrize(
    "content", [b"no gzip at all", gzip.compress(b"abc", mtime=0)[:-6], b"\x1f\x8b\x08\0" + bytes(40)]
)
def test_garbage_in_place_of_gzip_is_named(tmp_path: Path, content: bytes) -> None:
    root = write_mnist(tmp_path / "data", packed=True)
    (root / f"{LABELS}.gz").write_bytes(content)
    with pytest.raises(RequestError, match=r"cannot be read.*get it again"):
        mnist(root=str(root))


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_get_past_as_an_idx_file_that_they_are_not(tmp_path_factory, content: bytes, packed: bool) -> None:
    file = tmp_path_factory.mktemp("idx") / ("a.gz" if packed else "a")
    file.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    found = None
    with suppress(RequestError):
        found = idx.read_idx(file)
    assert found is None or idx_bytes(found) == content


def test_no_images_at_all(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "data", n=0)
    with pytest.raises(RequestError, match=rf"{LABELS} holds no label"):
        mnist(root=str(root))


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    root = write_mnist(tmp_path / "data")
    (root / IMAGES).unlink()
    (root / IMAGES).mkdir()
    with pytest.raises(RequestError, match=f"{IMAGES} is a folder"):
        mnist(root=str(root))
    with pytest.raises(RequestError, match=r"dataset\.root=.* is a file"):
        mnist(root=str(root / LABELS))
    folder = write_cifar(tmp_path / "cifar", {"data_batch_1.bin": 10})
    (folder / "test_batch.bin").mkdir()
    with pytest.raises(RequestError, match=r"test_batch\.bin cannot be read"):
        cifar10(root=str(folder))


def test_missing_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    for read in (mnist, fashion_mnist, cifar10):
        with pytest.raises(RequestError, match=r"dataset\.root=.*dataset\.download=true"):
            read(root=str(tmp_path / "none"), download=False)


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar_batches_are_read_exactly_in_the_order_of_their_numbers(tmp_path: Path, below: str) -> None:
    root = tmp_path / "data"
    write_cifar(root / below, {"data_batch_10.bin": 20, "data_batch_2.bin": 10, "test_batch.bin": 10})
    splits = cifar10(root=str(root), download=False)
    assert (len(splits.train), len(splits.test)) == (30, 10)
    assert splits.train.input_shape == (3, 32, 32)
    assert splits.train.classes[:2] == ("airplane", "automobile")
    assert splits.train.name[[0, 10]].tolist() == ["data_batch_2/0", "data_batch_10/0"]
    assert splits.train.origin[[9, 29]].tolist() == ["cifar10/train/10009", "cifar10/train/90019"]
    assert splits.train.target.tolist() == [i % 10 for i in (*range(10), *range(20))]
    np.testing.assert_array_equal(splits.train.values[:10].reshape(10, -1), pixels(10, (3072,), 1))
    red = pixels(10, (3072,), 2)[4, :1024].reshape(32, 32)
    np.testing.assert_array_equal(splits.test[4][0], red * np.float32(1 / 255))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_1.bin", bytes(3072), "3072 bytes, not a whole number of images of 3073 bytes"),
        ("test_batch.bin", b"", "0 bytes"),
        ("test_batch.bin", bytes(3073) + b"\x0a" + bytes(3072), "label 1 is 10, allowed are 0 to 9"),
    ],
)
def test_a_damaged_cifar_batch_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = write_cifar(tmp_path / "data", {"data_batch_1.bin": 10, "test_batch.bin": 10})
    (root / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        cifar10(root=str(root))
    assert str(root / name) in str(caught.value)


def test_cifar_needs_both_parts(tmp_path: Path) -> None:
    root = write_cifar(tmp_path / "a", {"data_batch_1.bin": 10})
    with pytest.raises(RequestError, match=r"has no test_batch\.bin"):
        cifar10(root=str(root))
    root = write_cifar(tmp_path / "b", {"test_batch.bin": 10})
    with pytest.raises(RequestError, match=r"has no data_batch_<number>\.bin"):
        cifar10(root=str(root))


# --- downloads, from this machine -------------------------------------------------------------------------------------


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served under."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock")) if folder.is_dir() else []


def test_idx_files_are_fetched_with_their_checksums(tmp_path: Path, served: tuple[Path, str], monkeypatch) -> None:
    folder, address = served
    write_mnist(folder, packed=True)
    sums = {file.name: sha256(file) for file in folder.iterdir()}
    nowhere = "http://127.0.0.1:9/"  # a mirror that does not answer
    monkeypatch.setattr(idx, "MNIST", idx.Source("MNIST/raw", (nowhere, address), sums))
    root = tmp_path / "data"
    assert len(mnist(root=str(root), download=True).train) == 30
    assert left(root) == sorted(sums)
    (root / f"{LABELS}.gz").unlink()
    wrong = sums | {f"{LABELS}.gz": "0" * 64}
    monkeypatch.setattr(idx, "MNIST", idx.Source("MNIST/raw", (nowhere, address), wrong))
    with pytest.raises(RequestError, match=rf"dataset\.download=true: {LABELS}\.gz could not be fetched"):
        mnist(root=str(root), download=True)
    assert f"{LABELS}.gz" not in left(root)  # what has another checksum is not kept


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, arcname="cifar-10-batches-bin")


def test_cifar_is_fetched_unpacked_and_kept_whole_or_not_at_all(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    archive = folder / "cifar-10-binary.tar.gz"
    pack(write_cifar(tmp_path / "made", {"data_batch_1.bin": 10, "test_batch.bin": 10}), archive)
    monkeypatch.setattr(images, "_CIFAR_MIRRORS", (address,))
    root = tmp_path / "data"
    with pytest.raises(RequestError, match=r"cifar-10-binary\.tar\.gz could not be fetched"):  # not of this checksum
        cifar10(root=str(root), download=True)
    assert left(root) == []
    monkeypatch.setattr(images, "_CIFAR_SHA256", sha256(archive))
    assert len(cifar10(root=str(root), download=True).train) == 10
    assert left(root) == ["cifar-10-batches-bin"]
    archive.write_bytes(archive.read_bytes()[:-200])
    monkeypatch.setattr(images, "_CIFAR_SHA256", sha256(archive))
    with pytest.raises(RequestError, match="could not be unpacked"):
        cifar10(root=str(tmp_path / "other"), download=True)
    assert "cifar-10-batches-bin" not in left(tmp_path / "other")


def test_an_archive_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    archive = folder / "cifar-10-binary.tar.gz"
    made = write_cifar(tmp_path / "made", {"data_batch_1.bin": 10, "test_batch.bin": 10})
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(made, arcname="cifar-10-batches-bin")
        member = tarfile.TarInfo("../../escaped.bin")
        member.size = 3
        packed.addfile(member, io.BytesIO(b"abc"))
    monkeypatch.setattr(images, "_CIFAR_MIRRORS", (address,))
    monkeypatch.setattr(images, "_CIFAR_SHA256", sha256(archive))
    with pytest.raises(RequestError, match="could not be unpacked"):
        cifar10(root=str(tmp_path / "data"), download=True)
    assert not list(tmp_path.rglob("escaped.bin"))


# --- the real files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "name"), [(mnist, "mnist"), (fashion_mnist, "fashion_mnist")])
def test_the_real_idx_files(shared: Path, read: Callable, name: str) -> None:
    folder = shared / "data" / name
    source = {"mnist": idx.MNIST, "fashion_mnist": idx.FASHION_MNIST}[name]
    assert {file.name: sha256(file) for file in folder.glob("*.gz")} == dict(source.sha256)
    splits = read(root=str(folder), download=False)
    assert (len(splits.train), len(splits.test)) == (60000, 10000)
    counts = np.bincount(splits.test.target).tolist()
    assert counts == ([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if name == "mnist" else [1000] * 10)


@pytest.mark.slow
def test_the_real_cifar_batches(shared: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(shared / "tools" / "unpack_cifar10.py"), str(tmp_path)], check=True)
    splits = cifar10(root=str(tmp_path), download=False)
    assert (len(splits.train), len(splits.test)) == (30000, 10000)
    assert np.bincount(splits.test.target).tolist() == [1000] * 10
