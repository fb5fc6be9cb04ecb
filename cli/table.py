"""``cilspl table``: the results table of the tracked runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from cil_spl.base.errors import RequestError
from cil_spl.cli.words import parsed


def main(argv: list[str]) -> int:
    from cil_spl.results.table import FORMATS

    parser = argparse.ArgumentParser(
        prog="cilspl table",
        description="Results table of the tracked runs. Runs that differ only in the seed make one row; "
        "parameters that tell rows of one name apart are listed as settings.",
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
    parser.add_argument("--from", dest="folder", metavar="FOLDER", help="read run folders below here, not the store")
    parser.add_argument("--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db here)")
    parser.add_argument("--output", metavar="FILE", help="write to a file instead of the screen")
    given = parsed(parser, argv)

    from cil_spl.results import runs, table
    from cil_spl.results.store import anchor, store_uri, stored_runs

    if given.folder is not None:
        if not Path(given.folder).is_dir():
            raise RequestError(f"--from {given.folder}: no such folder")
        found = [run.info for run in runs.scan(given.folder)]
        if given.experiment is not None:
            found = [info for info in found if info["params"].get("tracking.experiment") == given.experiment]
    else:
        uri = anchor(given.uri) if given.uri else store_uri()
        found = stored_runs(uri, given.experiment)
        if any(info["status"] == "running" for info in found):
            from cil_spl.results.restore import catch_up

            found = stored_runs(uri, given.experiment) if catch_up(uri, found) else found
    text = table.render(table.tabulate(found, given.filter), given.format)
    if given.output is None:
        print(text, end="")
        return 0
    try:
        Path(given.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--output {given.output}: cannot be written ({error})") from error
    return 0
