"""Software and chip accuracy of six ways to train one network, every row with the same number of passes over the data.

    python experiments/table1/run.py                                         # embedded digits, a few minutes
    python experiments/table1/run.py --data nmnist8 --root DIR --bins 1 2 4 --seeds 0 1 2

Four sweeps (`cilspl run -m`), whose rows go to one file, and `cilspl table` on it, with the share of BPTT's drop that
chip-in-loop training removes. What has been made is not made again, so a series that was cut off goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.results import same, scores

DATA = {"event_digits": ["trainer.epochs=20"], "nmnist8": ["experiment=nmnist8"]}
WINDOWED = (["method=bptt,cil_bptt"], ["method=bptt", "quantize.aware=true"])
WITHOUT_WINDOWS = (["method=conversion", "model=cnn,qat_cnn"], ["method=cil_conversion"])  # one frame per recording
DRAWS = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="event_digits")
    parser.add_argument("--root", help="dataset.root of nmnist8")
    parser.add_argument("--bins", type=int, nargs="+", default=[2], help="windows of BPTT, one table each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=Path, help="file of rows (default: runs/table1-DATA.json)")
    parser.add_argument("overrides", nargs="*", help="for every run, after --: for example -- trainer.threads=1")
    given = parser.parse_args()
    if given.data == "nmnist8" and given.root is None:
        parser.error("--data nmnist8 needs --root: the folder of the recordings (experiments/README.md)")
    rows = given.rows or Path(f"runs/table1-{given.data}.json")
    common = [*DATA[given.data], *([f"dataset.root={given.root}"] if given.root else []), *given.overrides]
    common += [f"seed={','.join(map(str, given.seeds))}", "tracking.experiment=table1", "--rows", str(rows)]
    bins = f"frames.bins={','.join(map(str, given.bins))}"
    for words in (*([*row, bins] for row in WINDOWED), *WITHOUT_WINDOWS):
        cilspl("run", "-m", *words, *common)
    cilspl("table", "--from", str(rows), "--filter", "method=conversion,cil_conversion", "--format", "markdown")
    made = same.read_rows(rows)
    for n in given.bins:
        chosen = ["--filter", "method=bptt,cil_bptt", f"frames.bins={n}"]
        against = ["--against", "method=bptt", "quantize.aware=false"]
        cilspl("table", "--from", str(rows), *chosen, *against, "--format", "markdown")
        print(share_text(made, n), flush=True)
    return 0


def cilspl(*words: str) -> None:
    """Type a command."""
    print("cilspl", *words, flush=True)
    done = subprocess.run([Path(sys.executable).with_name("cilspl"), *words])
    if done.returncode:
        raise SystemExit(done.returncode)


def share_text(made: Sequence[Mapping[str, Any]], bins: int) -> str:
    """The share of BPTT's drop that CIL-SPL removes, and its interval; nothing where a seed has not both."""
    bptt = right(made, {"method.name": "bptt", "frames.bins": bins, "quantize.aware": False})
    cil = right(made, {"method.name": "cil_bptt", "frames.bins": bins, "quantize.aware": False})
    seeds = sorted(set(bptt) & set(cil))
    if not seeds:
        return ""
    parts = [
        np.stack([side[seed][stage] for seed in seeds])
        for side, stage in ((cil, "deployed"), (bptt, "deployed"), (bptt, "float"))
    ]
    value, low, high = bootstrap(lambda d: (d[0] - d[1]) / (d[2] - d[1]), parts)
    return (
        f"Share of BPTT's drop that CIL-SPL removes: {value:.0%} ({low:.0%} to {high:.0%}), 95 % of {DRAWS:,} paired "
        f"draws of recordings and of seeds {seeds}\n"
    )


def right(made: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> dict[int, dict[str, np.ndarray]]:
    """By seed and stage, whether each recording was answered correctly, of the runs with these parameters."""
    found = {}
    for run in made:
        if all(run["params"].get(key) == value for key, value in params.items()) and "scores" in run:
            told = {stage: scores.unpacked(run["scores"], stage) for stage in ("float", "deployed")}
            found[run["row"]["seed"]] = {stage: one.values for stage, one in told.items() if one is not None}
    return found


def bootstrap(figure, parts: list[np.ndarray]) -> tuple[float, float, float]:
    """A figure of mean accuracies and its 95 % percentile interval; a draw takes the same recordings and seeds of all.

    Shape:
        parts: (seeds, recordings) each.
    """
    random = np.random.default_rng(0)
    seeds, n = parts[0].shape
    drawn = []
    for _ in range(DRAWS // 500):
        recordings = random.multinomial(n, np.full(n, 1 / n), size=500) / n
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=500) / seeds
        means = [np.einsum("ds,sd->d", of_seeds, part @ recordings.T) for part in parts]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(figure(means))
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    return float(figure([part.mean() for part in parts])), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
