"""What training costs: against bare convolutions, against other libraries, with the chip in the loop, and as it grows.

    python benchmarks/training/bench.py               everything, about an hour; --quick: everything small, two minutes
    python benchmarks/training/bench.py --part steps  one part: exact, steps, memory, chip, epoch, growth, profile
    python benchmarks/training/bench.py --data nmnist8 --root DIR    on real recordings of N-MNIST
    python benchmarks/training/bench.py --write       also record results.json, README.md's tables and growth.png
    python benchmarks/training/bench.py --against COMMIT    steps in turn with another commit, one thread; exit code 1
                                                            if a figure is more than 5 % slower

All sides take turns within one process, on the same batch; a figure is the shortest of nine times, with their median
beside it. The peers come by ``pip install -e '.[peers]'``; those that are not there are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cil_spl  # noqa: F401  (before torch: it sets what torch's libraries read)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import about
from markdown import table
from turns import Options, told

Tables = list[tuple[str, list[dict[str, Any]]]]
HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results.json", HERE / "README.md"


def _exact(options: Options) -> Tables:
    import exact

    return exact.part(options)


def _steps(options: Options) -> Tables:
    import steps

    return steps.measure(options)


def _memory(options: Options) -> Tables:
    import memory

    return memory.part(options)


def _chip(options: Options) -> Tables:
    import loop

    return loop.part(options)


def _epoch(options: Options) -> Tables:
    import epoch

    return epoch.part(options)


def _growth(options: Options) -> Tables:
    import growth

    return growth.part(options)


def _profile(options: Options) -> Tables:
    import profiled

    return profiled.part(options)


PARTS: dict[str, Callable[[Options], Tables]] = {
    "exact": _exact, "steps": _steps, "memory": _memory, "chip": _chip, "epoch": _epoch, "growth": _growth,
    "profile": _profile,
}  # fmt: skip


def main() -> None:
    """Measure and print; with --write also record."""
    given = asked()
    if given.against:
        sys.exit(against(given))
    import peers

    options = options_of(given)
    for line in peers.left_out():
        print(line)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.part:
        found = PARTS[name](options)
        print("\n\n".join(table(title, rows) for title, rows in found if rows), end="\n\n", flush=True)
        known[name] = about() | {"torch": version("torch"), "tables": found}
        if given.write:
            record(known)


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--profile", action="store_true", help="the same as --part profile")
    parser.add_argument("--quick", action="store_true", help="few and small, to try the harness; no figures to keep")
    parser.add_argument("--write", action="store_true", help="record results.json, README.md's tables and growth.png")
    parser.add_argument("--against", metavar="COMMIT", help="measure another commit too, in turn")
    parser.add_argument("--data", choices=("event_digits", "nmnist8"), default="event_digits", help="real recordings")
    parser.add_argument("--root", help="the folder of nmnist8")
    parser.add_argument("--bins", type=int, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--compiled", type=int, metavar="BINS", help="peers compiled as well, up to so many bins")
    parser.add_argument("--start", help="a run to take the weights from; its layers must be those of the config")
    parser.add_argument("overrides", nargs="*", help="of the config")
    given = parser.parse_intermixed_args()
    if given.data == "nmnist8" and given.root is None:
        parser.error("--data nmnist8 needs --root, the folder that holds its Train and Test")
    if given.write and given.quick:
        parser.error("--write records figures, and --quick makes none worth keeping; leave one of them out")
    given.part = ["profile"] if given.profile else given.part
    return given


def options_of(given: argparse.Namespace) -> Options:
    """What is measured, by default and as asked."""
    options = Options(data=given.data, root=given.root, start=given.start, overrides=tuple(given.overrides))
    if given.quick:
        options = replace(options, quick=True, bins=(1, 4), threads=(1,), repeats=2, batch=8, compiled=0)
    if given.bins:
        options = replace(options, bins=tuple(given.bins))
    if given.threads:
        options = replace(options, threads=tuple(given.threads))
    if given.repeats:
        options = replace(options, repeats=given.repeats)
    return options if given.compiled is None else replace(options, compiled=given.compiled)


def against(given: argparse.Namespace) -> int:
    """Steps of this tree and of another commit, in turn."""
    from against import compare

    start = ["--start", given.start] if given.start else []
    bins = [str(n) for n in given.bins or (1, 10)]
    arguments = [*given.overrides, "--repeats", str(given.repeats or 20), *start, "--bins", *bins]
    return compare(given.against, HERE / "worker.py", arguments)


def record(known: dict[str, Any], results: Path = RESULTS, readme: Path = README) -> None:
    """results.json, the tables between README.md's two marks, and the plot; parts not measured stay as they were."""
    known = {name: known[name] for name in PARTS if name in known}
    results.write_text(json.dumps(known, indent=1) + "\n")
    texts = []
    for name, part in known.items():
        head = "{date}, {machine}, load {load}, torch {torch}, commit {commit}".format(**part)
        texts.append(f"### {name}\n\n{head}.")
        texts += [table(title, rows) for title, rows in part["tables"] if rows]
        if name == "growth":
            import growth

            growth.draw(part["tables"], readme.with_name(growth.FILE.name))
            texts.append("![a step's time over bins, batch, width and size](growth.png)")
    before, rest = readme.read_text().split("<!-- figures -->\n")
    after = rest.split("<!-- end of figures -->\n")[1]
    text = "\n\n".join(texts)
    readme.write_text(f"{before}<!-- figures -->\n{text}\n<!-- end of figures -->\n{after}")
    told(f"recorded {', '.join(known)}")


if __name__ == "__main__":
    main()
