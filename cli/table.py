"""``cilspl table``: the results table of the tracked runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cil_spl.base.errors import RequestError
from cil_spl.cli.words import parsed


def main(argv: list[str]) -> int:
    given = parsed(_parser(), argv)

    from cil_spl.results import places, report, table
    from cil_spl.results.cells import one_line

    fetch = None
    if given.places is not None:
        found = places.gather(given.places)
        if given.experiment is not None:
            found = [info for info in found if info["params"].get("tracking.experiment") == given.experiment]
    else:
        from cil_spl.results.store import anchor, artifacts_of, store_uri, stored_runs

        uri = anchor(given.uri) if given.uri else store_uri()
        found = stored_runs(uri, given.experiment)
        if any(info["status"] == "running" for info in found):
            from cil_spl.results.restore import catch_up

            found = stored_runs(uri, given.experiment) if catch_up(uri, found) else found
        fetch = artifacts_of(uri) if given.against else None
    made = table.tabulate(found, given.filter, given.against, fetch)
    width, styled = report.terminal() if given.output is None else (None, False)
    text = table.render(made, given.format, width, styled)
    if given.format == "csv":
        for note in made.notes:  # which a file of numbers has no place for
            print(one_line(note), file=sys.stderr)
    if given.output is None:
        print(text, end="")
        return 0
    try:
        Path(given.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--output {given.output}: cannot be written ({error})") from error
    return 0


def _parser() -> argparse.ArgumentParser:
    from cil_spl.results.table import FORMATS

    parser = argparse.ArgumentParser(
        prog="cilspl table",
        description="Results table of the tracked runs. Runs that differ only in the seed make one row; "
        "parameters in which rows differ are listed as settings. With --against, each row's deployed score is compared "
        "with that of one row: the difference with its 95 % interval, paired by recording and seed.",
        epilog="examples: cilspl table --filter dataset=event_digits --against method=bptt target=speck; "
        "cilspl table --from runs/sweep experiments/table1 --format markdown",
    )
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--experiment", metavar="NAME", help="runs of this experiment only (tracking.experiment)")
    parser.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="only runs where a column or parameter has this value, or one of several: method=bptt,conversion",
    )
    parser.add_argument(
        "--against",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="the row of each data set that the others are compared with, chosen as by --filter; or float, for each "
        "row against its own network before conversion and deployment (spiking, quantized likewise)",
    )
    parser.add_argument(
        "--from",
        dest="places",
        metavar="PLACE",
        nargs="+",
        action="extend",
        help="read run folders and files of rows (rows.json, results/*.json) below these folders, or such files, "
        "not the store",
    )
    parser.add_argument("--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db here)")
    parser.add_argument("--output", metavar="FILE", help="write to a file instead of the screen")
    return parser
