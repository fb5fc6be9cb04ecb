"""A checkpoint comes back as it was written, or is refused: whole, unchanged, of a format that we know."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cil_spl.base.errors import RequestError
from cil_spl.training.checkpoints import check_weights, read_checkpoint, write_checkpoint

CONTENT = {"weights": {"0.weight": torch.arange(600.0).reshape(20, 30), "n": torch.tensor(3)}, "epoch": 4, "lr": [0.1]}


def test_a_checkpoint_comes_back_here_and_in_torch(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "x.pt"
    write_checkpoint(path, CONTENT)
    for content in (read_checkpoint(path), torch.load(path, weights_only=True)):
        assert content["format"] == 2
        assert content["epoch"] == 4
        assert content["lr"] == [0.1]
        assert torch.equal(content["weights"]["0.weight"], CONTENT["weights"]["0.weight"])
    assert zipfile.ZipFile(path).comment.startswith(b"cilspl 1 sha256 ")
    assert [p.name for p in path.parent.iterdir()] == ["x.pt"]


def test_no_flipped_bit_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    drawn = np.random.default_rng(0).choice(len(whole), 300, replace=False).tolist()
    for place in (*drawn, *range(len(whole) - 110, len(whole))):  # the archive's end and the checksum, each byte
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(RequestError, match=r"x\.pt: .*damaged"):
            read_checkpoint(path)
    assert not caplog.records


def test_one_without_a_checksum_is_read_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.pt"
    torch.save({"format": 1} | CONTENT, path)
    with caplog.at_level(logging.WARNING):
        assert [read_checkpoint(path)["epoch"] for _ in range(2)] == [4, 4]
    assert [r.getMessage() for r in caplog.records] == [
        f"{path}: an earlier version wrote it without a checksum; whether it is damaged cannot be checked"
    ]


def test_a_checksum_that_is_gone_is_damage(tmp_path: Path) -> None:
    torch.save({"format": 2} | CONTENT, tmp_path / "x.pt")
    with pytest.raises(RequestError, match=r"x\.pt: damaged or changed, .*take it from a copy, or run again"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_foreign_checkpoints_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"x\.pt: (no such file|not a checkpoint)"):
        read_checkpoint(path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "x.pt")
    with pytest.raises(RequestError, match="format 99; this version reads 1 to 2"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    write_checkpoint(path, {"a": 1})

    def full(_: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"a": 2})
    assert read_checkpoint(path)["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


# What a file without a checksum may hold


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def doubled(times: int) -> list[Any]:
    found: list[Any] = [0]
    for _ in range(times):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(10**13), "weights.a is no plain tensor that the file holds whole"),
        (torch.zeros(3, 3).to_sparse(), "weights.a is no plain tensor"),
        (torch.empty(3, device="meta"), "weights.a is no plain tensor"),
        (torch.zeros(3, dtype=torch.complex64), "weights.a is no plain tensor"),
        (1j, "weights.a is complex; needed are tensors, numbers and texts"),
        (b"x", "weights.a is bytes"),
        (nested(40), "is deeper, or the file larger, than what a run keeps"),
        (itself(), "is deeper, or the file larger"),
        (doubled(25), "is deeper, or the file larger"),
        (np.zeros(3), "not a checkpoint of cilspl, or damaged"),  # numpy's own way to unpickle is not allowed
        (Path("x"), "not a checkpoint of cilspl, or damaged"),
    ],
    ids=range(11),
)
def test_what_a_run_never_keeps_is_refused(value: Any, message: str, tmp_path: Path) -> None:
    torch.save({"format": 1, "weights": {"a": value}}, tmp_path / "x.pt")
    with pytest.raises(RequestError, match=rf"x\.pt: .*{message}"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [[1], 5, None, {"format": None}, {"format": "1"}, {"format": True}, {}])
def test_no_format_is_no_checkpoint(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(RequestError, match=r"x\.pt: not a checkpoint of cilspl"):
        read_checkpoint(tmp_path / "x.pt")


def test_packed_or_old_archives_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"format": 1} | CONTENT, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.infolist():
            content = whole.read(member)
            packed.writestr(member.filename, bytes(2**24) if member.filename.endswith("data/0") else content)
    torch.save({"format": 1} | CONTENT, tmp_path / "z.pt", _use_new_zipfile_serialization=False)
    for name in ("y.pt", "z.pt"):
        with pytest.raises(RequestError, match=rf"{name}: not a checkpoint of cilspl, or damaged"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conv1.weight": None}, r"weights: conv1\.weight is NoneType; needed is a tensor. Take the file from a copy"),
        ({"conv1.weight": [1.0]}, r"conv1\.weight is list"),
        ({3: torch.zeros(1)}, "3 is Tensor; needed is a tensor|3 is"),
        ({"a": torch.tensor([1.0, float("nan")])}, "weights: a holds nan; needed are finite numbers"),
        ({"a": torch.tensor(-float("inf"))}, "weights: a holds -inf"),
        ({"spike1.spike_threshold": torch.tensor(0.0)}, r"spike1\.spike_threshold is 0; thresholds must be above 0"),
    ],
    ids=range(6),
)
def test_odd_weights_are_named(weights: dict[Any, Any], message: str, tmp_path: Path) -> None:
    torch.save({"format": 1, "weights": weights}, tmp_path / "x.pt")
    content = read_checkpoint(tmp_path / "x.pt", "weights")
    with pytest.raises(RequestError, match=rf"x\.pt: .*({message})"):
        check_weights(tmp_path / "x.pt", content["weights"])


def test_a_small_input_that_failed(shared: Path) -> None:
    path = shared / "cases" / "chip" / "weights_none.pt"
    if not path.exists():
        pytest.skip("needs the small inputs that failed, in cases/ of the reference data")
    with pytest.raises(RequestError, match=r"weights_none\.pt: weights: conv1\.weight is NoneType"):
        check_weights(path, read_checkpoint(path, "weights")["weights"])
