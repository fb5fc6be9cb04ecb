"""A run is found alike by its id, the beginning of it, and its folder."""

from __future__ import annotations

import json
import shutil

import pytest

from cil_spl.base.errors import RequestError
from cil_spl.base.files import json_line
from cil_spl.results import runs
from cil_spl.results.record import open_record

CONFIG = {"seed": 0, "method": {"name": "bptt"}, "tracking": {"enabled": False}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder, run_id, started="2026-01-01T00:00:00.000+00:00", **more):
    folder.mkdir(parents=True)
    info = {"format": 1, "run_id": run_id, "status": "finished", "started": started, "params": {}, "row": {}, **more}
    (folder / "run.json").write_text(json.dumps(info))
    return folder.resolve()


def test_by_folder_file_id_and_prefix(here):
    one = make(here / "runs" / "a" / "x", "abcd1111")
    make(here / "runs" / "b", "abcd2222")
    for name in (one, "runs/a/x", "runs/a/x/run.json", "abcd1111", "abcd1"):
        assert runs.find(name).folder == one, name


def test_the_whole_id_wins_over_a_longer_one(here):
    one = make(here / "runs" / "a", "abcd")
    make(here / "runs" / "b", "abcd2222")
    assert runs.find("abcd").folder == one


def test_a_prefix_of_several_lists_them(here):
    make(here / "runs" / "a", "abcd1111")
    make(here / "runs" / "b", "abcd2222")
    with pytest.raises(RequestError, match="beginning of 2 run ids") as caught:
        runs.find("abcd")
    assert "abcd1111" in str(caught.value)
    assert "abcd2222" in str(caught.value)


def test_a_former_id_still_leads_there(here):
    one = make(here / "runs" / "a", "abcd1111", former_run_ids=["ffff0000"])
    assert runs.find("ffff").folder == one


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ffff", "no run with this id"),
        ("ab", "at least 4 characters"),
        ("runs/nope", "neither a folder nor"),
        ("runs", "no run in this folder"),
    ],
)
def test_none_is_found(here, name, text):
    make(here / "runs" / "a", "abcd1111")
    with pytest.raises(RequestError, match=text):
        runs.find(name)


@pytest.mark.parametrize(
    ("content", "text"),
    [("{", "not the record of a run"), ("[]", "not the record"), ('{"format": 3}', "format 3; this version reads")],
)
def test_a_damaged_record_names_the_file(here, content, text):
    (here / "run.json").write_text(content)
    with pytest.raises(RequestError, match=text) as caught:
        runs.read(here)
    assert str(here / "run.json") in str(caught.value)
    assert runs.scan(here) == []


def test_a_changed_record_is_refused_by_name_and_left_out_with_a_count(here, caplog):
    make(here / "runs" / "old", "abcd0000")
    for name in ("good", "bad"):
        with open_record(CONFIG, here / "runs" / name) as record:
            record.finish({"deployed/accuracy": 0.5}, {"method": "bptt"})
    path = here / "runs" / "bad" / "run.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    (here / "runs" / "begins").mkdir()
    (here / "runs" / "begins" / "run.json").touch()
    with pytest.raises(RequestError, match=r"bad/run\.json: damaged or changed, .*run again"):
        runs.read(path.parent)
    assert [r.folder.name for r in runs.scan("runs")] == ["good", "old"]
    assert [r.getMessage() for r in caplog.records] == [
        f"left out: {path}: damaged or changed, its content does not fit its checksum; take it from a copy, or run "
        "again",
        f"{here}/runs: runs of an earlier version, without checksums, which cannot be checked: 1",
    ]
    path.write_text(path.read_text().replace('"sha256"', '"sha257"'))
    with pytest.raises(RequestError, match="damaged or changed"):
        runs.read(path.parent)


def test_a_record_without_a_checksum_is_read_with_one_warning(here, caplog):
    folder = make(here / "runs" / "a", "abcd1111")
    assert [runs.read(folder).run_id for _ in range(2)] == ["abcd1111"] * 2
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder}/run.json: an earlier version wrote it without a checksum; whether it is damaged cannot be checked"
    ]


def test_a_file_that_is_not_as_the_run_left_it_is_refused(here, caplog):
    with open_record(CONFIG, here / "run") as record:
        killed = runs.read(here / "run")  # as a kill would leave it
        (here / "run" / "figures").mkdir()
        (here / "run" / "figures" / "a.csv").write_text("a")
        (here / "run" / "run.log").write_text("more is to come")
        assert record.folder == here / "run"
    run = runs.read(here / "run")
    assert sorted(run.info["files"]) == ["config.yaml", "figures/a.csv"]
    assert killed.info["files"] == {"config.yaml": run.info["files"]["config.yaml"]}
    assert run.config().seed == 0
    assert not caplog.records
    text = (here / "run" / "config.yaml").read_text()
    (here / "run" / "config.yaml").write_text(text.replace("seed: 0\n", "seed: 1\n"))
    with pytest.raises(RequestError, match=r"run/config\.yaml: edited since .*seed=1 \(the run had 0\)"):
        run.config()
    (here / "run" / "config.yaml").write_text("- 1\n")
    with pytest.raises(RequestError, match=r"run/config\.yaml: damaged, it is no config of a run"):
        run.config()
    assert run.path("figures/a.csv").read_text() == "a"
    (here / "run" / "figures" / "a.csv").write_text("b")
    with pytest.raises(RequestError, match=r"figures/a\.csv: not as the run left it.*put the run's own file back"):
        run.path("figures/a.csv")


def test_what_a_run_did_not_leave_is_named(here):
    run = runs.read(make(here / "runs" / "a", "abcd1111"))
    with pytest.raises(RequestError, match=r"left no weights.pt"):
        run.path("weights.pt")


def test_the_newest_come_first(here):
    make(here / "runs" / "a", "1", started="2026-01-01T00:00:00.000+00:00")
    make(here / "runs" / "b", "2", started="2026-01-02T00:00:00.000+00:00")
    assert [run.run_id for run in runs.scan("runs")] == ["2", "1"]


def test_a_run_elsewhere_is_found_through_the_store(here, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    config = {"seed": 0, "method": {"name": "bptt"}, "tracking": {"experiment": "trial"}}
    with open_record(config, here / "elsewhere" / "run") as record:
        run_id = record.run_id
    assert runs.find(run_id[:8]).folder == (here / "elsewhere" / "run").resolve()
    shutil.rmtree(here / "elsewhere")
    with pytest.raises(RequestError, match="is gone; name the folder"):
        runs.find(run_id[:8])


@pytest.mark.parametrize(
    "damage",
    [lambda held: held[1:], lambda held: held[:2], lambda held: [], lambda held: held + held, lambda held: held[::-1]],
    ids=["the first", "the last", "all", "twice", "backwards"],
)
def test_lost_and_doubled_lines_of_metrics_are_noticed(here, caplog, damage):
    """Each line has a checksum, and none of them says how many there should be."""
    with open_record(CONFIG, here / "run") as record:
        for step in (1, 2, 3):
            record.log({"val/accuracy": step / 4}, step)
    run = runs.read(here / "run")
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    assert not caplog.records
    path = here / "run" / "metrics.jsonl"
    held = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage(held)))
    assert len(run.metrics()) == len(damage(held))
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: not as the run left it: lines are missing, doubled or changed; take it from a copy"
    ]


def test_what_an_extension_has_logged_is_no_damage(here, caplog):
    with open_record(CONFIG, here / "run") as record:
        record.log({"val/accuracy": 0.25}, 1)
    run = runs.read(here / "run")
    with (here / "run" / "metrics.jsonl").open("a") as file:
        file.write(json_line({"step": 2, "val/accuracy": 0.5}) + "\n")
    runs.Run(run.folder, run.info | {"extension": {"epochs": 2}}).metrics()
    assert not caplog.records
    run.metrics()
    assert len(caplog.records) == 1
