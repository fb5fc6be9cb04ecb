"""Malformed input of every kind to every reader, and to the command line.

    make fuzz                                        5,000 cases
    make fuzz ARGS="--cases 20000 --write"           ... and their figures in benchmarks/reliability/README.md
    make fuzz ARGS="--minutes 10 --seed 1 --only nir"
    make fuzz ARGS="--only npz --case 1234"          one case again, with what was done and what came of it

Exit code 1 where a reader raised anything but ``RequestError``, took damage to a file of ours for sound, did not end
within 20 seconds, or where a process took over 2 GB.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests" / "guard"))
MOST_BYTES, DEAD_AFTER_S = 2 * 10**9, 60


def main() -> int:
    given = _parser().parse_args()
    if given.worker:
        return _work(given)
    from tests.fuzz import driver, figures

    if given.case is not None:
        return _again(given)
    families = (
        list(driver.FAMILIES) if given.only is None else list(dict.fromkeys(f for f, _, _ in driver.find(given.only)))
    )
    if not families:
        print(f"--only {given.only}: no such family or kind; families are {', '.join(driver.FAMILIES)}")
        return 2
    whole = sum(driver.FAMILIES[family][2] for family in families)
    began, rows, failed = time.monotonic(), [], False
    for family in families:
        share = driver.FAMILIES[family][2] / whole
        found = _worker(family, given, share)
        rows.append(figures.row_of(family, found))
        failed |= bool(found["failures"]) or found["peak"] > MOST_BYTES
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        for one, times in _alike(found["failures"]):
            print(f"  {times} x {one['result']}: {one['what'][:200]}\n    {one['line']}")
            print("    " + one["said"][-900:].replace("\n", "\n    "), flush=True)
    seconds = time.monotonic() - began
    print(
        f"{sum(row['cases'] for row in rows)} cases in {seconds:.0f} s; {'failures above' if failed else 'no failure'}"
    )
    if given.write:
        figures.write(rows, seconds, " ".join(sys.argv[1:]))
    return int(failed)


def _alike(failures: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """One of each: those whose traceback ends in the same line are the same."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in failures:
        frames = re.findall(r'File "(?:[^"]*/)?(cil_spl/[^"]*|cli/[^"]*)", line (\d+)', one["said"])
        key = str(frames[-1]) if frames else re.sub(r"[\d/'\"]+", "", one["said"])[-60:]
        found.setdefault(f"{one['result']} {key}", []).append(one)
    return [(ones[0], len(ones)) for ones in found.values()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, help="how many in all; 5,000 where --minutes is not given either")
    parser.add_argument("--minutes", type=float, help="go on for so long, setting up not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="NAME", help="one kind or family, or those with the name in theirs")
    parser.add_argument("--case", type=int, metavar="N", help="one case of the kind that --only names")
    parser.add_argument("--write", action="store_true", help="figures into benchmarks/reliability/README.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser


def _worker(family: str, given: argparse.Namespace, share: float) -> dict[str, Any]:
    """A family in a process of its own, so that its memory is known and a crash ends it alone."""
    with tempfile.TemporaryDirectory(prefix="cilspl-fuzz-") as place:
        into = Path(place) / "found.json"
        words = [sys.executable, "-m", "tests.fuzz", "--worker", family, "--into", str(into), "--seed", str(given.seed)]
        words += ["--only", given.only] if given.only else []
        cases = 5000 if given.cases is None and given.minutes is None else given.cases
        words += ["--cases", str(max(1, round(cases * share)))] if cases is not None else []
        words += ["--minutes", str(given.minutes * share)] if given.minutes is not None else []
        variables = os.environ | {"MPLBACKEND": "Agg", "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "80"}
        with open(Path(place) / "stderr", "w+b") as said:
            code = subprocess.run(words, cwd=ROOT, env=variables, stderr=said, stdout=said, check=False).returncode
            said.seek(0)
            tail = said.read()[-4000:].decode(errors="replace")
        found = json.loads(into.read_text()) if into.exists() else _empty()
        if code or not into.exists():  # it crashed, or a case did not even end by an alarm
            at = into.with_suffix(".at")
            kind, number = at.read_text().split("\t") if at.exists() else (family, "0")
            line = f"make fuzz ARGS=\"--only '{kind}' --case {number} --seed {given.seed}\""
            found["failures"].append(
                {"result": "crash", "what": f"the process ended with {code}", "said": tail, "line": line}
            )
        return found


def _empty() -> dict[str, Any]:
    return {"counts": {}, "failures": [], "slowest": 0.0, "seconds": 0.0, "peak": 0}


def _work(given: argparse.Namespace) -> int:
    """What a worker does."""
    import resource

    import offline

    offline.block()
    from tests.fuzz import driver
    from tests.fuzz.kinds import Tally

    at = given.into.with_suffix(".at")

    def note(kind: str, number: int) -> None:
        at.write_text(f"{kind}\t{number}")
        faulthandler.dump_traceback_later(DEAD_AFTER_S, exit=True)

    chosen = driver.kinds_of(given.worker)
    if given.only and given.only != given.worker:
        names = [kind.name for family, kind, _ in driver.find(given.only) if family == given.worker]
        chosen = [one for one in chosen if one[0].name in names]
    whole, tally = sum(share for _, share in chosen), Tally()
    for kind, share in chosen:
        driver.place(kind, given.into.parent / "files")
        seconds = None if given.minutes is None else 60 * given.minutes
        driver.run_kind(kind, driver.numbers_of(share, whole, given.cases, seconds), given.seed, tally, note)
    faulthandler.cancel_dump_traceback_later()
    failures = [asdict(one) | {"line": driver.line_of(one, given.seed)} for one in tally.failures]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {
        "counts": dict(tally.counts),
        "failures": failures,
        "slowest": tally.slowest,
        "seconds": tally.seconds,
        "peak": peak,
    }
    given.into.write_text(json.dumps(found))
    return 0


def _again(given: argparse.Namespace) -> int:
    """One case, here."""
    import offline

    offline.block()
    from tests.fuzz import driver
    from tests.fuzz.kinds import FAILURES, attempt

    chosen = list(driver.find(given.only or ""))
    if len(chosen) != 1:
        print(f"--case needs one kind with --only; found are {', '.join(kind.name for _, kind, _ in chosen) or 'none'}")
        return 2
    with tempfile.TemporaryDirectory(prefix="cilspl-fuzz-") as place:
        one = attempt(driver.place(chosen[0][1], Path(place) / "files"), given.case, given.seed)
    print(f"{one.what}\n{one.result} after {one.seconds:.2f} s\n{one.said}")
    return int(one.result in FAILURES)


if __name__ == "__main__":
    sys.exit(main())
