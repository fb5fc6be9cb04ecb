"""Software and chip accuracy of six ways to train one network, every row with the same number of passes over the data.

    python experiments/table1/run.py                                         # embedded digits, a few minutes
    python experiments/table1/run.py --data nmnist8 --root DIR --bins 1 2 4 --seeds 0 1 2

A run is one `cilspl run` in a folder of its own below --out; runs that are there already are not made again, so a
series that was cut off goes on. --only makes the runs of some rows; the table shows what is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

# What tells the rows apart; everything else is the same for all.
ROWS = {
    "CNN": ["method=conversion"],
    "QAT-CNN": ["method=conversion", "model=qat_cnn"],
    "BPTT": ["method=bptt"],
    "BPTT, aware": ["method=bptt", "quantize.aware=true"],
    "CIL-SPL (BPTT)": ["method=cil_bptt"],
    "CIL-SPL (conversion)": ["method=cil_conversion"],
}
# The methods of one frame per recording have no windows.
WITHOUT_WINDOWS = ("CNN", "QAT-CNN", "CIL-SPL (conversion)")
DATA = {
    "event_digits": ["trainer.epochs=20"],
    "nmnist8": ["experiment=nmnist8"],
}
STAGES = {"software": "float", "8 bit": "quantized", "chip": "deployed"}
DRAWS = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="event_digits")
    parser.add_argument("--root", help="dataset.root of nmnist8")
    parser.add_argument("--bins", type=int, nargs="+", default=[2], help="windows of BPTT, one table each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to make")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    parser.add_argument("overrides", nargs="*", help="for every run, after --: for example -- trainer.threads=1")
    given = parser.parse_args()
    if given.data == "nmnist8" and given.root is None:
        parser.error("--data nmnist8 needs --root: the folder of the recordings (experiments/README.md)")
    common = [*DATA[given.data], *([f"dataset.root={given.root}"] if given.root else []), *given.overrides]
    for seed in given.seeds:  # whole tables first, so that something can be read early
        for bins in given.bins:
            for row in given.only:
                make(
                    folder(given.out, given.data, row, bins, seed),
                    row,
                    [*common, f"frames.bins={bins}", f"seed={seed}"],
                )
    for bins in given.bins:
        print(table(given.out, given.data, bins, given.seeds))
    return 0


def folder(out: Path, data: str, row: str, bins: int, seed: int) -> Path:
    name = row.lower().replace(",", "").replace("(", "").replace(")", "").replace(" ", "-")
    # One run of a method without windows serves all tables.
    windows = "" if row in WITHOUT_WINDOWS else f"-{bins}"
    return out / data / f"{name}{windows}-s{seed}"


def make(where: Path, row: str, overrides: list[str]) -> None:
    """One run, unless it is there."""
    if finished(where):
        return
    if row in WITHOUT_WINDOWS:
        overrides = [o for o in overrides if not o.startswith("frames.bins=")]
    words = ["run", *overrides, *ROWS[row], "tracking.experiment=table1"]
    print("cilspl", *words, flush=True)
    shutil.rmtree(where, ignore_errors=True)  # what a run that was cut off left
    where.parent.mkdir(parents=True, exist_ok=True)
    command = Path(sys.executable).with_name("cilspl")
    done = subprocess.run([command, *words], env=os.environ | {"CILSPL_RUN_DIR": str(where)}, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)


def finished(where: Path) -> bool:
    record = where / "run.json"
    return record.exists() and json.loads(record.read_text())["status"] == "finished"


def right(where: Path) -> dict[str, np.ndarray]:
    """For each stage, whether each recording was answered correctly. Shape (N,)."""
    with (where / "decisions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: np.array([line[stage] == line["class"] for line in lines], float) for name, stage in STAGES.items()}


def table(out: Path, data: str, bins: int, seeds: list[int]) -> str:
    """The rows that are there, and what they are compared for, as Markdown."""
    found = {}
    for row in ROWS:
        runs = [folder(out, data, row, bins, seed) for seed in seeds]
        if all(finished(run) for run in runs):
            parts = [right(run) for run in runs]
            found[row] = {name: np.stack([part[name] for part in parts]) for name in STAGES}  # seeds, recordings
    if not found:
        return f"{data}, {bins} windows: no row has all of its runs"
    n = next(iter(found.values()))["chip"].shape[1]
    lines = [f"{data}, {bins} {'window' if bins == 1 else 'windows'}, {n} test recordings, seeds {seeds}", ""]
    lines += [f"| method | {' | '.join(STAGES)} | drop |", "| --- | --- | --- | --- | --- |"]
    for row, stages in found.items():
        cells = [spread(stages[name].mean(1)) for name in STAGES]
        drop = 100 * (stages["software"].mean() - stages["chip"].mean())
        lines.append(f"| {row} | {' | '.join(cells)} | {drop:.2f} |")
    lines += ["", *comparisons(found)]
    lines.append(
        "Percent, mean ± standard deviation over seeds. Same passes over the data in every row; in every run the epoch "
        "(and a conversion's gain) is the best on validation recordings on the chip, scored once on the test set."
    )
    return "\n".join(lines) + "\n"


def spread(values: np.ndarray) -> str:
    mean = f"{100 * values.mean():.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * values.std(ddof=1):.2f}"


def comparisons(found: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Chip accuracy of CIL-SPL (BPTT) against the baselines, with paired bootstrap intervals."""
    if "CIL-SPL (BPTT)" not in found or "BPTT" not in found:
        return []
    cil, bptt = found["CIL-SPL (BPTT)"], found["BPTT"]
    lines = []
    for row in ("BPTT", "BPTT, aware"):
        if row in found:
            value, low, high = bootstrap(lambda d: d[0] - d[1], [cil["chip"], found[row]["chip"]])
            lines.append(f"Chip, CIL-SPL (BPTT) - {row}: {100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})  ")
    parts = [cil["chip"], bptt["chip"], bptt["software"]]
    value, low, high = bootstrap(lambda d: (d[0] - d[1]) / (d[2] - d[1]), parts)
    lines.append(f"Share of BPTT's drop that CIL-SPL removes: {value:.0%} ({low:.0%} to {high:.0%})  ")
    lines.append(f"95 % intervals of {DRAWS:,} paired draws of recordings and seeds.  ")
    return lines


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
