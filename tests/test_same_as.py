"""The gate of tests/same_as.py: it passes between this tree and an earlier commit, and it can fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "1a37066"  # the layout before modules moved into rooms

_spec = importlib.util.spec_from_file_location("same_as", ROOT / "tests" / "same_as.py")
assert _spec is not None
assert _spec.loader is not None
same_as = importlib.util.module_from_spec(_spec)
sys.modules["same_as"] = same_as  # dataclasses look their module up
_spec.loader.exec_module(same_as)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_methods_compute_what_they_did_before(shared: Path) -> None:
    """On the embedded digits and on real ones: metrics, weights and chip networks, to the last bit."""
    known = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True)
    if known.returncode:
        pytest.skip(f"needs the git history back to {BEFORE}")
    results = same_as.same_as(BEFORE)
    assert [result.case for result in results] == list(same_as.CASES)
    assert [words for result in results for words in result.differences] == []


def test_a_commit_that_does_not_exist_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert same_as.main(["0000000", "--cases", "event_digits/bptt"]) == 2
    assert "no such commit" in capsys.readouterr().err


def run_folder(folder: Path, *, weight: float = 1.5, lines: tuple[dict[str, Any], ...] = ({"step": 1},)) -> Path:
    """What a run leaves, as far as it is compared."""
    folder.mkdir()
    torch.save({"format": 1, "weights": {"conv1.weight": torch.tensor([1.0, weight])}}, folder / "weights.pt")
    header = {"kind": "any", "format": 1, "layers": [{"name": "conv1", "scale": 2.5}]}
    np.savez(folder / "chip.npz", header=np.array(json.dumps(header)), weight_0=np.array([[3]], np.int8))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"metrics": {"deployed/accuracy": 0.5}}))
    return folder


def test_the_same_run_in_another_format_is_equal(tmp_path: Path) -> None:
    """Times, file formats and what is new are no differences; a loss average is reported."""
    first = {"step": 1, "time": "noon", "train/loss": 0.25, "train/epoch_seconds": 1.0}
    before = run_folder(tmp_path / "before", lines=(first,))
    now = run_folder(
        tmp_path / "now", lines=({**first, "time": "night", "crc": "1f", "train/epoch_seconds": 2.0, "new": 1.0},)
    )
    torch.save({"format": 2, "content": {"net": torch.load(before / "weights.pt")["weights"]}}, now / "weights.pt")
    result = same_as.compare("a/b", before, now)
    assert result.differences == []
    assert result.counts == {"weights.pt": 1, "chip.npz": 1, "chip.npz header": 2, "metrics": 3}
    assert result.notes == ["metrics: new: line 1 new"]
    run_folder(tmp_path / "loss", lines=({**first, "train/loss": 0.5},))
    result = same_as.compare("a/b", before, tmp_path / "loss")
    assert (result.differences, result.notes) == ([], ["metrics: line 1 train/loss: 0.25 → 0.5"])


def broken_weight(folder: Path) -> None:
    torch.save(
        {"weights": {"conv1.weight": torch.tensor([1.0, np.nextafter(np.float32(1.5), 2)])}}, folder / "weights.pt"
    )


def lost_weight(folder: Path) -> None:
    torch.save({"weights": {"conv1.other": torch.tensor([1.0, 1.5])}}, folder / "weights.pt")


def other_chip(folder: Path) -> None:
    file = dict(np.load(folder / "chip.npz"))
    np.savez(folder / "chip.npz", **{**file, "weight_0": np.array([[4]], np.int8)})


def other_type(folder: Path) -> None:
    file = dict(np.load(folder / "chip.npz"))
    np.savez(folder / "chip.npz", **{**file, "weight_0": file["weight_0"].astype(np.int16)})


def other_scale(folder: Path) -> None:
    file = dict(np.load(folder / "chip.npz"))
    header = json.loads(str(file["header"]))
    header["layers"][0]["scale"] = 2.5000000000000004
    np.savez(folder / "chip.npz", **{**file, "header": np.array(json.dumps(header))})


def other_line(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 2}\n')


def lost_line(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("")


def other_end(folder: Path) -> None:
    (folder / "run.json").write_text('{"metrics": {"deployed/accuracy": 0.5000000000000001}}')


def lost_file(folder: Path) -> None:
    (folder / "weights.pt").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken_weight, "weights.pt: conv1.weight: 1 of 2 values differ, by up to 1.19e-07"),
        (lost_weight, "weights.pt: conv1.weight is missing"),
        (other_chip, "chip.npz: weight_0: 1 of 1 values differ, by up to 1"),
        (other_type, "chip.npz: weight_0: int8 (1, 1) → int16 (1, 1)"),
        (other_scale, "chip.npz header: layers.0.scale: 2.5 → 2.5000000000000004"),
        (other_line, "metrics: line 1 step: 1 → 2"),
        (lost_line, "metrics: line 1 step is missing"),
        (other_end, "metrics: final deployed/accuracy: 0.5 → 0.5000000000000001"),
        (lost_file, "cannot be read: FileNotFoundError"),
    ],
)
def test_the_smallest_change_is_a_difference(change: Any, words: str, tmp_path: Path) -> None:
    before, now = run_folder(tmp_path / "before"), run_folder(tmp_path / "now")
    assert same_as.compare("a/b", before, now).differences == []
    change(now)
    (found,) = same_as.compare("a/b", before, now).differences
    assert found.startswith(words)


@pytest.mark.parametrize(
    ("differences", "code", "verdict"),
    [([], 0, "all 1 cases equal"), (["metrics: final n: 1 → 2"], 1, "1 of 1 cases differ")],
)
def test_the_exit_code_and_the_list(
    differences: list[str], code: int, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [same_as.Compared("event_digits/bptt", {"metrics": 3}, differences, ["metrics: new: n"])]
    monkeypatch.setattr(same_as, "same_as", lambda *_: found)
    assert same_as.main(["HEAD", "--cases", "event_digits/bptt"]) == code
    out = capsys.readouterr().out
    assert verdict in out
    assert "event_digits/bptt: no difference, but: metrics: new: n" in out
    assert all(f"event_digits/bptt: {words}" in out for words in differences)


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        same_as.main(["HEAD", "--cases", "tandem"])
    assert ended.value.code == 2
    assert "no case is named tandem" in capsys.readouterr().err


def test_a_metric_by_its_new_name_is_compared(tmp_path: Path) -> None:
    before, now = (tmp_path / "before", tmp_path / "now")
    for folder, name, value in ((before, "float/synops/conv1", 3.0), (now, "float/macs/conv1", 3.0)):
        run_folder(folder)
        (folder / "run.json").write_text(json.dumps({"metrics": {name: value}}))
    assert same_as.compare("a/conversion", before, now).differences == []
    assert same_as.compare("a/bptt", before, now).differences == ["metrics: final float/synops/conv1 is missing"]
    (now / "run.json").write_text('{"metrics": {"float/macs/conv1": 4.0}}')
    (found,) = same_as.compare("a/conversion", before, now).differences
    assert found == "metrics: final float/synops/conv1: 3.0 → 4.0"
