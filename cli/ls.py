"""``cilspl ls``: what there is to choose from, one line each."""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from cil_spl.base.errors import RequestError
from cil_spl.cli.words import parsed
from cil_spl.models.presets import ABOUT

KINDS = {
    "methods": "method",
    "models": "model",
    "presets": "model.preset",
    "datasets": "dataset",
    "targets": "target",
    "experiments": "experiment",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cilspl ls", description="What there is to choose from, one line each.")
    parser.add_argument("kind", nargs="?", metavar="|".join(KINDS), help="one kind only")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="your own YAML groups besides")
    given = parsed(parser, argv)
    kind = given.kind
    if kind is not None and kind not in KINDS:
        kind = f"{kind}s"
        if kind not in KINDS:
            raise RequestError(f"ls {given.kind}: there are {', '.join(KINDS)}")
    roots: list[Any] = [files("cil_spl.conf")]
    if given.config_dir is not None:
        if not Path(given.config_dir).is_dir():
            raise RequestError(f"--config-dir {given.config_dir}: no such folder")
        roots.append(Path(given.config_dir))
    kinds = [kind] if kind else list(KINDS)
    listed = {k: ABOUT if k == "presets" else listing(roots, KINDS[k]) for k in kinds}
    width = max((len(name) for found in listed.values() for name in found), default=0)
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a pipe gets all
    for k, found in listed.items():
        if len(kinds) > 1:
            print(f"{k} ({KINDS[k]}=)")
        for name, text in sorted(found.items()):
            line = f"{'  ' if len(kinds) > 1 else ''}{name:<{width}}  {text}".rstrip()
            print(line if room is None or len(line) <= room else f"{line[: room - 1]}…")
    return 0


def listing(roots: list[Any], group: str) -> dict[str, str]:
    """Name and first line of comment of every YAML file of a group; later roots take precedence."""
    found = {}
    for root in roots:
        folder = root / group
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name.endswith(".yaml"):
                    found[path.name.removesuffix(".yaml")] = about(path.read_text(encoding="utf-8"))
    return found


def about(text: str) -> str:
    """The first comment of a YAML file that is not an instruction to Hydra."""
    for line in text.splitlines():
        if line.startswith("#") and not line.lstrip("# ").startswith("@package"):
            return line.lstrip("# ").strip()
        if line.strip() and not line.startswith("#"):
            break
    return ""
