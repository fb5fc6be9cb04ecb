"""Folders of pictures: read when they are taken, scaled and cropped as Pillow and exact numbers have it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cil_spl.base.errors import RequestError
from cil_spl.data import cache, datasets, preparation
from cil_spl.data.augment_images import AugmentImages, augment_images, crop_of
from cil_spl.data.batches import Batches
from cil_spl.data.images import image_folder
from cil_spl.data.options import Frames
from cil_spl.data.pictures import Pictures, shorter_side
from cil_spl.data.sample_files import read_samples
from cil_spl.data.samples import Samples, joined, spread

SHAPE = (3, 8, 8)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """H W C."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight training and four other pictures of two classes, all of different sizes, lossless."""
    for part, each in (("train", 4), ("val", 2)):
        for k, name in enumerate(("cat", "dog")):
            for i in range(each):
                save(tmp_path / part / name / f"{i}.png", picture(9 + i, 12 - k, 100 * k + i + (part == "val") * 50))
    return tmp_path


def folder(root: Path, **keys: Any) -> Any:
    return image_folder(root=str(root), input_shape=keys.pop("input_shape", SHAPE), **keys)


def test_classes_files_and_parts(root: Path) -> None:
    sets = folder(root)
    assert [len(part) for part in (sets.train, sets.val, sets.test)] == [8, 0, 4]
    assert sets.train.classes == ("cat", "dog")
    assert sets.train.target.tolist() == [0] * 4 + [1] * 4
    assert sets.test.name.tolist() == ["val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png"]
    assert sets.train.origin[5] == "train/dog/1.png"
    assert sets.train.input_shape == SHAPE
    assert isinstance(sets.train.values, Pictures)
    assert sets.train.values is sets.test.values  # files are listed once
    assert sets.train.values.shape == (12, *SHAPE)


def test_a_test_folder_with_classes_is_tested_on(root: Path) -> None:
    save(root / "test" / "loose.png", picture(8, 8, 0))
    assert len(folder(root).test) == 4  # ImageNet's own test pictures have no classes
    for name in ("cat", "dog"):
        save(root / "test" / name / "a.jpg", picture(8, 8, 0))
    sets = folder(root)
    assert [len(part) for part in (sets.train, sets.val, sets.test)] == [8, 4, 2]
    assert sets.test.name.tolist() == ["test/cat/a.jpg", "test/dog/a.jpg"]


def test_folders_below_and_other_names_and_kinds(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "train" / "cat" / "images" / "B.JPEG", picture(8, 8, 0))
    save(root / "train" / "cat" / ".hidden.png", picture(8, 8, 0))
    (root / "train" / "cat" / "boxes.txt").write_text("0 0 8 8")
    (root / "train" / ".cache").mkdir()
    names = folder(root).train.name.tolist()
    assert names[:5] == [*(f"train/cat/{i}.png" for i in range(4)), "train/cat/images/B.JPEG"]
    (said,) = caplog.messages
    assert (
        said == f"{root / 'train'}: 1 files that are no pictures are left out, for example {root}/train/cat/boxes.txt"
    )


# what is read


def test_a_picture_of_the_size_is_its_bytes(tmp_path: Path) -> None:
    image = picture(8, 8, 1)
    for part in ("train", "val"):
        save(tmp_path / part / "a" / "0.png", image)
        save(tmp_path / part / "b" / "0.png", image[::-1])
    data = folder(tmp_path, resize=8).train
    np.testing.assert_array_equal(
        data.values[np.array([1, 0])], [image[::-1].transpose(2, 0, 1), image.transpose(2, 0, 1)]
    )
    np.testing.assert_array_equal(data[0], image.transpose(2, 0, 1) * np.float32(1 / 255))
    assert data.take([-1, 0, -1])[[0, 2]].any() == np.False_


def test_the_shorter_side_is_scaled_and_the_middle_taken(tmp_path: Path) -> None:
    """A picture of flat stripes, 16 high and 48 wide, at half its size: its middle 8 columns are 16 of its own."""
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:24], image[:, 24:32] = 80, 160  # what the middle is made of
    image[:, :16], image[:, 32:] = 255, 255
    for part in ("train", "val"):
        for name in "ab":
            save(tmp_path / part / name / "0.png", image)
            save(tmp_path / part / name / "1.png", image.transpose(1, 0, 2))
    data = folder(tmp_path, resize=8).train
    wide, high = data.values[np.arange(2)]
    assert wide[:, :, 0].max() <= 80 + 30  # an edge is mixed with its neighbour
    assert (wide[:, :, 1:3] == 80).all()
    assert (wide[:, :, 5:7] == 160).all()
    np.testing.assert_array_equal(high, wide.transpose(0, 2, 1))
    # With resize larger, less of it is seen: 8 of 16 pixels of the shorter side are 8 of its own.
    near = folder(tmp_path, resize=16).train.values[np.arange(1)][0]
    np.testing.assert_array_equal(near, image[4:12, 20:28].transpose(2, 0, 1))


@given(st.integers(8, 70), st.integers(8, 70), st.integers(8, 20), st.integers(0, 9))
def test_as_if_the_whole_were_scaled_and_then_cut(height: int, width: int, resize: int, seed: int) -> None:
    image = Image.fromarray(picture(height, width, seed))
    pictures = Pictures(Path("/none"), np.array(["x"]), np.array([1]), SHAPE, resize)
    taken = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, pictures._middle(image))).astype(int)
    w, h = (resize * width // min(width, height), resize * height // min(width, height))
    left, top = round((w - 8) / 2), round((h - 8) / 2)
    whole = image.resize((w, h), Image.Resampling.BILINEAR)
    assert np.abs(taken - np.asarray(whole.crop((left, top, left + 8, top + 8)))).max() <= 2  # two passes round


def test_default_sides() -> None:
    assert [shorter_side(shape, None) for shape in ((3, 224, 224), (1, 8, 8), (3, 56, 28))] == [256, 9, 64]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("1", "png"), ("P", "png"), ("LA", "png"), ("RGBA", "png"), ("L", "jpg"), ("CMYK", "jpg")],
)
def test_modes_of_8_bits_become_grey_or_colours(root: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(picture(8, 8, 3)).convert(mode)
    path = root / "train" / "cat" / f"0.{suffix}"
    (root / "train" / "cat" / "0.png").unlink()
    save(path, image)
    with Image.open(path) as read:
        expected = np.asarray(read.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(folder(root, resize=8).train.values[np.arange(1)][0], expected)
    grey = folder(root, resize=8, input_shape=(1, 8, 8)).train
    assert grey[0].shape == (1, 8, 8)


def test_hidden_colours_of_a_palette_raise_no_warning(root: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(picture(8, 8, 3)).convert("P")
    image.info["transparency"] = bytes(range(256))
    image.save(root / "train" / "cat" / "0.png", transparency=bytes(range(256)))
    folder(root).train.take([0])
    assert not [w for w in recwarn.list if "ransparen" in str(w.message)]


def test_threads_and_order_change_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(root).train
    index = np.array([7, 0, 3, 3])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = data.take(index)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    np.testing.assert_array_equal(data.take(index), alone)
    for b, i in enumerate(index):
        np.testing.assert_array_equal(data[int(i)], alone[b])


def test_subsets_are_rows(root: Path) -> None:
    data = folder(root).train
    part = data.subset([5, 0]).subset([1])
    np.testing.assert_array_equal(part[0], data[0])
    both = joined([data.subset([6]), part])
    assert both.values is data.values  # nothing was read
    np.testing.assert_array_equal(both.take([0, 1]), data.take([6, 0]))
    assert both.name.tolist() == ["train/dog/2.png", "train/cat/0.png"]


# augmentation


def test_a_crop_of_the_whole_area_of_a_square_is_the_square() -> None:
    for seed in range(20):
        assert crop_of(8, 8, (1, 1), (seed,)) == (0, 0, 8, 8)
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8), dtype=np.uint8)
    out = augment_images(images, AugmentImages(crop_area=(1, 1)), [(0, b) for b in range(3)])
    np.testing.assert_array_equal(out, images)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 9))
def test_crops_lie_inside(height: int, width: int, area: float, seed: int) -> None:
    left, top, right, bottom = crop_of(height, width, (area, 1), (seed,))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_the_areas_and_shapes_that_are_allowed() -> None:
    boxes = np.array([crop_of(400, 400, (0.2, 0.4), (seed,)) for seed in range(500)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = w * h / 400**2, w / h
    assert 0.198 < areas.min() < 0.22
    assert 0.38 < areas.max() < 0.402
    assert 0.74 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.03  # as often narrow as wide
    assert abs(np.mean(boxes[:, 0] + w / 2) - 200) < 12  # all over the picture
    assert boxes[:, 0].min() == 0


def test_a_long_picture_from_which_none_fits_is_cut_to_an_allowed_shape() -> None:
    assert crop_of(10, 1000, (1, 1), (0,)) == (493, 0, 506, 10)  # 4:3
    assert crop_of(1000, 9, (1, 1), (0,)) == (0, 494, 9, 506)  # 3:4


def test_training_sees_a_crop_and_evaluation_the_middle(root: Path) -> None:
    data = folder(root, resize=8).train
    augment = AugmentImages(crop_area=(0.1, 0.5))
    seeds = [(0, 0, i) for i in range(3)]
    taken = data.take([4, -1, 0], augment, seeds)
    assert not taken[1].any()
    for b, i in ((0, 4), (2, 0)):
        with Image.open(root / data.name[i]) as image:
            box = crop_of(image.height, image.width, (0.1, 0.5), seeds[b])
            expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)
        np.testing.assert_array_equal(taken[b], expected * np.float32(1 / 255))
    mirrored = data.take([4, -1, 0], AugmentImages(crop_area=(0.1, 0.5), flip=True), seeds)
    assert all((a == b).all() or (a[..., ::-1] == b).all() for a, b in zip(taken, mirrored, strict=True))


def test_the_other_draws_stay_when_crops_are_drawn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    seeds = [(1, b) for b in range(6)]
    plain = augment_images(images, AugmentImages(padding=2, flip=True), seeds)
    whole = augment_images(images, AugmentImages(padding=2, flip=True, crop_area=(1, 1)), seeds)
    np.testing.assert_array_equal(plain, whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_crops_of_arrays_keep_their_type_and_range(dtype: type) -> None:
    images = np.random.default_rng(0).integers(0, 100, (4, 3, 9, 7)).astype(dtype)
    out = augment_images(images, AugmentImages(crop_area=(0.2, 0.6)), [(0, b) for b in range(4)])
    assert (out.dtype, out.shape) == (images.dtype, images.shape)
    assert 0 <= out.min() <= out.max() <= 99
    assert (out != images).any()


@pytest.mark.parametrize("areas", [[1, 0.5], [0, 1], [0.1], 0.1, [0.1, 1.5], ["a", 1]])
def test_areas_that_are_none_are_refused(areas: Any) -> None:
    with pytest.raises(RequestError, match=r"dataset\.augment\.crop_area="):
        AugmentImages.from_config({"crop_area": areas})


# through the whole of a data set


def config(root: Path, **keys: Any) -> dict[str, Any]:
    base = {"_target_": "cil_spl.data.images.image_folder", "name": "image_folder", "root": str(root)}
    return base | {"input_shape": list(SHAPE), "n_classes": 2, "val_fraction": 0.25} | keys


def test_loaded_standardised_and_in_batches(root: Path) -> None:
    (sets,) = datasets.load(config(root, standardise=True, resize=8))
    assert [len(part) for part in (sets.train, sets.val, sets.test)] == [6, 2, 4]
    whole = np.concatenate([part.take(np.arange(len(part))) for part in (sets.train, sets.val)])
    np.testing.assert_allclose(whole.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(whole.std(axis=(0, 2, 3)), 1, atol=1e-5)
    batches = Batches(sets.train, 4, Frames(bins=2), shuffle=True, augment={"crop_area": [0.5, 1], "flip": True})
    first, again, other = (list(batches.epoch(n)) for n in (0, 0, 1))
    assert [batch.frames.shape for batch in first] == [(2, 4, *SHAPE), (2, 2, *SHAPE)]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].frames, other[0].frames)


def test_the_test_set_of_another_run(root: Path) -> None:
    (sets,) = datasets.load(config(root), config(root, split="test"))
    assert sets.test.name[0] == "val/cat/0.png"


def test_mean_and_deviation_of_some_thousand_are_enough(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(root).train
    monkeypatch.setattr("cil_spl.data.samples._PICTURES", 3)
    mean, _ = spread(data)
    np.testing.assert_allclose(mean, data.take([0, 3, 6]).mean(axis=(0, 2, 3)), rtol=1e-5)


def test_the_hash_is_that_of_names_and_sizes(root: Path) -> None:
    before = cache.contents(folder(root).train)
    assert cache.contents(folder(root).train) == before
    assert cache.contents(folder(root, resize=12).train) != before
    assert cache.contents(folder(root).test) != before
    save(root / "train" / "cat" / "0.png", picture(30, 30, 0))
    assert cache.contents(folder(root).train) != before


def test_the_hash_does_not_depend_on_where_they_lie(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("moved") / "here"
    before = cache.contents(folder(root).train)
    root.rename(other)
    assert cache.contents(folder(other).train) == before


def test_pictures_are_left_out_by_name(root: Path) -> None:
    (sets,) = datasets.load(config(root, exclude_indices=["train/dog/3.png", "0.png"]))
    left = {*sets.train.name.tolist(), *sets.val.name.tolist()}
    assert left == {f"train/{name}/{i}.png" for name in ("cat", "dog") for i in (1, 2, 3)} - {"train/dog/3.png"}


def test_files_that_come_later_are_read_as_an_evaluation_reads(root: Path, tmp_path: Path) -> None:
    (sets,) = datasets.load(config(root, standardise=True))
    preparation.keep(tmp_path, [sets])
    (kept,) = preparation.read(tmp_path / preparation.SAMPLES_FILE)
    assert kept.resize == 9
    for i in (0, 3):
        values = read_samples(root / sets.test.name[i], kept)
        assert (values.dtype, values.shape) == (np.uint8, (1, *SHAPE))
        np.testing.assert_array_equal(kept.samples(values, ["later"])[0], sets.test[i])
    (root / "note.txt").write_text("no picture")
    for name, message in (("note.txt", "unknown kind of file; .* give .npy or .jpg or .jpeg or .png"),
                          ("train/cat/9.jpg", "no such file")):  # fmt: skip
        with pytest.raises(RequestError, match=message):
            read_samples(root / name, kept)
    truncated(root / "val" / "cat" / "0.png")
    with pytest.raises(RequestError, match=r"val/cat/0\.png: not a readable picture"):
        read_samples(root / "val" / "cat" / "0.png", kept)


# what is wrong


def remove(path: Path) -> None:
    for one in sorted(path.rglob("*"), reverse=True):
        one.rmdir() if one.is_dir() else one.unlink()
    path.rmdir()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: remove(r / "train"), "dataset.root={r}: there is no folder {r}/train; pictures lie in train/CLASS/"),
        (lambda r: remove(r / "val"), "dataset.root={r}: there is no folder {r}/val; pictures lie in train/CLASS/NAME"),
        (
            lambda r: (remove(r / "val"), (r / "val").mkdir()),
            "{r}/val holds no folder of a class; pictures lie in {r}/",
        ),
        (lambda r: (r / "train" / "eel").mkdir(), "{r}/train/eel holds no picture (.jpg, .jpeg, .png); remove the fol"),
        (lambda r: remove(r / "val" / "dog"), "{r}/train/dog: there is no such class in {r}/val; both need the same"),
        (
            lambda r: save(r / "val" / "eel" / "0.png", picture(8, 8, 0)),
            "{r}/val/eel: there is no such class in {r}/tr",
        ),
        (
            lambda r: (r / "train" / "dog" / "1.png").write_bytes(b""),
            "{r}/train/dog/1.png: the file is empty; get it a",
        ),
        (
            lambda r: (r / "train" / "dog" / "5.png").symlink_to("no"),
            "{r}/train/dog/5.png cannot be read (No such file",
        ),
        (
            lambda r: (r / "train" / "dog" / "\udcff.png").write_bytes(b"x"),
            "'{r}/train/dog/\\udcff.png': the name of t",
        ),
    ],
)
def test_folders_are_refused_by_name(root: Path, damage: Any, message: str) -> None:
    damage(root)
    with pytest.raises(RequestError) as caught:
        folder(root)
    assert str(caught.value).startswith(message.replace("{r}", str(root))), caught.value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "not a readable picture ("),
        (lambda p: p.write_bytes(b"no picture"), "not a readable picture (cannot identify image file"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), "not a readable picture ("),
        (lambda p: Image.new("I;16", (8, 8)).save(p), "a picture in mode I;16; save it with 8 bits, in grey or in red"),
        (lambda p: Image.new("RGB", (8, 8)).save(p, format="GIF"), "not a readable picture (cannot identify image"),
        (lambda p: p.unlink(), "not a readable picture ([Errno 2] No such file or directory"),
    ],
)
def test_a_picture_is_refused_by_name_when_it_is_taken(root: Path, damage: Any, message: str) -> None:
    sets = folder(root)
    path = root / "train" / "dog" / "1.png"
    damage(path)
    sets.train.take([0, 1])  # the others are read
    for augment in (None, AugmentImages(crop_area=(0.5, 1))):
        with pytest.raises(RequestError) as caught:
            sets.train.take([0, 5], augment, [(0,), (1,)])
        assert str(caught.value).startswith(f"{path}: {message}"), caught.value


def test_a_huge_picture_is_refused_before_it_is_unpacked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "train" / "cat" / "0.png"
    Image.new("1", (5000, 4000)).save(path)
    data = folder(root).train
    monkeypatch.setattr("cil_spl.base.memory.free_bytes", lambda: 1 << 28)
    with pytest.raises(RequestError, match=r"0\.png, of 5000 x 4000 pixels, would take 0\.16 GB; at most 0\.0671 GB"):
        data.take([0])
    monkeypatch.setattr("cil_spl.base.memory.free_bytes", lambda: 1 << 32)
    assert not data.take([0]).any()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input_shape": [2, 8, 8]}, r"dataset\.input_shape=\[2,8,8\]: pictures have 1 channel \(grey\) or 3"),
        ({"resize": 7}, r"dataset\.resize=7: less than the 8 pixels of dataset\.input_shape=\[3,8,8\]"),
        ({"resize": 0}, r"dataset\.resize=0: must be at least 1"),
        ({"n_classes": 3}, r"dataset\.n_classes=3: the samples have 2 classes; set dataset\.n_classes=2"),
        (
            {"root": "nope"},
            r"dataset\.root=nope does not exist; set dataset\.root to the folder that holds the data set",
        ),
        ({"download": True}, r"dataset\.download=true: no such key"),
        ({"augment": {"crop_area": [1, 0.5]}}, r"dataset\.augment\.crop_area=\[1.*, 0\.5\]: needs the smaller share"),
    ],
)
def test_keys_that_do_not_fit_are_refused(root: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        datasets.load(config(root) | keys)


def test_nothing_of_the_set_is_held(root: Path) -> None:
    """A set of any size takes its names and nothing else: every array of it is of one small number for each picture."""
    data: Samples = folder(root).train
    pictures = data.values
    assert isinstance(pictures, Pictures)
    arrays = [value for value in vars(pictures).values() if isinstance(value, np.ndarray)]
    assert sorted(array.shape for array in arrays) == [(12,), (12,)]
    os.remove(root / "train" / "cat" / "0.png")
    with pytest.raises(RequestError, match=r"train/cat/0\.png"):
        data.take([0])
