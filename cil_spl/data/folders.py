"""The folder of a data set (``dataset.root``): looked at before anything is read from it or downloaded into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError


def folder_of(root: Any) -> Path:
    """The folder that ``dataset.root`` names."""
    if not isinstance(root, (str, Path)) or not str(root):
        raise RequestError(f"dataset.root={root}: needs the folder that holds the data set")
    return Path(root).expanduser()


def check_root(root: Any, default: Any, download: bool, group: str = "dataset") -> None:
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
        fetch = f", or make that folder (mkdir -p {folder}) to have the data set downloaded into it" if download else ""
        raise RequestError(f"{key} does not exist; set {group}.root to the folder that holds the data set{fetch}")
    if not download:
        raise RequestError(
            f"{key} does not exist; set {group}.root to the folder that holds the data set, or {group}.download=true"
        )


def refuse_download(root: Path, download: bool, what: str) -> None:
    """Say what a folder should hold, where it does not and nothing is to be downloaded into it."""
    if download:
        return
    why = f"does not hold {what}" if root.is_dir() and any(root.iterdir()) else "is empty"
    raise RequestError(
        f"dataset.root={root} {why if root.is_dir() else 'does not exist'}; "
        "set dataset.root to the folder of the data set, or dataset.download=true"
    )
