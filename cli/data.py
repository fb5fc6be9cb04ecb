"""``cilspl data``: fetch, check, describe and picture a data set ahead of time; look after the cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.cli import extensions_option
from cil_spl.cli.words import parsed

SPLITS = ("train", "val", "test")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl data",
        description="Fetch, check, describe and picture a data set; look after the cache of prepared data.",
        epilog="Settings are those of the config group without its name: cilspl data describe nmnist root=DIR",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("describe", "check a data set and say what is in it"),
        ("fetch", "download a data set where it is absent, check it, and prepare it for runs"),
        ("picture", "draw a recording or a sample"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("dataset", help="one of `cilspl ls datasets`")
        verb.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the data set, for example root=DIR")
        verb.add_argument("--config-dir", "-cd", metavar="DIR", help="your own YAML groups besides")
        extensions_option(verb)
        if name == "picture":
            verb.add_argument("--out", metavar="FILE", help="default: DATASET-SPLIT-INDEX.png here")
            verb.add_argument("--split", choices=SPLITS, default="test")
            verb.add_argument("--index", type=int, default=0, help="which of them (default 0)")
    verbs.add_parser("cache", help="where the cache is and how large")
    verbs.add_parser("clear", help="empty the cache; sets are prepared anew when next used")
    given = _parsed(parser, verbs, argv)

    if given.verb in ("cache", "clear"):
        return _cache(given.verb)
    config = _config(given)
    extensions = list(dict.fromkeys([*given.extensions, *fence.local_extensions()]))
    fence.look_in(os.getcwd(), extensions)
    fence.check_extensions(None, extensions)
    from cil_spl.data import datasets

    if "download" in config and config["download"] is None:
        config["download"] = given.verb == "fetch"  # which asks for it; looking at a set fetches nothing
    datasets.check_dataset(config, "dataset", extensions)
    experiences = datasets.load(config, extensions=extensions)
    if given.verb == "picture":
        return _picture(given, experiences[0])
    for number, splits in enumerate(experiences, start=1):
        several = f", experience {number} of {len(experiences)}" if len(experiences) > 1 else ""
        _print(given.dataset + several, splits)
    return 0


def _parsed(parser: argparse.ArgumentParser, verbs: Any, argv: list[str]) -> argparse.Namespace:
    """What the words say, with options before, between and after the others; argparse does so for no subcommand."""
    verb = argv[0] if argv else ""
    if verb not in verbs.choices:
        return parser.parse_args(argv)
    given = parsed(verbs.choices[verb], argv[1:])
    given.verb = verb
    return given


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
    out = report.console()
    classes = "no classes" if about["classes"] is None else f"{len(about['classes'])} classes"
    if "sensor_size" in about:
        width, height, polarities = about["sensor_size"]
        out.print(f"{name}: {width} x {height} pixels, {polarities} polarities, {classes}")
        heads: tuple[str, ...] = ("Split", "Recordings", "Events each", "ON share", "Length (ms)", "In a class")
    else:
        channels, height, width = about["input_shape"]
        out.print(f"{name}: {width} x {height} pixels, {channels} channel{'s' * (channels > 1)}, {classes}")
        heads = ("Split", "Samples", "Values", "Deviation", "In a class")
    if splits.outputs is not None:
        out.print(f"outputs of this experience: {', '.join(map(str, splits.outputs))}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == "Split" else "right", overflow="fold")
    for split in SPLITS:
        table.add_row(split, *_cells(about[split]))
    out.print(table)
    missing = [c for c in about["classes"] or () if not about["train"]["per_class"].get(c)]
    if missing and splits.outputs is None:
        what = "recording" if "sensor_size" in about else "sample"
        out.print(f"! no training {what} of class {', '.join(map(str, missing))}", style="yellow")


def _cells(numbers: dict[str, Any]) -> list[str]:
    """A row of the table, without its head."""
    counts = list((numbers["per_class"] or {}).values())
    each = "–" if not counts else f"{min(counts)}…{max(counts)}"
    if "recordings" in numbers:
        share = "–" if numbers["on_share"] is None else f"{numbers['on_share']:.3f}"
        return [str(numbers["recordings"]), _range(numbers["events"]), share, _range(numbers["duration_ms"]), each]
    deviation = "–" if numbers["deviation"] is None else f"{numbers['deviation']:.3f}"
    return [str(numbers["samples"]), _range(numbers["values"], 3), deviation, each]


def _range(numbers: dict[str, float] | None, digits: int = 0) -> str:
    if numbers is None:
        return "–"
    mean, low, high = (f"{numbers[name]:.{digits}f}" for name in ("mean", "min", "max"))
    return f"{mean} ({low}…{high})"


def _picture(given: argparse.Namespace, splits: Any) -> int:
    from cil_spl.data.describe import picture, picture_of_values
    from cil_spl.data.events import Recordings
    from cil_spl.results import report

    part = getattr(splits, given.split)
    if not 0 <= given.index < len(part):
        what = "recordings" if isinstance(part, Recordings) else "samples"
        raise RequestError(f"--index {given.index}: split {given.split} has {what} 0 to {len(part) - 1}")
    path = Path(given.out or f"{given.dataset}-{given.split}-{given.index}.png")
    target = part.target[given.index]
    label = f"target {target}" if part.classes is None else f"class {part.classes[int(target)]}"
    title = f"{given.dataset} {given.split} {given.index}: {label}"
    if isinstance(part, Recordings):
        events = part[given.index]
        figure = picture(events, part.sensor_size, f"{title}, {len(events)} events")
    else:
        figure = picture_of_values(part[given.index], title)
    try:
        figure.savefig(path, dpi=120)
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
