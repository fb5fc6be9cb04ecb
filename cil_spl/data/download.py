"""Finding the files of a data set, and fetching them with a checksum."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from cil_spl.base.annotations import Says
from cil_spl.base.errors import RequestError

log = logging.getLogger(__name__)

Download = bool | None  # null: into the default folder only
Folder = Annotated[str, MinLen(1), Says("the folder that holds the data set")]


def folder_of(root: Any) -> Path:
    """The folder that ``dataset.root`` names.

    Raises:
        RequestError: it names none.
    """
    if not isinstance(root, (str, Path)) or not str(root):
        raise RequestError(f"dataset.root={root}: needs the folder that holds the data set")
    folder = Path(root).expanduser()
    if folder.is_file():
        raise RequestError(f"dataset.root={root} is a file; it needs the folder that holds the data set")
    return folder


def may_fetch(root: Any, default: Any, download: Download) -> bool:
    """Whether a data set may be fetched into a folder: into the default one, and where the user says so into another.

    A folder that the user names is most often one that holds the data set, or is misspelt.
    """
    return root == default if download is None else download


def check_root(root: Any, default: Any, download: Download, group: str = "dataset") -> None:
    """Refuse a folder that is not there: most often it is misspelt, and gigabytes would be downloaded into it.

    Only the default one is made where it is missing.

    Raises:
        RequestError: names the folder and what to do.
    """
    folder = folder_of(root)
    if folder.is_dir():
        return
    key = f"{group}.root={root}"
    if folder.exists():
        raise RequestError(f"{key} is a file; needs the folder that holds the data set")
    if root != default:
        also = "" if download else f" and set {group}.download=true"
        raise RequestError(
            f"{key} does not exist; set {group}.root to the folder that holds the data set"
            + ("" if download is False else f", or make that folder (mkdir -p {folder}){also} to download it there")
        )
    if not may_fetch(root, default, download):
        raise RequestError(
            f"{key} does not exist; set {group}.root to the folder that holds the data set, or {group}.download=true"
        )


def absent(root: Path, download: bool, what: str) -> None:
    """Refuse a folder without the data set, unless it may be downloaded.

    Raises:
        RequestError: says whether it is missing, empty, or without ``what``.
    """
    if not download:
        why = "does not exist"
        if root.is_dir():
            why = f"does not hold {what}" if any(root.iterdir()) else "is empty"
        raise RequestError(
            f"dataset.root={root} {why}; set dataset.root to the folder of the data set, or dataset.download=true"
        )


def whole_folder(root: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """The folder ``name`` of a root, made now where it is missing: whole or not at all, by one process at a time.

    Args:
        fill: makes a folder ``name`` in the folder that it is given.
    """
    import filelock

    folder, half = root / name, root / f".half-{name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f".{name}.lock"):
            if not folder.is_dir():  # another run may have fetched it meanwhile
                shutil.rmtree(half, ignore_errors=True)
                fill(half)
                (half / name).rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def fetch(name: str, mirrors: Sequence[str], checksum: str, folder: Path) -> Path:
    """Download a file into a folder; it is there whole and with the right checksum, or not at all.

    Args:
        name: of the file.
        mirrors: addresses that it is appended to, tried in turn.
        checksum: ``sha256:…`` of its bytes.

    Raises:
        RequestError: no mirror gives it, or none of these bytes; or the folder cannot be written.
    """
    import pooch

    log.warning("dataset.root=%s has no %s: downloading it there", folder, name)
    why = ""
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, checksum, name, folder))
        except (OSError, ValueError) as error:  # no network, refused, or a wrong checksum
            log.debug("%s%s: %s", mirror, name, error)
            why = str(error)
    raise RequestError(
        f"dataset.download=true: {name} could not be fetched into {folder} ({why}); put it there by hand"
    )
