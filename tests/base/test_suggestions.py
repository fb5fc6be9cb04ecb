"""What was meant, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cil_spl.base.suggestions import close, nearest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("word", "cutoff", "meant"),
    [("methd", 0.6, "method"), ("method", 1.0, "method"), ("methd", 1.0, None), ("xyz", 0.6, None), ("", 0.6, None)],
)
def test_the_closest_word(word: str, cutoff: float, meant: str | None) -> None:
    assert close(word, {"model": 1, "method": 2}, cutoff) == meant


def test_how_a_message_ends() -> None:
    assert nearest("lrr", ["lr", "loss"]) == "did you mean lr? allowed are lr, loss"
    assert nearest("lrr", ["lr", "loss"], "method") == "did you mean method.lr? allowed are lr, loss"
    assert nearest("q", iter(["lr", "loss"])) == "allowed are lr, loss"


def test_nobody_else_guesses() -> None:
    files = [*ROOT.glob("cil_spl/**/*.py"), *ROOT.glob("cli/**/*.py")]
    assert [f.name for f in files if re.search(r"\bdifflib\b", f.read_text(encoding="utf-8"))] == ["suggestions.py"]
