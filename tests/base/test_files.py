"""Files are there whole or not at all, and a changed one is found out."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from cil_spl.base import files
from cil_spl.base.errors import RequestError
from cil_spl.base.files import digest_of, read_checked, read_sealed, write_json, write_sealed, write_text, write_whole

VALUE = {"b": [1, 2.5, None], "a": {"accuracy": 0.1, "name": "é", "nan": float("nan")}, "none": {}}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def interrupted() -> None:
        with write_whole(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_record_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_checked(path) == ({"a": 1}, True)
    assert names(tmp_path) == ["run.json"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with write_whole(tmp_path / "a") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"


def test_the_umask_is_respected(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


KILLED = """
import os, sys
from pathlib import Path
from cil_spl.base.files import write_whole
with write_whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_leaves_is_hidden_and_later_removed(tmp_path: Path) -> None:
    path = tmp_path / "a[1]"
    write_text(path, "old")
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert path.read_text() == "old"
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert left.name.startswith(".")
    write_text(path, "new")  # it could be that of a process that still writes
    assert path.read_text() == "new"
    assert left.exists()
    os.utime(left, (time.time() - 7200,) * 2)
    write_text(tmp_path / "b", "another file")
    assert left.exists()
    write_text(path, "newer")
    assert names(tmp_path) == ["a[1]", "b"]


def test_json_comes_back_and_its_order_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, VALUE | {"path": Path("/x")})
    content, checked = read_checked(path)
    assert checked
    assert json.dumps(content) == json.dumps(VALUE | {"path": "/x"})
    write_json(path, json.loads(path.read_text()))  # the digest is made anew, not nested
    assert read_checked(path)[0]["path"] == "/x"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_checked(path)[1]


def test_no_flipped_bit_changes_what_json_says(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, VALUE)
    content, _ = read_checked(path)
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found, checked = read_checked(path)
        except (RequestError, ValueError):
            refused += 1
            continue
        if checked:  # a space that became something else
            assert json.dumps(found) == json.dumps(content)
        else:  # the key of the digest was hit, which the format of the file tells
            assert len(found) == len(content) + 1
    assert refused > 7 * len(whole)


def test_a_changed_value_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 0.1})
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(RequestError, match=r"a\.json: damaged or changed, .*take it from a copy, or run again"):
        read_checked(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3"])
def test_what_is_no_mapping_is_no_json_of_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"Expecting|in place of a mapping"):
        read_checked(tmp_path / "a.json")


def archive(file: BinaryIO) -> None:
    np.savez(file, a=np.arange(3))


def test_a_sealed_archive_is_still_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_sealed(path, archive)
    assert np.load(path)["a"].tolist() == [0, 1, 2]
    assert zipfile.ZipFile(path).testzip() is None
    content, checked = read_sealed(path)
    assert (content, checked) == (path.read_bytes(), True)
    np.savez(path, a=np.arange(3))
    assert read_sealed(path) == (path.read_bytes(), False)


def test_only_an_archive_can_be_sealed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no zip archive"):
        write_sealed(tmp_path / "a", lambda file: file.write(bytes(100)))
    assert names(tmp_path) == []


def test_digests_are_those_of_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_digest(tmp_path / "a") == abc
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of the two characters {}
    assert digest_of({}) == empty
