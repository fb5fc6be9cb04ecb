"""Recordings and samples kept on disk: made once, found again by everything they were made from.

A cached set is a folder named by the hash of its key. It is written under another name and renamed when complete, so
that a reader sees all of it or nothing; a lock lets runs that start together make it once. Events and values are
memory-mapped: runs side by side share them. Every file's checksum is compared once in a process; a damaged set is made
anew.

The folder is ``$CILSPL_CACHE`` or the user's cache folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base import places
from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_checked, write_json
from cil_spl.data.events import EVENT, Data, Recordings, Splits, check_recordings
from cil_spl.data.pictures import Pictures
from cil_spl.data.samples import Samples, check_samples

log = logging.getLogger(__name__)

FORMAT = 1  # of the files below; another number makes everything anew
_ARRAYS = ("events", "start", "stop", "target", "name", "origin")
_OF_SAMPLES = ("values", "target", "name", "origin")
_CHUNK = 1 << 22  # bytes
_verified: dict[Path, tuple[int, int, int, str]] = {}  # inode, size, mtime and CRC-32 of files that were compared


class _Damaged(Exception):
    """Why a set in the cache is not taken."""


def folder() -> Path:
    """Where cached sets lie; it need not exist yet."""
    return places.cache_folder()


def fingerprint(sources: Iterable[Path]) -> str:
    """A hash of the names, sizes and modification times of files and of all files in folders; absent ones count too.

    Contents are not read: that would take as long as making the set.
    """
    digest = hashlib.sha256()
    for source in sources:
        files = [source]
        if source.is_dir():
            # os.walk, not rglob: tens of thousands of files in a second.
            files = sorted(Path(where, name) for where, _, names in os.walk(source) for name in names)
        for file in files:
            size, mtime = -1, -1
            if file.exists():
                stat = file.stat()
                size, mtime = stat.st_size, stat.st_mtime_ns
            digest.update(json.dumps([str(file.absolute()), size, mtime]).encode())
    return digest.hexdigest()


def code_fingerprint(*modules: str) -> str:
    """A hash of the source text of modules of this package's data folder, so that changed code makes sets anew."""
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()


def load_or_make(key: Mapping[str, Any], make: Callable[[], Mapping[str, Data]]) -> dict[str, Any]:
    """The sets of recordings or samples that belong to ``key``, from the cache, or made and kept there.

    Args:
        key: everything that the result depends on, as plain values; any change makes another set.
        make: makes them, by name. Called only where they are not in the cache yet. What it raises goes through, and
            nothing is kept.

    Returns:
        Sets by name, each of the kind that was made, with read-only, memory-mapped events or values.

    Raises:
        RequestError: the cache folder cannot be written, or is full.
    """
    import filelock

    text = json.dumps({"format": FORMAT, **key}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:40]
    entry = folder() / digest
    with suppress(_Damaged):
        found = _load(entry)
        if found is not None:
            return found
    try:
        (folder() / "locks").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder() / "locks" / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("another process is making the same data set; waiting for it")
            lock.acquire()
    except OSError as error:
        raise _unwritable(error) from error
    try:
        try:
            found = _load(entry)  # the process that held the lock may have made it
        except _Damaged as damage:
            log.warning("cached data set %s: %s; it is made anew", entry, damage)
            found = None
        if found is None:
            _sweep(digest)
            log.info("data set %s: it is prepared now, and kept for later runs", key.get("dataset", "as pre-processed"))
            _store(make(), entry, json.loads(text))
            found = _load(entry)
    finally:
        lock.release()
    assert found is not None, f"{entry} was written and cannot be read"
    return found


def splits(key: Mapping[str, Any], sources: Iterable[Path], code: Iterable[str], make: Callable[[], Any]) -> Splits:
    """Training and test set of a data set through the cache; the validation set is left to ``datasets.load``.

    Args:
        key: the data set's name and settings.
        sources: files and folders that it is read from.
        code: modules of this folder that make it.
        make: gives the two, or a dictionary with ``train`` and ``test``.
    """

    def sets() -> dict[str, Data]:
        made = make()
        return made if isinstance(made, dict) else dict(zip(("train", "test"), made, strict=True))

    full = {**key, "sources": fingerprint(sources), "code": code_fingerprint("events", "fields", "labels", *code)}
    kept = load_or_make(full, sets)
    return Splits(kept["train"], kept["train"].subset([]), kept["test"])


def identity(data: Data) -> str | None:
    """What tells these recordings or samples from all other cached ones; None where they are not from the cache."""
    return _identity_of_samples(data) if isinstance(data, Samples) else _identity(data)


def _identity_of_samples(samples: Samples) -> str | None:
    if not isinstance(samples.values, np.memmap) or samples.values.filename is None:
        return None
    told = (samples.values.filename, samples.classes, samples.scale, samples.shift)
    digest = hashlib.sha256("|".join(map(str, told)).encode())
    for array in (samples.target, samples.name, samples.origin, samples.rows, samples.order):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _identity(recordings: Recordings) -> str | None:
    if not isinstance(recordings.events, np.memmap) or recordings.events.filename is None:
        return None
    digest = hashlib.sha256(f"{recordings.events.filename}|{recordings.sensor_size}|{recordings.classes}".encode())
    for field in _ARRAYS[1:]:
        digest.update(np.ascontiguousarray(getattr(recordings, field)).tobytes())
    return digest.hexdigest()


def contents(data: Data) -> str:
    """A hash of these recordings or samples themselves: the same on every machine, wherever their files lie."""
    if isinstance(data, Samples):
        told, large = f"{data.classes}|{data.scale}|{data.shift}", data.values
        arrays = (data.target, data.name, data.origin, data.rows, data.order)
    else:
        told, large = f"{data.classes}|{data.sensor_size}", data.events
        arrays = (data.target, data.name, data.origin, data.start, data.stop)
    kept = Path(large.filename) if isinstance(large, np.memmap) and large.filename is not None else None
    if isinstance(large, Pictures):
        crc = large.digest()
    else:
        crc = _verified[kept][3] if kept in _verified else f"{zlib.crc32(np.ascontiguousarray(large).data):08x}"
    digest = hashlib.sha256(f"{told}|{large.shape}|{crc}".encode())
    for array in arrays:
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def size() -> int:
    """Bytes in the cache."""
    return sum(f.stat().st_size for f in folder().rglob("*") if f.is_file()) if folder().is_dir() else 0


def clear() -> int:
    """Remove every cached set but those being made right now; returns how many bytes that freed."""
    import filelock

    before = size()
    digests = {p.name.removeprefix(".half-")[:40] for p in folder().glob("*") if p.name != "locks"}
    for digest in sorted(digests):
        lock = filelock.FileLock(folder() / "locks" / f"{digest}.lock")
        (folder() / "locks").mkdir(exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        try:
            if (folder() / digest).exists():
                # Renamed first, so that nobody finds a set that is half removed.
                (folder() / digest).rename(folder() / f".half-{digest}-cleared")
            _sweep(digest)
        finally:
            lock.release()
    return before - size()


def _sweep(digest: str) -> None:
    """Remove what a killed process left of this set; call with its lock held."""
    for half in folder().glob(f".half-{digest}*"):
        shutil.rmtree(half, ignore_errors=True)


def _store(sets: Mapping[str, Data], entry: Path, key: Mapping[str, Any]) -> None:
    half = entry.with_name(f".half-{entry.name}-{os.getpid()}")
    packed = {name: _packed(data) for name, data in sets.items()}
    needed = sum(array.nbytes for arrays in packed.values() for array in arrays.values())
    try:
        free = shutil.disk_usage(entry.parent).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free} bytes are free")
        half.mkdir()
        about: dict[str, Any] = {"format": FORMAT, "key": key, "sets": {}}
        for name, arrays in packed.items():
            files = {field: half / f"{name}.{field}.npy" for field in arrays}
            for field, array in arrays.items():
                np.save(files[field], array, allow_pickle=False)
            about["sets"][name] = {
                **_facts(sets[name]),
                "bytes": {field: file.stat().st_size for field, file in files.items()},
                "crc": {field: _crc(file) for field, file in files.items()},
            }
        write_json(half / "about.json", about)
        if entry.exists():  # damaged: _load refused it
            shutil.rmtree(entry)
        half.rename(entry)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(
                f"no room in {entry.parent}: the data set needs {needed} bytes there ({error}); "
                "make room, run `cilspl data clear`, or set CILSPL_CACHE to another folder"
            ) from error
        raise _unwritable(error) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _facts(data: Data) -> dict[str, Any]:
    """What is no array: of samples, their scale and shift tell them from recordings."""
    classes = None if data.classes is None else list(data.classes)
    if isinstance(data, Samples):
        return {"classes": classes, "scale": list(data.scale), "shift": list(data.shift)}
    return {"classes": classes, "sensor_size": list(data.sensor_size)}


def _packed(data: Data) -> dict[str, np.ndarray]:
    """The arrays to keep."""
    if isinstance(data, Samples):
        values = data.values if data.row is None else data.values[data.row]
        assert data.order is None, "pixels are put in another order after the cache"
        return {field: np.asarray(getattr(data, field)) for field in _OF_SAMPLES} | {"values": np.asarray(values)}
    return _packed_recordings(data)


def _packed_recordings(recordings: Recordings) -> dict[str, np.ndarray]:
    """With only these recordings' events, in order and without gaps."""
    stop = np.cumsum(recordings.stop - recordings.start, dtype=np.int64)
    start = stop - (recordings.stop - recordings.start)
    arrays = {field: np.asarray(getattr(recordings, field)) for field in _ARRAYS} | {"start": start, "stop": stop}
    if not (np.array_equal(start, recordings.start) and len(recordings.events) == (stop[-1] if len(stop) else 0)):
        arrays["events"] = recordings.take(np.arange(len(recordings)))[0]
    return arrays


def _load(entry: Path) -> dict[str, Any] | None:
    """The sets in a folder; None where it is absent.

    Raises:
        _Damaged: it is damaged, or of another format.
    """
    if not entry.exists():
        return None
    try:
        about, checked = read_checked(entry / "about.json")
        if about["format"] != FORMAT or not checked:
            raise _Damaged("another version made it")
        sets: dict[str, Data] = {}
        for name, facts in about["sets"].items():
            fields, large = (_OF_SAMPLES, "values") if "scale" in facts else (_ARRAYS, "events")
            files = {field: entry / f"{name}.{field}.npy" for field in fields}
            for field, file in files.items():
                _verify(file, facts["bytes"][field], facts["crc"][field])
            arrays = {field: np.load(file) for field, file in files.items() if field != large}
            arrays[large] = np.load(files[large], mmap_mode="r")
            if large == "events" and arrays[large].dtype != EVENT:
                raise _Damaged(f"its events are {arrays[large].dtype}")
            try:
                sets[name] = _set_of(arrays, facts)
            except RequestError as error:
                raise _Damaged(str(error)) from None
        if {file.name.split(".")[0] for file in entry.glob("*.npy")} != set(sets):
            raise _Damaged("its sets are not those of its files")
    except RequestError:
        raise _Damaged("about.json does not fit its checksum") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"it cannot be read ({error})") from None
    return sets


def _set_of(arrays: dict[str, Any], facts: Mapping[str, Any]) -> Data:
    classes = None if facts["classes"] is None else tuple(facts["classes"])
    if "scale" in facts:
        samples = Samples(classes=classes, scale=tuple(facts["scale"]), shift=tuple(facts["shift"]), **arrays)
        check_samples(samples, "cached samples")
        return samples
    recordings = Recordings(classes=classes or (), sensor_size=tuple(facts["sensor_size"]), **arrays)
    check_recordings(recordings, "cached recordings")
    return recordings


def _verify(file: Path, size: int, crc: str) -> None:
    """Compare a file with its checksum, once in a process as long as it does not change."""
    stat = file.stat()
    if stat.st_size != size:
        raise _Damaged(f"{file.name} has {stat.st_size} bytes in place of {size}")
    state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, crc)
    if _verified.get(file) != state:
        if _crc(file) != crc:
            raise _Damaged(f"{file.name} does not fit its checksum")
        _verified[file] = state


def _crc(file: Path) -> str:
    """CRC-32 of a file's bytes: enough against damage, and fast on every machine, for sets of gigabytes."""
    crc = 0
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _unwritable(error: OSError) -> RequestError:
    return RequestError(f"the cache folder {folder()} cannot be written ({error}); set CILSPL_CACHE to another folder")
