"""The other subcommands: table, restore, ls, validate, doctor, data, predict."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import cil_spl
from cil_spl.results import report, same

ROOT = Path(__file__).resolve().parents[2]

OFF = "tracking.enabled=false"


@pytest.fixture
def two_runs(cilspl, store, pipeline):
    """Seeds 0 and 1, tracked."""
    for seed in (0, 1):
        assert cilspl("run", f"seed={seed}").code == 0
    return store


# table and restore


def test_the_table_of_the_store_and_of_the_folders_is_the_same(cilspl, two_runs):
    said = cilspl("table")
    assert said.code == 0, said.err
    assert "90.50" in said.out
    assert "± 0.71" in said.out
    assert len(said.out.splitlines()[0]) > 80  # into a pipe nothing wraps
    assert cilspl("table", "--from", "runs").out == said.out
    assert cilspl("table", "--experiment", "cilspl", "--filter", "method=cil_bptt", "seed=0,1").out == said.out


@pytest.mark.parametrize("columns", [50, 80, 250])
def test_the_table_fits_a_terminal(cilspl, two_runs, columns, monkeypatch):
    monkeypatch.setattr(report, "terminal", lambda: (columns, True))
    said = cilspl("table")
    assert max(len(line) for line in said.out.splitlines()) <= columns
    assert {"90.50", "cil_bptt", "event_digits"} <= set(said.out.split())


def test_how_wide_a_terminal_is(monkeypatch, capsys):
    assert report.terminal() == (None, False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"COLUMNS": "77", "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert report.terminal() == (77, True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert report.terminal() == (77, False)


def test_a_difference_without_scores_says_so_and_the_notes_of_a_csv_are_printed(cilspl, two_runs):
    said = cilspl("table", "--against", "method=cil_bptt", "--format", "csv")
    assert said.code == 0, said.err
    assert said.out.splitlines()[1].endswith(",reference")
    assert "mean ± standard deviation" in said.err
    assert "reference row (method=cil_bptt)" in said.err
    assert "mean ±" not in said.out


def test_several_places_and_a_file_of_rows(cilspl, two_runs):
    runs = sorted(Path("runs").rglob("run.json"))
    same.add_row(Path("rows.json"), json.loads(runs[0].read_text()))
    both = cilspl("table", "--from", "rows.json", str(runs[1].parent)).out
    assert both == cilspl("table", "--from", "runs").out
    assert both == cilspl("table", "--from", "runs", "--from", "rows.json").out


@pytest.mark.parametrize("form", ["markdown", "csv", "latex"])
def test_the_table_goes_into_a_file(cilspl, two_runs, form):
    said = cilspl("table", "--format", form, "--output", "out.txt")
    assert (said.code, said.out) == (0, "")
    assert cilspl("table", "--format", form).out == Path("out.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--experiment", "nope"], "--experiment nope"),
        (["--filter", "methd=x"], "did you mean method?"),
        (["--from", "nope"], "--from nope"),
        (["--against", "methd=x"], "did you mean method?"),
        (["--against", "method=bptt"], "--against method=bptt: fits no row"),
        (["--against", "method"], "--against method: needs key=value"),
        (["--format", "word"], "invalid choice"),
        (["--output", "nope/x.md"], "--output nope/x.md"),
        (["--uri", "sqlite:///other.db"], "no tracking store there yet"),
    ],
)
def test_a_wrong_table(cilspl, two_runs, words, piece):
    said = cilspl("table", *words)
    assert said.code == 2
    assert piece in said.err
    assert "Traceback" not in said.err


def test_no_store_no_table_and_none_is_made(cilspl, here):
    assert cilspl("table").code == 2
    assert not list(here.iterdir())


def test_restore(cilspl, two_runs, template):
    before = cilspl("table").out
    shutil.copy(template, "mlflow.db")
    assert cilspl("table").code == 2
    said = cilspl("restore", "runs")
    assert said.code == 0, said.err
    assert len(said.out.splitlines()) == 2
    assert cilspl("table").out == before


# ls and validate


def test_ls_has_a_line_for_everything(cilspl, here):
    out = cilspl("ls").out
    for name in ("bptt ", "conversion ", "qat_cnn ", "nmnist ", "speck "):
        assert name in out
    for kind in ("methods", "method"):
        lines = cilspl("ls", kind).out.splitlines()
        shipped = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
        assert [line.split()[0] for line in lines] == shipped
        assert all(len(line.split()) > 3 for line in lines)


def test_ls_shows_a_persons_own(cilspl, here):
    (here / "mine" / "dataset").mkdir(parents=True)
    (here / "mine" / "dataset" / "own.yaml").write_text("# @package dataset\n# My recordings.\nname: own\n")
    lines = cilspl("ls", "datasets", "--config-dir", "mine").out.splitlines()
    assert any(line.split() == ["own", "My", "recordings."] for line in lines)


def test_ls_of_something_else(cilspl, here):
    said = cilspl("ls", "cars")
    assert said.code == 2
    assert "methods, models" in said.err


def test_validate_checks_every_combination_and_runs_none(cilspl, here, pipeline):
    said = cilspl("validate", "method=bptt,conversion", "seed=0,1")
    assert said.code == 0, said.err
    assert said.out.count("valid: ") == 4
    assert "method=conversion model=cnn dataset=event_digits target=speck seed=1" in said.out
    assert "! conv1: an odd map" in said.out
    assert not pipeline.ran
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["method.lrr=1"], "did you mean method.lr?"),
        (["frames.bins=-1"], "frames.bins=-1"),
        (["seed=0,1", "method=bppt"], "did you mean bptt?"),
        (["method=conversion", "model=bptt_snn"], "model=bptt_snn"),
        (["--config-dir", "nope"], "--config-dir nope"),
        (["model=1.5"], "model=1.5: needs the name of a choice"),
        (["extensions=os"], "extensions=os: needs a list of modules"),
        (["+trainr.epochs=3"], "trainr.epochs=3: no such group trainr; did you mean trainer?"),
    ],
)
def test_validate_refuses(cilspl, here, pipeline, words, piece):
    said = cilspl("validate", *words)
    assert said.code == 2
    assert piece in said.err
    assert "Traceback" not in said.err


# doctor


def test_doctor_looks_without_touching(cilspl, here, monkeypatch):
    monkeypatch.setenv("CILSPL_CACHE", str(here / "cache"))
    monkeypatch.setitem(sys.modules, "samna", None)  # an import would raise
    said = cilspl("doctor")
    assert said.code == 0, said.out
    for piece in ("torch", "mlflow", "samna", "threads", "CUDA", "mlflow.db, not there yet", str(here / "cache")):
        assert piece in said.out
    assert not list(here.iterdir())


def test_doctor_marks_what_is_wrong(cilspl, here, monkeypatch):
    (here / "mlflow.db").write_text("no database")
    monkeypatch.setenv("CILSPL_CACHE", "/proc/nowhere")
    said = cilspl("doctor")
    assert said.code == 1
    marked = [line.split()[1] for line in said.out.splitlines() if line.startswith("!!")]
    assert marked == ["tracking", "cache"]


# data


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A data set of one's own: two classes, five recordings per class and split."""
    module = types.ModuleType("tiny_set")

    def load(**_):
        from cil_spl.data.events import EVENT, Splits, from_list

        recordings = []
        for i in range(10):
            events = np.zeros(20 + i, EVENT)
            events["t"] = np.arange(20 + i) * 1000
            events["x"] = i
            recordings.append(events)
        train = from_list(recordings, [0, 1] * 5, (34, 34, 2), ["zero", "one"])
        return Splits(train=train, val=train.subset([]), test=train)

    load.__module__ = "tiny_set"
    module.load = load
    monkeypatch.setitem(sys.modules, "tiny_set", module)
    folder = tmp_path / "mine" / "dataset"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(
        "# Ten recordings.\n_target_: tiny_set.load\nname: tiny\nsensor_size: [34, 34, 2]\nn_classes: 2\n"
        "val_fraction: 0.2\nsplit: test\nexclude_indices: null\npreprocess: {}\naugment: {}\n"
    )
    return ("--config-dir", str(tmp_path / "mine"), "--extensions", "tiny_set")


def test_describe(cilspl, here, tiny):
    said = cilspl("data", "describe", "tiny", *tiny)
    assert said.code == 0, said.err
    assert "34 x 34 pixels, 2 polarities, 2 classes" in said.out
    assert "20…29" in said.out
    assert max(len(line) for line in said.out.splitlines()) <= 80


def test_picture(cilspl, here, tiny):
    said = cilspl("data", "picture", "tiny", "--split", "test", "--index", "3", *tiny)
    assert said.code == 0, said.err
    assert said.out.strip() == "tiny-test-3.png"
    assert Path("tiny-test-3.png").read_bytes().startswith(b"\x89PNG")


def test_describe_and_picture_of_images(cilspl, here):
    said = cilspl("data", "describe", "digits", "split_classes=[[0,1],[2,3]]")
    assert said.code == 0, said.err
    assert "digits, experience 2 of 2: 8 x 8 pixels, 1 channel, 10 classes" in said.out
    assert "outputs of this experience: 2, 3" in said.out
    assert "0.000…1.000" in said.out
    assert "no training sample" not in said.out  # classes of another experience are not missing
    assert max(len(line) for line in said.out.splitlines()) <= 80
    said = cilspl("data", "picture", "digits", "--index", "3")
    assert (said.code, said.out.strip()) == (0, "digits-test-3.png"), said.err
    assert Path("digits-test-3.png").read_bytes().startswith(b"\x89PNG")
    said = cilspl("data", "picture", "digits", "--index", "359")
    assert (said.code, "split test has samples 0 to 358" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["describe", "tny"], "did you mean tiny?"),
        (["describe", "nmnist", "rot=3"], "dataset.rot=3: no such key; did you mean dataset.root?"),
        (["describe", "nmnist", "root=/nope"], "/nope"),
        (["describe", "tiny", "val_fraction=7"], "val_fraction=7"),
        (["picture", "tiny", "--index", "10"], "--index 10: split test has recordings 0 to 9"),
        (["picture", "tiny", "--out", "x.docx"], "--out x.docx"),
        (["burn", "tiny"], "invalid choice"),
    ],
)
def test_wrong_data(cilspl, here, tiny, words, piece):
    said = cilspl("data", *words, *(tiny if words[0] != "burn" else ()))
    assert said.code == 2
    assert piece in said.err
    assert "Traceback" not in said.err


def test_cache_and_clear(cilspl, here, monkeypatch):
    monkeypatch.setenv("CILSPL_CACHE", str(here / "cache"))
    (here / "cache" / ("0" * 40)).mkdir(parents=True)
    (here / "cache" / ("0" * 40) / "a.npy").write_bytes(b"0" * 2_500_000)
    assert "2.5 MB" in cilspl("data", "cache").out
    assert "2.5 MB freed" in cilspl("data", "clear").out
    assert "0.0 MB" in cilspl("data", "cache").out


# predict


@pytest.fixture
def network(pipeline, monkeypatch):
    """A network that answers class 1; the real one is in tests/test_load.py."""
    stand_in = types.ModuleType("cil_spl.load")

    def predict(events, experience=None):
        return types.SimpleNamespace(label="one", counts=np.array([2.0, 7.0]), decision_us=12_500)

    stand_in.load = lambda run, extensions: types.SimpleNamespace(predict=predict, classes=("zero", "one"))
    monkeypatch.setitem(sys.modules, "cil_spl.load", stand_in)
    monkeypatch.setattr(cil_spl, "load", stand_in, raising=False)


def test_predict(cilspl, here, pipeline, network):
    assert cilspl("run", "hydra.run.dir=runs/one", OFF).code == 0
    Path("mine.csv").write_text("x,y,t,p\n1,2,0,1\n3,4,5000,0\n")
    said = cilspl("predict", "runs/one", "mine.csv")
    assert said.code == 0, said.err
    assert said.out.splitlines() == [
        "class          one",
        "output events  zero: 2  one: 7",
        "decided at     12.5 ms",
        "input events   2, over 5.0 ms",
    ]


@pytest.mark.parametrize(
    ("run", "content", "piece"),
    [
        ("runs/nope", "1,2,0,1", "runs/nope"),
        ("runs/one", "40,2,0,1", "mine.csv: event 0 has x=40"),
        ("runs/one", "1,2,5,1\n1,2,4,1", "time runs backwards"),
        ("runs/one", "1,2,5", "needs 4 numbers"),
        ("runs/one", "", "no event"),
    ],
)
def test_a_wrong_prediction(cilspl, here, pipeline, network, run, content, piece):
    cilspl("run", "hydra.run.dir=runs/one", OFF)
    Path("mine.csv").write_text(content)
    said = cilspl("predict", run, "mine.csv")
    assert said.code == 2
    assert piece in said.err
    assert "Traceback" not in said.err


def test_a_run_is_named_alike_everywhere(cilspl, two_runs, network):
    Path("mine.csv").write_text("1,2,0,1\n")
    info = json.loads(next(two_runs.glob("runs/**/run.json")).read_text())
    for name in (info["run_id"], info["run_id"][:8]):
        assert cilspl("predict", name, "mine.csv").code == 0
        assert cilspl("restore", name).out.startswith(info["run_id"])
