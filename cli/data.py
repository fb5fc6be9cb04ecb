"""``cilspl data``: fetch, check, describe and picture a data set ahead of time; look after the cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.cli import extensions_option

SPLITS = ("train", "val", "test")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl data",
        description="Fetch, check, describe and picture a data set; look after the cache of prepared recordings.",
        epilog="Settings are those of the config group without its name: cilspl data describe nmnist root=DIR",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("describe", "check a data set and say what is in it"),
        ("fetch", "download a data set where it is absent, check it, and prepare it for runs"),
        ("picture", "draw a recording"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("dataset", help="one of `cilspl ls datasets`")
        verb.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the data set, for example root=DIR")
        verb.add_argument("--config-dir", "-cd", metavar="DIR", help="your own YAML groups besides")
        extensions_option(verb)
        if name == "picture":
            verb.add_argument("--out", metavar="FILE", help="default: DATASET-SPLIT-INDEX.png here")
            verb.add_argument("--split", choices=SPLITS, default="test")
            verb.add_argument("--index", type=int, default=0, help="which recording (default 0)")
    verbs.add_parser("cache", help="where the cache is and how large")
    verbs.add_parser("clear", help="empty the cache; sets are prepared anew when next used")
    given = parser.parse_args(argv)

    if given.verb in ("cache", "clear"):
        return _cache(given.verb)
    config = _config(given)
    extensions = list(dict.fromkeys([*given.extensions, *fence.local_extensions()]))
    fence.look_in(os.getcwd(), extensions)
    fence.check_extensions(None, extensions)
    from cil_spl.data import datasets

    if given.verb != "fetch" and "download" in config and not any(s.startswith("download=") for s in given.settings):
        config["download"] = False  # looking at a set fetches nothing
    datasets.check_dataset(config, "dataset", extensions)
    splits = datasets.load(config, extensions=extensions)[0]
    if given.verb == "picture":
        return _picture(given, splits)
    _print(given.dataset, splits)
    return 0


def _config(given: argparse.Namespace) -> Any:
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from cil_spl.cli.compose import composed
    from cil_spl.cli.explain import explain

    words = [f"dataset={given.dataset}"]
    for setting in given.settings:
        bare = setting.lstrip("+~")
        words.append(f"{setting[: len(setting) - len(bare)]}dataset.{bare.removeprefix('dataset.')}")
    try:
        config = OmegaConf.to_container(composed(words, given.config_dir).dataset, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own, for model=1.5
        raise RequestError(explain(error, words, given.config_dir)) from error
    return config


def _print(name: str, splits: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from cil_spl.data.describe import describe
    from cil_spl.results import report

    about = describe(splits)
    width, height, polarities = about["sensor_size"]
    out = report.console()
    out.print(f"{name}: {width} x {height} pixels, {polarities} polarities, {len(about['classes'])} classes")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("Split", "Recordings", "Events each", "ON share", "Length (ms)", "In a class"):
        table.add_column(head, justify="left" if head == "Split" else "right", overflow="fold")
    for split in SPLITS:
        numbers = about[split]
        share = "–" if numbers["on_share"] is None else f"{numbers['on_share']:.3f}"
        counts = list(numbers["per_class"].values())
        each = "–" if not counts else f"{min(counts)}…{max(counts)}"
        table.add_row(
            split, str(numbers["recordings"]), _range(numbers["events"]), share, _range(numbers["duration_ms"]), each
        )
    out.print(table)
    missing = [c for c in about["classes"] if not about["train"]["per_class"].get(c)]
    if missing:
        out.print(f"! no training recording of class {', '.join(map(str, missing))}", style="yellow")


def _range(numbers: dict[str, float] | None) -> str:
    return "–" if numbers is None else f"{numbers['mean']:.0f} ({numbers['min']:.0f}…{numbers['max']:.0f})"


def _picture(given: argparse.Namespace, splits: Any) -> int:
    from cil_spl.data.describe import picture
    from cil_spl.results import report

    recordings = getattr(splits, given.split)
    if not 0 <= given.index < len(recordings):
        raise RequestError(f"--index {given.index}: split {given.split} has recordings 0 to {len(recordings) - 1}")
    path = Path(given.out or f"{given.dataset}-{given.split}-{given.index}.png")
    label = recordings.classes[int(recordings.target[given.index])]
    events = recordings[given.index]
    title = f"{given.dataset} {given.split} {given.index}: class {label}, {len(events)} events"
    try:
        picture(events, recordings.sensor_size, title).savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RequestError(f"--out {path}: cannot be written ({error})") from error
    print(report.shortened(path.resolve()))
    return 0


def _cache(verb: str) -> int:
    from cil_spl.cli.doctor import megabytes
    from cil_spl.data import cache

    if verb == "clear":
        print(f"{megabytes(cache.clear())} freed in {cache.folder()}")
    else:
        print(f"{cache.folder()}  {megabytes(cache.size())}")
    return 0
