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
from cil_spl.training.checkpoints import read_checkpoint, write_checkpoint

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
