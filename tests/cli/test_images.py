"""A user with images: run, table, resume and predict through the real pipeline, on the embedded digits."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_checked, write_json
from cil_spl.data import preparation
from tests.cli.conftest import run_in

OFF = "tracking.enabled=false"
WORDS = (
    "run",
    "dataset=digits",
    "method=bptt",
    "target=software",
    "model.layers=[{conv: 4, kernel: 3, padding: 1, pool: 2}, {linear: classes}]",
    "frames.bins=2",
    "trainer.epochs=2",
    "trainer.batch_size=32",
    "dataset.n_train=400",
    "method.lr=0.02",
    "dataset.n_test=40",
    "hydra.run.dir=one",
)


def made(place: Path, *words: str) -> Path:
    """A run in a place of its own."""
    run_in(place, *WORDS, *words)
    return place / "one"


@pytest.fixture(scope="module")
def standardised(tmp_path_factory):
    return made(tmp_path_factory.mktemp("standardised"), OFF, "dataset.standardise=true")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return made(tmp_path_factory.mktemp("plain"), OFF)


@pytest.fixture
def one(standardised, here):
    """A copy of it where the user stands."""
    return Path(shutil.copytree(standardised, here / "one"))


def info(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def scans() -> tuple[np.ndarray, list[str]]:
    """scikit-learn's digits (R, H, W), and of each the name that the data set gives it."""
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.uint8)
    return images, [f"sklearn/digits/{i}" for i in range(len(images))]


def answered(folder: Path) -> list[dict[str, str]]:
    with (folder / "decisions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def classes_of(out: str) -> list[str]:
    """The answers that ``predict`` printed, as decisions.csv has them."""
    said = [line.removeprefix("class").strip() for line in out.splitlines() if line.startswith("class ")]
    return ["none" if one.startswith("none") else one for one in said]


def images_of(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The test images of a run and its deployed answers to them."""
    images, names = scans()
    lines = answered(folder)
    return images[[names.index(line["recording"]) for line in lines]], [line["deployed"] for line in lines]


# --- predict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["standardised", "plain"])
def test_the_answers_are_those_of_the_run(kept, cilspl, here, request):
    """To test images as arrays of any kind: whole numbers, fractions, one or many, with and without channels."""
    folder = request.getfixturevalue(kept)
    images, expected = images_of(folder)
    assert len(images) == 40
    assert len(set(expected)) > 4
    np.save("bytes.npy", images)
    np.save("longs.npy", images[:, None].astype(np.int64))
    np.save("fractions.npy", images / 16)
    for name in ("bytes", "longs", "fractions"):
        said = cilspl("predict", str(folder), f"{name}.npy")
        assert said.code == 0, said.err
        assert classes_of(said.out) == expected, name
    np.save("first.npy", images[0])
    np.save("second.npy", images[1][None])
    said = cilspl("predict", str(folder), "first.npy", "second.npy")
    assert classes_of(said.out) == expected[:2]
    assert "first.npy:" in said.out
    assert "input events" not in said.out


def test_a_picture_is_read_from_black_to_white(cilspl, one):
    """Of a digit whose pixels are all 0 or full, a picture and an array are the same."""
    image = np.where(scans()[0][5] > 7, 16, 0).astype(np.uint8)
    np.save("mine.npy", image)
    picture = Image.fromarray((image // 16 * 255).astype(np.uint8))
    picture.save("mine.png")
    picture.convert("RGB").save("colours.png")  # grey, saved in three channels
    picture.convert("P").save("palette.png")
    answers = [cilspl("predict", "one", name).out for name in ("mine.npy", "mine.png", "colours.png", "palette.png")]
    assert answers[0].startswith("class ")
    assert answers == [answers[0]] * 4


def test_in_python(standardised):
    from cil_spl import load
    from cil_spl.results import runs

    network = load.load(runs.find(standardised))
    images, expected = images_of(standardised)
    found = [network.predict(image) for image in images]
    assert ["none" if p.decision == -1 else p.label for p in found] == expected
    np.testing.assert_array_equal(found[0].values, found[0].counts)
    with pytest.raises(RequestError, match="an array of 2 samples; predict takes them one by one"):
        network.predict(images[:2])


def write(name: str, content: object) -> None:
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(name)
    elif content is not None:
        np.save(name, content)


def cut_png() -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save("whole.png")
    return Path("whole.png").read_bytes()[:-40]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mine.npy", None, "mine.npy: no such file"),
        ("mine.csv", b"1,2,0,1", "mine.csv: unknown kind of file; the run was trained on samples: give .npy or .png"),
        ("mine.npy", np.array([{}], object), "mine.npy: not a readable"),  # pickled
        ("mine.npy", b"", "mine.npy: not a readable"),
        ("mine.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'", "mine.npy: not a readable"),
        (
            "mine.npy",
            np.zeros((28, 28), np.uint8),
            "an array of shape [28, 28]; the run's dataset.input_shape is [1, 8",
        ),
        ("mine.npy", np.zeros((3, 8, 8, 1), np.uint8), "an array of shape [3, 8, 8, 1]; the run's dataset.input_shape"),
        ("mine.npy", np.zeros((0, 8, 8), np.uint8), "an array of shape [0, 8, 8]; the run's dataset.input_shape"),
        ("mine.npy", np.zeros((8, 8), complex), "an array of complex128; the run's data are uint8: give whole numbers"),
        ("mine.npy", np.zeros((8, 8), bool), "an array of bool; the run's data are uint8: give whole numbers, or frac"),
        ("mine.npy", np.full((8, 8), np.nan), "mine.npy: sample 0 has nan at [channel, row, column] [0, 0, 0], which"),
        (
            "mine.npy",
            np.full((8, 8), 17),
            "sample 0 has 17 at [channel, row, column] [0, 0, 0]; for this run whole num",
        ),
        ("mine.npy", np.full((8, 8), -1), "whole numbers are allowed from 0 to 16"),
        ("mine.npy", np.full((8, 8), 16.0), "for this run fractions are allowed from 0 to 1"),
        ("mine.png", b"no picture", "mine.png: not a readable .png picture"),
        ("mine.png", cut_png, "mine.png: not a readable .png picture"),
        ("mine.png", Image.new("L", (28, 8)), "a picture of 28 x 8 pixels (width x height); the run's pictures have 8"),
        ("mine.png", Image.new("RGB", (8, 8), "red"), "the picture has colours, and the run's data have one channel"),
        ("mine.png", Image.new("LA", (8, 8), (9, 100)), "parts of the picture are transparent"),
        ("mine.png", Image.new("I;16", (8, 8)), "mine.png: a picture in mode I;16; save it with 8 bits"),
    ],
)
def test_what_is_no_sample_of_the_run(name, content, said, cilspl, one):
    write(name, content() if callable(content) else content)
    answer = cilspl("predict", "one", name)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert answer.err.count(f"{name}: ") == 1
    assert answer.out == ""


def test_what_was_done_to_the_samples_is_lost_or_changed(cilspl, one):
    np.save("mine.npy", np.zeros((8, 8), np.uint8))
    path = one / "samples.json"
    whole = path.read_text()
    path.write_text(whole.replace('"dtype": "uint8"', '"dtype": "uint16"'))
    said = cilspl("predict", "one", "mine.npy")
    assert (said.code, "samples.json: not as the run left it" in said.err) == (2, True)
    path.unlink()
    said = cilspl("predict", "one", "mine.npy")
    assert said.code == 2
    assert "it has no samples.json, which says how its samples were scaled" in said.err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("order", [0, 0, 1], "damaged or changed"),
        ("scale", [1.0, 2.0], "damaged or changed"),
        ("input_shape", [8, 8], "damaged or changed"),
        ("dtype", "object", "damaged or changed"),
        ("dtype", "no such", "damaged or changed"),
        ("resize", 7, "damaged or changed"),
        ("resize", True, "damaged or changed"),
        ("format", 2, "samples.json: format 2; this version reads 1"),
    ],
)
def test_a_file_that_is_whole_but_makes_no_sense(key, value, said, tmp_path, standardised):
    """With a checksum of its own, as in a folder that someone else has made."""
    content, _ = read_checked(standardised / "samples.json")
    (content if key == "format" else content["experiences"][0])[key] = value
    write_json(tmp_path / "samples.json", content)
    with pytest.raises(RequestError, match=said):
        preparation.read(tmp_path / "samples.json")


def test_the_outputs_are_kept_where_the_user_says(cilspl, one):
    np.save("mine.npy", np.zeros((2, 8, 8), np.uint8))
    said = cilspl("predict", "one", "mine.npy", "--output", "answers")
    assert said.code == 0, said.err
    assert np.load("answers/mine.outputs.npy").shape == (2, 10)
    before = Path("answers/mine.outputs.npy").read_bytes()
    said = cilspl("predict", "one", "mine.npy", "--output", "answers")
    assert (said.code, "mine.outputs.npy is there already" in said.err) == (2, True)
    assert Path("answers/mine.outputs.npy").read_bytes() == before
    said = cilspl("predict", "one", "mine.npy", "./mine.npy", "--output", "others")
    assert (said.code, "another file has the same name" in said.err) == (2, True)


def test_a_reconstruction_is_kept_as_an_image(cilspl, here):
    layers = "model.layers=[{linear: 16}, {linear: classes}]"
    made(here, OFF, "task=reconstruction", "task.scale=0.25", layers, "trainer.epochs=1")
    np.save("mine.npy", scans()[0][:3])
    said = cilspl("predict", "one", "mine.npy", "--output", "answers")
    assert said.code == 0, said.err
    assert "class" not in said.out
    found = np.load("answers/mine.outputs.npy")
    assert found.shape == (3, 1, 8, 8)
    counts = [[float(part.split()[-1]) for part in line.removeprefix("output events").split("  ") if part.strip()]
              for line in said.out.splitlines() if line.startswith("output events")]  # fmt: skip
    np.testing.assert_allclose(found.reshape(3, 64), 0.25 * np.array(counts))


# --- run, table, resume -----------------------------------------------------------------------------------------------


def test_a_run_ends_with_a_row_and_the_table_has_it(cilspl, store, monkeypatch):
    """In a tracking store; the table from there and from the folder are the same."""
    monkeypatch.setenv("COLUMNS", "160")
    said = cilspl(*WORDS)
    assert said.code == 0, said.err
    assert "bptt · bptt_snn · digits · software (stepped) · seed 0" in said.out
    left, row = info(store / "one"), info(store / "one")["row"]
    assert (left["status"], row["n"]) == ("finished", 40)
    right = [line["deployed"] == line["class"] for line in answered(store / "one")]
    assert row["deployed/accuracy"] == pytest.approx(np.mean(right))
    for name in ("learning_curve", "activity", "confusion"):
        assert Image.open(store / "one" / "figures" / f"{name}.png").size > (100, 100)
    assert not (store / "one" / "figures" / "recording.png").exists()  # there is no time in an image
    tables = [cilspl("table", "--format", "csv", *words) for words in ((), ("--from", "."))]
    for table in tables:
        assert table.code == 0, table.err
        (line,) = csv.DictReader(table.out.splitlines())
        assert line["dataset"] == "digits"
        assert f"{row['deployed/accuracy']:.10g}" in line.values()
    assert tables[0].out == tables[1].out


def test_more_epochs_take_the_place_of_the_run(cilspl, plain, here):
    from cil_spl.training.checkpoints import read_checkpoint

    shutil.copytree(plain, here / "one")
    short = info(here / "one")
    said = cilspl("run", "resume=one", "trainer.epochs=4")
    assert said.code == 0, said.err
    after = info(here / "one")
    assert after["params"]["trainer.epochs"] == 4
    assert len((here / "one" / "metrics.jsonl").read_text().splitlines()) == 4
    assert after["row"] != short["row"]
    assert set(after["files"]) == set(short["files"])
    assert "samples.json" in after["files"]
    weights = [read_checkpoint(folder / "weights.pt")["weights"] for folder in (plain, here / "one")]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
    np.save("mine.npy", images_of(here / "one")[0])
    assert classes_of(cilspl("predict", "one", "mine.npy").out) == images_of(here / "one")[1]


@pytest.mark.parametrize("command", ["run", "validate"])
def test_no_images_on_the_chip(command, cilspl, here):
    words = [word for word in WORDS[1:] if not word.startswith(("target=", "hydra."))]
    said = cilspl(command, *words, "target=speck", "observer=none")
    assert said.code == 2
    assert said.err == (
        "cilspl: target=speck: dataset=digits gives values, and this target takes events only; use target=software, "
        "or a data set that gives events\n"
    )
    assert not [path for path in here.rglob("*") if path.is_file()]


# --- a regression of the user's own -----------------------------------------------------------------------------------

DATA = '''
import numpy as np

from cil_spl.data.events import Splits
from cil_spl.data.samples import from_arrays


def blobs(*, n: int = 60) -> Splits:
    """How bright the left and the right half of a picture are."""
    values = np.random.default_rng(0).random((n, 1, 4, 6)).astype(np.float32)
    target = np.stack([values[..., :3].mean((1, 2, 3)), values[..., 3:].mean((1, 2, 3))], 1)
    data = from_arrays(values, target, None)
    return Splits(data.subset(range(n // 2)), data.subset([]), data.subset(range(n // 2, n)))
'''
TASK = """
import numpy as np

from cil_spl.tasks.task import Task


def halves(*, scale: float = 0.1) -> Task:
    return Task(
        name="halves",
        monitor="error",
        better="less",
        loss=lambda outputs, target: (scale * outputs - target).square().mean(),
        metrics=lambda outputs, decision, target: {"error": float(np.abs(scale * outputs - target).mean())},
        outputs=lambda input_shape, n_classes: 2,
    )
"""
DATA_YAML = """\
# Blobs, of my own.
defaults:
  - common/samples@_here_
  - _self_

_target_: own_blobs.blobs
name: blobs
n: 60
input_shape: [1, 4, 6]
n_classes: null
"""
TASK_YAML = """\
# Halves, of my own.
_target_: own_halves.halves
name: halves
scale: 0.1
"""
EXTENSIONS = ("--extensions", "own_blobs", "--extensions", "own_halves")


@pytest.fixture
def own(here, monkeypatch):
    """The folder of a user who has written a data set without classes and a task."""
    (here / "own_blobs.py").write_text(DATA)
    (here / "own_halves.py").write_text(TASK)
    for group, name, text in (("dataset", "blobs", DATA_YAML), ("task", "halves", TASK_YAML)):
        (here / "mine" / group).mkdir(parents=True)
        (here / "mine" / group / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "160")
    yield here
    for name in ("own_blobs", "own_halves"):
        sys.modules.pop(name, None)


def test_a_regression_of_images_from_a_users_folder(cilspl, own):
    """To its row, the table, more epochs and a prediction."""
    words = [word for word in WORDS if not word.startswith(("dataset", "model.layers", "run"))]
    said = cilspl(
        "run", "--config-dir", "mine", "dataset=blobs", "task=halves", "extensions=[own_blobs,own_halves]", OFF,
        "model.layers=[{linear: 8}, {linear: classes}]", *words,
    )  # fmt: skip
    assert said.code == 0, said.err
    row = info(own / "one")["row"]
    assert row["n"] == 30
    assert row["rise"] == pytest.approx(row["deployed/error"] - row["float/error"])
    assert "Deployed error" in said.out
    assert not (own / "one" / "confusion.csv").exists()
    table = cilspl("table", "--from", ".", "--format", "csv")
    assert table.code == 0, table.err
    (line,) = csv.DictReader(table.out.splitlines())
    assert line["dataset"] == "blobs"
    assert f"{row['deployed/error']:.10g}" in line.values()
    said = cilspl("run", "resume=one", "trainer.epochs=3", "extensions=[own_blobs,own_halves]")
    assert said.code == 0, said.err
    assert info(own / "one")["params"]["trainer.epochs"] == 3
    assert info(own / "one")["row"]["n"] == 30
    import own_blobs

    test = own_blobs.blobs().test
    for i in range(len(test)):
        np.save(f"blob{i}.npy", test[i])
    files = [f"blob{i}.npy" for i in range(len(test))]
    said = cilspl("predict", "one", *files, "--output", "answers", *EXTENSIONS)
    assert said.code == 0, said.err
    assert "output events  0: " in said.out
    outputs = np.stack([np.load(f"answers/blob{i}.outputs.npy") for i in range(len(test))])
    error = np.abs(0.1 * outputs - test.target).mean()
    assert error == pytest.approx(info(own / "one")["row"]["deployed/error"], rel=1e-6)
    np.save("bytes.npy", np.zeros((4, 6), np.uint8))
    said = cilspl("predict", "one", "bytes.npy", *EXTENSIONS)
    assert said.code == 2
    assert "an array of uint8; the run's data are float32: give fractions (float32)" in said.err
    Image.new("L", (6, 4), 128).save("grey.png")
    np.save("grey.npy", np.full((4, 6), 128 / 255))
    answers = [cilspl("predict", "one", name, *EXTENSIONS).out for name in ("grey.png", "grey.npy")]
    assert answers[0] == answers[1] != ""
