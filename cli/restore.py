"""``cilspl restore``: make the tracking copy of runs again from their folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from cil_spl.base.errors import RequestError
from cil_spl.cli import DONE, WRONG, complain
from cil_spl.cli.words import parsed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl restore",
        description="Make the tracking copy of runs again from their folders, which are the truth. "
        "Runs that the store still has are left alone.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a folder of runs")
    parser.add_argument("--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db here)")
    given = parsed(parser, argv)

    from cil_spl.results import runs
    from cil_spl.results.folder import RUN_FILE
    from cil_spl.results.restore import restore

    code = DONE
    for name in given.runs:
        path = Path(name)
        below = runs.scan(path) if path.is_dir() and not (path / RUN_FILE).exists() else [runs.find(name)]
        for run in below:
            if run.status == "running" or run.info.get("refused"):
                continue
            try:
                print(f"{restore(run.folder, given.uri)}  {run.folder}")
            except RequestError as error:  # the others may still be copied
                complain(str(error))
                code = WRONG
    return code
