"""What the README says to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cil_spl import cli

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


RUNS = re.findall(r"^    cilspl run (.*)$", README, re.M)


def test_a_model_of_ones_own_is_among_them() -> None:
    assert sum("model.layers=" in line for line in RUNS) == 3
    assert sum("model._target_=" in line for line in RUNS) == 1


@pytest.mark.parametrize("line", RUNS)
def test_every_run_is_valid(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("=DIR", "=data") for word in shlex.split(line, comments=True)]
    if "my_lab" in line or "resume=" in line:
        pytest.skip("needs the user's own module, or a run")
    assert cli.main(["validate", *words]) == 0, capsys.readouterr().err
