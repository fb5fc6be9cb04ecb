"""Records, configs and metrics that no run wrote: refused by name, or left out of a table with the reason."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.base.files import json_line, parse_json, write_json
from cil_spl.results import runs
from cil_spl.results.checked import check_info, load_config
from cil_spl.results.metrics import read_metrics

INFO = {
    "format": 2,
    "run_id": "a" * 32,
    "status": "finished",
    "started": "2026-01-01T00:00:00.000+00:00",
    "ended": "2026-01-01T00:01:00.000+00:00",
    "params": {"seed": 0, "trainer.epochs": 2, "name": None, "tracking.uri": None},
    "tags": {"backend": "simulator"},
    "metrics": {"deployed/accuracy": 0.5},
    "row": {"method": "bptt", "seed": 0, "deployed/accuracy": 0.5, "n": 10},
    "warnings": ["text"],
    "error": None,
    "files": {"config.yaml": "0" * 64},
    "former_run_ids": ["b" * 32],
    "extension": {"epochs": 5, "began": "2026-01-01T00:00:00.000+00:00"},
}
ODD = {
    "no UTF-8": (b'{"format": 2, "a": "\xff"}', "not UTF-8 from byte 20 on"),
    "cut off": (b'{"format": 2, "a"', "Expecting"),
    "nested": (b'{"a": ' + b"[" * 100_000, "nested too deep"),
    "a key twice": (b'{"format": 2, "format": 2}', "the key 'format' stands twice"),
    "a list": (b"[1]", "a list in place of a mapping"),
    "many digits": (b'{"a": ' + b"9" * 400 + b"}", "has 400 digits"),
    "half a character": (b'{"a": "\\ud800"}', "half a character"),
    "empty": (b"", "Expecting value"),
}


@pytest.mark.parametrize("name", ODD)
def test_json_that_we_do_not_write_is_refused_with_the_reason(name):
    content, reason = ODD[name]
    with pytest.raises(ValueError, match=reason):
        parse_json(content)


@given(st.binary(max_size=200))
def test_no_bytes_make_another_error(content):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_json(content), dict)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", "gone"),
        ("status", ["finished"]),
        ("started", "yesterday"),
        ("started", "0001-01-01"),
        ("started", None),
        ("ended", "2026-13-45"),
        ("ended", 5),
        ("params", []),
        ("params.tracking.uri", {}),
        ("params.trainer.epochs", "2"),
        ("params.trainer.epochs", True),
        ("params.name", ["a"]),
        ("tags.backend", 5),
        ("metrics.deployed/accuracy", "0.5"),
        ("metrics.deployed/accuracy", float("nan")),
        ("metrics.deployed/accuracy", 10**200),
        ("row.deployed/accuracy", True),
        ("row.n", 1e308),
        ("row.method", {"a": 1}),
        ("row.seed", [0]),
        ("warnings", {"a": 1}),
        ("warnings.0", 5),
        ("files.config.yaml", None),
        ("former_run_ids.0", None),
        ("extension", [1]),
        ("extension.epochs", "5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(tmp_path, path, value):
    info = copy.deepcopy(INFO)
    check_info(info, tmp_path / "run.json")
    key, _, name = path.partition(".")
    if not name:
        info[key] = value
    else:
        info[key][int(name) if isinstance(info[key], list) else name] = value
    with pytest.raises(RequestError, match="not the record of a run, or changed since") as caught:
        check_info(info, tmp_path / "run.json")
    assert str(caught.value).startswith(f"{tmp_path}/run.json: {path}=")


@pytest.mark.parametrize("key", ["run_id", "status", "started"])
def test_a_missing_key_is_named(tmp_path, key):
    info = {k: v for k, v in INFO.items() if k != key}
    with pytest.raises(RequestError, match=f"{key} is missing"):
        check_info(info, tmp_path / "run.json")


def test_bad_records_are_left_out_each_with_its_reason(tmp_path, caplog):
    (tmp_path / "good").mkdir()
    write_json(tmp_path / "good" / "run.json", INFO)
    for number, (content, _) in enumerate(ODD.values()):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_bytes(content)
    (tmp_path / "folder" / "run.json").mkdir(parents=True)
    assert [run.folder.name for run in runs.scan(tmp_path)] == ["good"]
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 8  # an empty file is that of a run which begins
    assert f"left out: {tmp_path}/0/run.json: not the record of a run (not UTF-8 from byte 20 on)" in said
    assert any("folder/run.json: cannot be read (Is a directory)" in text for text in said)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"[" * 100_000, "nested too deep"),
        (b"a: \xff\n", "not UTF-8"),
        (b"a: !!bool x\n", "x"),
        (b"a: !!int ''\n", "index|empty|invalid"),
        (b"a: !!timestamp x\n", "NoneType"),
        (b"a: 1\na: 2\n", "duplicate"),
        (b"a" * (1 << 21), "more than 1 MiB"),
        (b"? [a]\n: 1\n", "key"),
    ],
)
def test_yaml_that_no_run_writes_is_refused_at_once(tmp_path, text, reason):
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=reason):
        load_config(tmp_path / "config.yaml")


@given(st.binary(max_size=100))
def test_no_bytes_make_another_error_of_a_config(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ValueError, OSError):
        load_config(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": -1},
        {"step": "0"},
        {"step": True},
        {"step": 10**30},
        {"x": "1"},
        {"x": [1]},
        {"x": True},
        {"x": float("nan")},
        {"time": "now"},
        {"time": 5},
    ],
)
def test_a_line_that_no_run_logged_is_left_out(tmp_path, caplog, change):
    good = {"step": 0, "time": INFO["started"], "x": 0.5}
    lines = [json_line(good), json_line({**good, **change})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_metrics(tmp_path) == [good]
    assert [r.getMessage() for r in caplog.records] == [f"{tmp_path}/metrics.jsonl: damaged lines are left out: 2"]


def test_a_line_that_lost_its_checksum_is_left_out(tmp_path, caplog):
    good = {"step": 0, "x": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json_line(good) + "\n" + json.dumps({"step": 1, "x": 0.75}) + "\n")
    assert read_metrics(tmp_path) == [good]
    assert "damaged lines are left out: 2" in caplog.text


def test_metrics_that_are_a_folder_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RequestError, match=r"metrics\.jsonl: cannot be read \(Is a directory\)"):
        read_metrics(tmp_path)
