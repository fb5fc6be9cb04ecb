"""``cilspl chip`` as a person calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cil_spl.chip.interchange import save
from cil_spl.chip.network import ChipLayer, ChipNetwork
from cil_spl.cli import main


def test_verify_prints_the_agreement_with_the_real_chip(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chip", "verify", str(shared / "data/speck2f"), str(shared / "data/NMNIST")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    exact = next(line for line in lines if "Test/1/" in line)
    assert exact.split()[-4:] == ["0.00", "%", "100.00", "%"]
    total = lines[-1].split()
    assert float(total[3]) <= 1.0
    assert float(total[5]) > 97


def test_show_prints_what_the_cores_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = ChipLayer("out", np.ones((3, 2, 4, 4), np.int8), (1, 1), (0, 0), (2, 4, 4), 10, -10)
    save(ChipNetwork((layer,), (2, 4, 4)), tmp_path / "chip.npz")
    assert main(["chip", "show", str(tmp_path / "chip.npz")]) == 0
    assert "2 -> 3, 4 x 4" in capsys.readouterr().out


def test_missing_answers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chip", "verify", str(tmp_path), str(tmp_path)]) == 2
    assert "cnn_sinabs.nir: no such file" in capsys.readouterr().err
