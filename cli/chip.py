"""``cilspl chip``: hold the simulated chip against a real one and against time steps; show where layers go."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.cli import extensions_option

if TYPE_CHECKING:
    from cil_spl.results.mismatch import Mismatch


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl chip", description="The simulated chip, and what is known of the real one."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verify = verbs.add_parser("verify", help="replay a real chip's recordings and compare, neuron by neuron")
    verify.add_argument("folder", help="holds cnn_sinabs.nir and layer1_spike_counts.npz")
    verify.add_argument("recordings", help="the recordings that the chip was sent, in the official N-MNIST layout")
    verify.add_argument("--rules", action="store_true", help="what every other rule would give as well (half a minute)")
    show = verbs.add_parser("show", help="the layers of a chip network, and what their cores hold")
    show.add_argument("run", help="a run, a chip network's file, or a NIR file (.nir)")
    text = "where a run's network in time steps parts from the chip, and by which of the chip's rules"
    apart = verbs.add_parser("mismatch", help=text, description=text)
    apart.add_argument("run", metavar="RUN", help="run id, the beginning of it, or the run's folder")
    apart.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="bins=1,10,100 to compare at; or of the run's data set, for example root=DIR (test_dataset.root=DIR)",
    )
    apart.add_argument("--test", action="store_true", help="on the test recordings instead of the validation ones")
    apart.add_argument("--recordings", type=int, default=300, metavar="N", help="at most so many (default 300)")
    apart.add_argument("--seed", type=int, default=0, help="of the orders that are drawn (default 0)")
    extensions_option(apart)
    apart.add_argument("--out", metavar="DIR", help="for the tables and the picture (default: the run's figures)")
    given = parser.parse_args(argv)
    if given.verb == "show":
        return _show(given.run)
    if given.verb == "mismatch":
        return _mismatch(given)

    from cil_spl.chip import silicon

    real = silicon.load(given.folder, given.recordings)
    print(_table(silicon.replay(real.network(), real).table()))
    if given.rules:
        print()
        print(_table(silicon.rows_of(silicon.alternatives(real))))
    return 0


def _show(name: str) -> int:
    from pathlib import Path

    from cil_spl.chip import interchange, nirfile, placement
    from cil_spl.results import runs

    path = Path(name) if Path(name).is_file() else runs.find(name).path("chip.npz")
    network = nirfile.read(path) if path.suffix == ".nir" else interchange.load(path)
    print(placement.placed(network, str(path)))
    return 0


def _mismatch(given: argparse.Namespace) -> int:
    import os
    from pathlib import Path

    if given.recordings < 1 or given.seed < 0:
        name, value, least = ("recordings", given.recordings, 1) if given.recordings < 1 else ("seed", given.seed, 0)
        raise RequestError(f"--{name} {value}: needs at least {least}")
    from cil_spl.results import runs

    run = runs.find(given.run)
    bins, settings = _settings(given.settings)
    config = _changed(run.config(), settings)

    import numpy as np

    from cil_spl import load
    from cil_spl.chip import interchange
    from cil_spl.data import datasets
    from cil_spl.data.events import Recordings
    from cil_spl.results import mismatch, mismatch_files, report

    fence.look_in(os.getcwd(), given.extensions)
    network = load.load(run, given.extensions)
    chip = interchange.load(run.path("chip.npz"))
    splits = datasets.load(
        config.dataset,
        config.get("test_dataset"),
        int(config.seed),
        given.extensions,
        duration_us=network.config.frames.duration_us,
    )[-1]
    recordings, split = (splits.test, "test") if given.test else (splits.val, "validation")
    if not isinstance(recordings, Recordings):
        raise RequestError(f"{given.run}: dataset={config.dataset.name} gives values; the chip takes events only")
    if len(recordings) > given.recordings:  # evenly spread over the split
        recordings = recordings.subset(np.arange(given.recordings) * len(recordings) // given.recordings)
    found = mismatch.take_apart(network, chip, recordings, bins or mismatch.BINS, given.seed)
    made = mismatch_files.write(found, Path(given.out) if given.out else run.folder / "figures")
    print(f"{report.shortened(run.folder)}: {len(recordings)} {split} recordings\n")
    _print_mismatch(found)
    print("\n" + "\n".join(report.shortened(path.resolve()) for path in made))
    return 0


def _settings(words: Sequence[str]) -> tuple[tuple[int, ...], dict[str, str]]:
    """Numbers of bins, none where not given, and settings of the data by their full keys."""
    bins: tuple[int, ...] = ()
    settings = {}
    for word in words:
        key, is_setting, value = word.partition("=")
        if not is_setting:
            raise RequestError(f"{word}: needs the form KEY=VALUE, for example root=DIR or bins=1,10,100")
        if key == "bins":
            parts = value.strip("[]").split(",")
            if not all(part.strip().isdigit() and int(part) for part in parts):
                raise RequestError(f"{word}: needs whole numbers from 1, for example bins=1,10,100")
            bins = tuple(sorted({int(part) for part in parts}))
        else:
            settings[key if key.startswith(("dataset.", "test_dataset.")) else f"dataset.{key}"] = value
    return bins, settings


def _changed(config: Any, settings: Mapping[str, str]) -> Any:
    """A run's config with other settings of its data."""
    from omegaconf import OmegaConf

    for key, value in settings.items():
        group, _, rest = key.partition(".")
        known = config.get(group) or {}
        if rest.split(".")[0] not in known:
            allowed = ", ".join(k for k in known if k != "_target_") or "none (the run has no such data set)"
            raise RequestError(f"{key}={value}: the run's {group} has no such key; allowed are {allowed}")
        config = OmegaConf.merge(config, OmegaConf.from_dotlist([f"{key}={value}"]))
    return config


def _print_mismatch(found: Mismatch) -> None:
    """What the tables hold, in 80 columns."""
    from cil_spl.results import report
    from cil_spl.results.mismatch import LINKS

    def percent(value: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.2f}" if value == value else "–"  # NaN of a task without answers

    per_recording = report.amount(found.chip.events.sum() / found.chip.n)
    print("8-bit network in time steps against the chip, per cent")
    print(f"Sum of |steps - chip| over the chip's {per_recording} events per recording, by layer:")
    print(
        _table(
            [
                {"bins": bins} | {layer: percent(a.difference(k)) for k, layer in enumerate(found.chip.layers)}
                for bins, a in found.by_bins.items()
            ]
        )
    )
    print("\nAll layers; the same with its sign; neurons with exactly the chip's count:")
    print(
        _table(
            [
                {
                    "bins": bins,
                    "difference": percent(a.difference()),
                    "signed": percent(a.bias(), "+"),
                    "exact": percent(a.exact()),
                    "same answer": percent(a.same_answers),
                    "right": percent(a.right_answers),
                }
                for bins, a in found.by_bins.items()
            ]
        )
    )
    print(f"\nFrom {found.bins} time bins to the chip, one change at a time, all layers, per cent")
    print(
        _table(
            [
                {
                    "change": link.name,
                    "from the last": percent(link.before.difference()) if link.before else "",
                    "from the chip": percent(link.chip.difference()),
                    "signed": percent(link.chip.bias(), "+"),
                    "same answer": percent(link.chip.same_answers),
                    "right": percent(link.chip.right_answers),
                }
                for link in found.budget
            ]
        )
    )
    print()
    for name, text in LINKS.items():
        print(f"{name:<17}{text}")
    print("From lower clip on, the events of a bin come in an order drawn at random.")
    print("\nBesides, from the chip:")
    for name, a in found.besides.items():
        print(f"{name:<51}{percent(a.difference()):>6}, right answers {percent(a.right_answers)}")
    for layer, share in found.edges.items():
        print(f"{layer}: {percent(share)} % of its events lie on the edge of an odd map; both drop them")


def _table(rows: Sequence[Mapping[str, str | int | float]]) -> str:
    """Columns of text, fractions as per cent."""
    texts = [[f"{100 * v:.2f} %" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *texts]
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, wide, strict=True))
        )
        for line in lines
    )
