"""Where a table's runs come from: folders, files of rows, and both at once."""

from __future__ import annotations

import json

import pytest

from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.results import places, same, table
from tests.results.test_table import run


def info(seed=0, **given):
    made = {"format": 2, "started": f"2026-01-0{seed + 1}", **run(seed), "run_id": f"{seed:032x}"}
    return made | given


def folder_of(path, one):
    path.mkdir(parents=True)
    write_json(path / "run.json", one)
    return path


def test_rows_come_back_as_they_were(tmp_path):
    write_json(tmp_path / "rows.json", {"format": 1, "runs": [info(0), info(1)]})
    assert same.read_rows(tmp_path / "rows.json") == [info(0), info(1)]
    assert [one["run_id"] for one in places.gather([str(tmp_path / "rows.json")])] == [
        info(1)["run_id"],
        info(0)["run_id"],
    ]


def test_records_copied_as_they_are_and_written_by_hand_will_do(tmp_path, caplog):
    folder_of(tmp_path / "run", info(0))
    copied = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "sha256" in copied
    (tmp_path / "some.json").write_text(json.dumps({"format": 1, "runs": [copied, info(1)]}))
    assert len(places.gather([str(tmp_path / "some.json")])) == 2
    assert "rows without a checksum" in caplog.text


def test_several_places_and_all_that_lies_below(tmp_path):
    folder_of(tmp_path / "a" / "deep" / "one", info(0))
    (tmp_path / "b" / "results").mkdir(parents=True)
    write_json(tmp_path / "b" / "results" / "table.json", {"format": 1, "runs": [info(1)]})
    write_json(tmp_path / "b" / "rows.json", {"format": 1, "runs": [info(2)]})
    (tmp_path / "b" / "results" / "foreign.json").write_text('{"a": 1}')
    (tmp_path / "b" / "other.json").write_text("x")
    found = places.gather([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [one["row"]["seed"] for one in found] == [2, 1, 0]
    assert table.tabulate(found).rows[0].seeds == ("0", "1", "2")


@pytest.mark.parametrize("run_id", [None, "a" * 32])
def test_a_run_that_is_found_twice_counts_once_and_with_its_folder(tmp_path, run_id):
    one = info(0, run_id="a" * 32)
    folder = folder_of(tmp_path / "sweep" / "0", one)
    one["run_id"] = run_id  # which committed rows leave out
    write_json(tmp_path / "rows.json", {"format": 1, "runs": [one, info(1)]})
    for named in ([str(tmp_path)], [str(tmp_path / "rows.json"), str(tmp_path / "sweep")]):
        found = places.gather(named)
        assert [one["row"]["seed"] for one in found] == [1, 0]
        assert found[1]["folder"] == str(folder)
        assert not any(note.startswith("left out") for note in table.tabulate(found).notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no file of rows"),
        ("[]", "no file of rows"),
        ("{}", "no file of rows"),
        ('{"format": 1, "runs": {}}', "no file of rows"),
        ('{"format": 2, "runs": []}', "format 2, this version reads 1"),
        ('{"format": true, "runs": []}', "format True"),
        ('{"format": 1, "runs": [3]}', "runs.0 is not the record of a run"),
        ('{"format": 1, "runs": [{}]}', "run_id is missing"),
        ('{"format": 1, "runs": [{"run_id": 1, "status": "finished", "started": ""}]}', "run_id=1"),
        ('{"format": 1, "runs": [{"run_id": null, "status": "done", "started": ""}]}', "status=done"),
        ('{"format": 1, "runs": [], "sha256": "0"}', "does not fit its checksum"),
        ('{"format": 1, "runs": [{"run_id": null, "sha256": "0"}]}', "does not fit its checksum"),
        ("[" * 100_000, "no file of rows"),
        ("\xff", "no file of rows"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "rows.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RequestError, match=message) as refused:
        places.gather([str(path)])
    assert str(path) in str(refused.value)


def test_below_a_folder_damaged_ones_are_left_out_and_counted(tmp_path, caplog):
    write_json(tmp_path / "rows.json", {"format": 1, "runs": [info(0)]})
    (tmp_path / "results").mkdir()
    write_json(tmp_path / "results" / "a.json", {"format": 1, "runs": [info(1)]})
    text = (tmp_path / "results" / "a.json").read_text()
    (tmp_path / "results" / "b.json").write_text(text.replace('"seed": 1', '"seed": 2'))
    assert len(places.gather([str(tmp_path)])) == 2
    assert "left out 1 damaged or foreign files of rows" in caplog.text


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(RequestError, match="--from nowhere: no such folder or file"):
        places.gather([str(tmp_path), "nowhere"])


def test_a_file_of_rows_names_no_folder_to_read(tmp_path):
    write_json(tmp_path / "rows.json", {"format": 1, "runs": [info(0, folder="/etc")]})
    assert "folder" not in places.gather([str(tmp_path / "rows.json")])[0]
