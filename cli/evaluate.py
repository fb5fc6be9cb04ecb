"""``cilspl evaluate``: a finished run's network on other data, another target, many dies, other orders of events."""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.cli import complain, extensions_option

if TYPE_CHECKING:
    from cil_spl.results.runs import Run
    from cil_spl.tasks.evaluation import Evaluation

# What may differ from the run: what it is asked, and where. The rest made the network what it is.
CHOICES = ("dataset", "test_dataset", "target", "frames", "quantize", "neurons")
ALLOWED = re.compile(rf"({'|'.join(CHOICES)})(\.|$)|trainer\.(eval_batch_size|threads|device)$")


def main(argv: list[str]) -> int:
    given = _parser().parse_intermixed_args(argv)

    from cil_spl.cli.compose import extensions_of
    from cil_spl.results import report, runs

    run = runs.find(given.run)
    config = changed(run, given.overrides)
    config.extensions = given.extensions
    extensions = extensions_of(config, [f"extensions={shown(given.extensions)}"], os.getcwd())

    from cil_spl.evaluate import again

    one = again(run, config, extensions, given.split)
    where = report.where(config.target.name, config.target.get("backend"))
    told = f"{report.shortened(run.folder)}: {config.dataset.name}, {given.split} recordings, on {where}"
    print(told, file=sys.stderr)
    if given.dies is not None:
        found = _listed("die", one.dies(given.dies), one.ctx.task.monitor)
    elif given.orders is not None:
        found = _listed("order", one.orders(given.orders, given.within_us), one.ctx.task.monitor)
    else:
        found = [{"stage": stage, **seen.metrics} for stage, seen in one.stages().items()]
    for text in dict.fromkeys(one.warnings):
        complain(text)
    _print(found, one.ctx.task.monitor, given.at_least)
    if given.output is not None:
        _write(given.output, found)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cilspl evaluate",
        description="Evaluate the network of a finished run once more, without training: as it was,\n"
        "or on other data, another target, many dies, its recordings with their events in\nother orders.",
        epilog="cilspl evaluate RUN dataset=nmnist dataset.root=DIR\n"
        "cilspl evaluate RUN target=software\n"
        "cilspl evaluate RUN 'target.die={threshold_spread: 0.2}' --dies 200 \\\n"
        "    --output dies.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="its folder, its MLflow id, or the beginning of the id")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="recordings to ask (default: test)")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--dies", type=_seeds, metavar="N", help="dies 0 to N-1 of the kind target.die, or A:B")
    many.add_argument("--orders", type=_seeds, metavar="N", help="orders 0 to N-1 of the events, or A:B")
    parser.add_argument(
        "--within-us", type=_window, default=1000, metavar="US",
        help="--orders: times are redrawn within windows of so many microseconds (default: 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--at-least", type=float, default=0.95, metavar="X", help="the share of dies that reach X (default: 0.95)"
    )
    parser.add_argument("--output", metavar="FILE", help="all figures as CSV, a line for each stage, die or order")
    extensions_option(parser)
    return parser


def _window(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text}: needs a whole number from 1")
    return int(text)


def _seeds(text: str) -> range:
    found = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if found is None or not int(found[1] or 0) < int(found[2]):
        raise argparse.ArgumentTypeError(f"{text}: needs a number from 1, or A:B with A below B")
    return range(int(found[1] or 0), int(found[2]))


def changed(run: Run, words: Sequence[str]) -> Any:
    """The run's config with what is typed.

    Raises:
        RequestError: a word is no override, or changes what training depended on.
    """
    from omegaconf import OmegaConf

    from cil_spl import schema
    from cil_spl.cli.resume import set_value, typed_values

    config = schema.known_part(run.config())
    for key, value in typed_values(words, "cilspl evaluate").items():
        group = key.rpartition("@")[2]
        if not ALLOWED.match(group):
            raise RequestError(
                f"{key}={shown(value)}: the network was trained with another; to be typed here are "
                f"{', '.join(CHOICES)} and what lies below them. To train with it use `cilspl run`"
            )
        if group in CHOICES and isinstance(value, str):
            config[group] = _choice(f"{key}={value}")[group]
            continue
        parent = group.rpartition(".")[0]
        if parent and OmegaConf.select(config, parent, default=0) is None:  # target.die.seed=1 of a die that is null
            OmegaConf.update(config, parent, {}, force_add=True)
        set_value(config, group, value)
    return config


def _choice(word: str) -> Any:
    """The default config with another choice of a group."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from cil_spl.cli.compose import composed
    from cil_spl.cli.explain import explain

    try:
        return composed([word])
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(explain(error, [word])) from error


def _listed(what: str, found: Iterator[tuple[int, Evaluation]], monitor: str) -> list[dict[str, Any]]:
    """A line for each, as they come."""
    rows = []
    for seed, seen in found:
        rows.append({what: seed, **seen.metrics})
        if sys.stderr.isatty():
            print(f"{what} {seed}: {monitor} {seen.metrics[monitor]:.4f}", file=sys.stderr)
    return rows


def _print(rows: Sequence[dict[str, Any]], monitor: str, at_least: float) -> None:
    """A table of the stages; of dies or orders what their score came to."""
    from cil_spl.evaluate import summary

    if "stage" in rows[0]:
        names = [n for n in (monitor, "synops", "macs", "silent", "n") if any(n in row for row in rows)]
        print("  ".join([f"{'stage':<10}", *(f"{name:>12}" for name in names)]))
        for row in rows:
            print(
                "  ".join([f"{row['stage']:<10}", *(f"{row[n]:>12.6g}" if n in row else f"{'–':>12}" for n in names)])
            )
        return
    found = summary([row[monitor] for row in rows], at_least)
    what = next(iter(rows[0]))
    spread = f"mean {found['mean']:.4f} ± {found['sd']:.4f}, median {found['median']:.4f}"
    print(f"{len(rows)} {what}s, {rows[0]['n']:.0f} recordings: {monitor} {spread}")
    print(f"from {found['min']:.4f} to {found['max']:.4f}; {found['yield']:.1%} reach {at_least:g}")


def _write(file: str, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        with open(file, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, names)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RequestError(f"--output {file}: cannot be written ({error})") from error
