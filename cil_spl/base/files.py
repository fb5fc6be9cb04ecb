"""Files that are written whole or not at all, and that say whether they are what was written.

A reader sees the old file or the new one, never a part: a file is written under a temporary name beside its own and
then renamed. What a killed process leaves is hidden, read by nobody, and removed by a later write of the same file.

A JSON file carries the SHA-256 of its content as its last key, each line of a JSONL file a CRC-32 of its own. A zip
archive (``weights.pt``, ``chip.npz``) carries the SHA-256 of its bytes in the archive's comment, where torch and numpy
take no notice of it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cil_spl.base.errors import RequestError

DIGEST, LINE_DIGEST = "sha256", "crc"  # the keys in a JSON file and in a line of one
_LEFT_AFTER_S = 3600  # no write takes as long
_LARGEST_JSON = 1 << 26  # bytes; what we write is a thousandth of it
_SEAL = b"cilspl 1 sha256 %s"
_SEAL_BYTES = len(_SEAL % bytes(64))
_END = re.compile(rb"PK\x05\x06.{16}\x00\x00", re.DOTALL)  # of an archive without a comment; its length comes last
_log = logging.getLogger(__name__)
_warned: set[str] = set()


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """A file, open for reading and writing, that takes the place of ``path`` when the block ends without an error."""
    _remove_left(path)
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with new.open("x+b") as file:  # made with the rights that the umask leaves
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _LEFT_AFTER_S:
                left.unlink()


def reserve(path: Path, n: int) -> None:
    """Take room on the disk, in bytes, that removing the file gives back; nothing that a file system could leave out.

    Raises:
        OSError: there is not so much room.
    """
    with write_whole(path) as file:
        file.write(os.urandom(n))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with write_whole(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, with the digest of its content."""
    content = json.loads(json.dumps({k: v for k, v in value.items() if k != DIGEST}, default=str))
    write_text(path, json.dumps(content | {DIGEST: digest_of(content)}, indent=1, ensure_ascii=False) + "\n")


def read_checked(path: Path) -> tuple[dict[str, Any], bool]:
    """What :func:`write_json` wrote, and whether a digest was there to check it by.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        ValueError: no JSON, or no mapping.
        RequestError: the digest is not that of the content.
    """
    with path.open("rb") as file:
        text = file.read(_LARGEST_JSON + 1)  # a device or a pipe says nothing of its size
    if len(text) > _LARGEST_JSON:
        raise ValueError(f"more than {_LARGEST_JSON >> 20} MiB")
    content = parse_json(text)
    digest = content.pop(DIGEST, None)
    if digest is not None and digest != digest_of(content):
        raise damaged(path)
    return content, digest is not None


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON mapping as we write one: UTF-8, every key once.

    Raises:
        ValueError: it is another text; says what is wrong, and where.
    """
    try:
        content = json.loads(text.decode(), object_pairs_hook=_each_key_once, parse_int=_fitting_int)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 from byte {error.start} on") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if b"\\ud" in text.lower() and not _is_text(content):
        raise ValueError("half a character (a lone surrogate) in a text")
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} in place of a mapping")
    return content


def _is_text(value: Any) -> bool:
    """Whether all its texts can be written and printed."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return found


def _fitting_int(text: str) -> int:
    if len(text) > 300:  # no float either
        raise ValueError(f"the number {text[:20]}… has {len(text)} digits")
    return int(text)


def digest_of(value: Any) -> str:
    """SHA-256 of plain values, whatever their order and spacing in a file."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def json_line(value: Mapping[str, Any]) -> str:
    """A line of a JSONL file, with the CRC-32 of its content."""
    content = json.loads(json.dumps(value))
    return json.dumps(content | {LINE_DIGEST: f"{zlib.crc32(_canonical(content)):08x}"})


def read_json_line(line: bytes) -> tuple[dict[str, Any], bool]:
    """What :func:`json_line` wrote, and whether there was a CRC to check it by.

    Raises:
        ValueError: damaged.
    """
    content = parse_json(line)
    crc = content.pop(LINE_DIGEST, None)
    if crc is not None and crc != f"{zlib.crc32(_canonical(content)):08x}":
        raise ValueError("its content does not fit its checksum")
    return content, crc is not None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a zip archive whole or not at all, with the digest of its bytes as its comment.

    Args:
        write: writes an archive without a comment into the file that it is given.
    """
    with write_whole(path) as file:
        write(file)
        file.seek(-22, os.SEEK_END)
        if not _END.fullmatch(file.read()):
            raise ValueError(f"{path}: what was written is no zip archive without a comment")
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.seek(0)
        file.write(seal_of(file.read()))


def seal_of(content: bytes) -> bytes:
    """What :func:`read_sealed` looks for at the end of a file, for formats that take no notice of what follows them."""
    return _SEAL % hashlib.sha256(content).hexdigest().encode()


def read_sealed(path: Path) -> tuple[bytes, bool]:
    """The bytes of an archive, and whether a digest was there to check them by.

    Raises:
        OSError: it cannot be read.
        RequestError: the digest is not that of the bytes.
    """
    content = path.read_bytes()
    archive, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
    if not seal.startswith(_SEAL % b""):
        return content, False
    if seal != seal_of(archive):
        raise damaged(path)
    return content, True


def damaged(path: Path) -> RequestError:
    return RequestError(
        f"{path}: damaged or changed, its content does not fit its checksum; take it from a copy, or run again"
    )


def without_checksum(path: Path, version: Any, first: int) -> None:
    """Accept a file without a checksum, with a warning, if it is of a format that had none.

    Args:
        version: of the file.
        first: the first version with a checksum.

    Raises:
        RequestError: it is of a later one.
    """
    if version >= first:
        raise damaged(path)
    warn_once(unchecked(path))


def unchecked(path: Path) -> str:
    return f"{path}: an earlier version wrote it without a checksum; whether it is damaged cannot be checked"


def warn_once(text: str) -> None:
    """Log a warning; the same words once in a process."""
    if text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)
