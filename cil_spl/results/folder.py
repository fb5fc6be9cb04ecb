"""A run's folder as it is read: the names of its files, its record, and what may be followed out of it (nothing)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.files import damaged, read_checked
from cil_spl.results.checked import check_info
from cil_spl.results.metrics import METRICS_FILE

FORMAT = 2  # 1 had no checksums; it is read as well
RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
# What changes no result: it may be another when a run goes on, and need not be what the record says.
MAY_DIFFER = ("trainer.threads", "target.threads", "trainer.device", "extensions")
MAY_DIFFER_GROUP = "tracking."


def read_info(folder: Path) -> tuple[dict[str, Any], bool]:
    """What ``run.json`` says, and whether it had a checksum to check it by.

    Raises:
        RequestError: there is none, it is damaged or cannot be read, or a newer version wrote it.
    """
    path = folder / RUN_FILE
    try:
        info, checked = read_checked(path)
        version = info["format"]
    except FileNotFoundError:
        raise RequestError(f"{folder}: no run in this folder (no {RUN_FILE})") from None
    except RequestError:
        raise
    except KeyError:
        raise RequestError(f"{path}: not the record of a run (no format in it)") from None
    except ValueError as error:
        raise RequestError(f"{path}: not the record of a run ({error})") from error
    except OSError as error:
        reason = error.strerror or error
        raise RequestError(f"{path}: cannot be read ({reason}); take it from a copy of the run") from error
    if type(version) is not int or version not in range(1, FORMAT + 1):
        raise RequestError(f"{path}: format {shown(version)}; this version reads 1 to {FORMAT}")
    if not checked and version > 1:
        raise damaged(path)
    check_info(info, path)
    return info, checked


def artifacts(folder: Path) -> list[Path]:
    """What the store gets of a folder: config, weights, chip network, figures; no checkpoints, nothing hidden.

    No symbolic link either, to a file or to a folder: the folder may come from someone else, and a link lead to
    anything that the user can read.
    """
    found = []
    for here, folders, files in os.walk(folder, followlinks=False):
        at = Path(here)
        if at == folder:
            folders[:] = [name for name in folders if not name.startswith((".", "checkpoints"))]
            files = [n for n in files if n not in (RUN_FILE, METRICS_FILE) and not n.startswith((".", "checkpoints"))]
        found += [at / name for name in files if (at / name).is_file() and not (at / name).is_symlink()]
    return sorted(found)


def may_differ(key: str) -> bool:
    """Whether a key of the config changes no result."""
    return key in MAY_DIFFER or key.startswith(MAY_DIFFER_GROUP)


def refuse_links(folder: Path) -> None:
    """Refuse to work in a folder with symbolic links in it.

    The folder may come from someone else, and what is written through a link changes a file outside of it.

    Raises:
        RequestError: names the first link and where it leads.
    """
    for here, folders, files in os.walk(folder, followlinks=False):
        for name in sorted([*folders, *files]):
            path = Path(here) / name
            if path.is_symlink():
                raise RequestError(
                    f"{path}: a symbolic link to {os.readlink(path)}; a run goes on only in files of its own folder. "
                    "Put a copy of what it leads to in its place, or delete the link"
                )


def check_unclaimed(folder: Path) -> None:
    """Refuse a folder that holds a run already."""
    if (folder / RUN_FILE).exists():
        raise RequestError(
            f"the folder {folder} holds a run already; go on with it by resume={folder}, choose another hydra.run.dir, "
            "or delete it"
        )
