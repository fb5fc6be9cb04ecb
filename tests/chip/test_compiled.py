"""What is compiled and kept on disk is found again only while the text of every file is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cil_spl.base.sources import BASE
from cil_spl.chip.kernels import compiled

FOLDER = Path(compiled.__file__).parent


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.py")))
def test_a_change_of_any_file_changes_the_checksum(file: str, tmp_path: Path) -> None:
    for path in FOLDER.glob("*.py"):
        shutil.copy(path, tmp_path)
    assert compiled.text_of(tmp_path) == compiled.text_of(FOLDER)
    (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
    assert compiled.text_of(tmp_path) != compiled.text_of(FOLDER)


@pytest.mark.parametrize("kernel", [compiled.chain, compiled.depth_first])
def test_the_checksum_belongs_to_the_key(kernel) -> None:  # type: ignore[no-untyped-def]
    key = [cell.cell_contents for cell in kernel.py_func.__closure__]  # what numba makes its key of
    assert key == [compiled.text_of(FOLDER, BASE / "threads.py", BASE / "bits.py")]
