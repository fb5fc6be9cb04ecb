"""Runs that are cut off: whether record, store and exit code agree afterwards, and the next command succeeds.

    python benchmarks/reliability/kills.py             100 cases; --n 10 for fewer, --only sigterm disk for some kinds
    python benchmarks/reliability/kills.py --write     also record the table in README.md

A case is a kind of end (SIGKILL, SIGTERM, SIGINT, a full disk, a tracking server that is killed) at a moment of one
phase of a short run: start, preparation, training, evaluation, recording. Kinds and phases take turns, moments are
drawn with seed 0. After each, status in `run.json`, status in MLflow and exit code have to say the same. Then
`cilspl table` has to succeed, which makes good what SIGKILL left; a lost server is started again before, and
`cilspl restore` brings the copy up to date. Last, `cilspl run resume=RUN`, or the same command where no run had begun,
has to end as one finished run that is once in the store.

A full disk is a file system of its own in memory (tmpfs), for which the program starts itself anew in a namespace
(`unshare`); where that is not allowed, these cases are left out, which the report says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import about
from markdown import table

README = Path(__file__).resolve().parent / "README.md"
KINDS = ("sigkill", "sigterm", "sigint", "disk", "server")
PHASES = ("start", "preparation", "training", "evaluation", "recording")
SIGNALS = {"sigkill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT}
FREE = (0, 1 << 12, 1 << 16, 1 << 19)  # bytes that a full disk has left
DISK = 96 << 20
LIMIT_S = 300  # a command that takes longer hangs
WORDS = (
    "run",
    "method=bptt",
    "model.layers=[{conv:4,kernel:3,pool:4},{linear:classes}]",
    "trainer.epochs=2",
    "trainer.limit_batches=2",
    "trainer.threads=1",
    "target.backend=simulator",
)
MEANS = {0: "finished", 1: "failed", 2: "failed", 130: "killed", 143: "killed", -9: "killed"}
INSIDE = "CILSPL_KILLS_INSIDE"


@dataclass
class Case:
    """What came of one end: words for what was wrong, none where all was right."""

    kind: str
    phase: str
    code: int
    status: str
    seconds: float
    agree: str = ""
    follow: str = ""


def main() -> None:
    """Cut runs off and print how they ended; with --write also record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process begins with it ignored
    disks = _in_a_namespace(given)
    kinds = [kind for kind in given.only if kind != "disk" or disks]
    draw, began = random.Random(0), time.monotonic()
    turns = [(kind, phase) for phase in given.phases for kind in kinds]
    cases = []
    with tempfile.TemporaryDirectory(prefix="cilspl-kills-") as name:
        place = Place(Path(name))
        for number in range(given.n):
            kind, phase = turns[number % len(turns)]
            case = place.case(number, kind, phase, draw)
            wrong = "; ".join(text for text in (case.agree, case.follow) if text)
            print(f"{number + 1:4} {kind:8} {phase:12} exit {case.code:4} {case.status:9} {wrong or 'ok'}", flush=True)
            cases.append(case)
    left_out = [] if disks else ["full disks (no namespace allowed)"]
    text = report(cases, time.monotonic() - began, left_out)
    print(text)
    if given.write:
        record(text)
    sys.exit(any(case.agree or case.follow for case in cases))


def _in_a_namespace(given: argparse.Namespace) -> bool:
    """Start anew where file systems may be mounted; whether that is so here."""
    if "disk" not in given.only:
        return False
    if os.environ.get(INSIDE) == "1":
        return True
    works = (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        ).returncode
    )
    if works:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])
    return False


class Place:
    """Folders to stand in, each with a store that holds one finished run, and a cache with the data set."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.whole = folder / "whole"
        self.whole.mkdir()
        for _ in range(2):  # the first compiles and makes the data set
            began = time.monotonic()
            done = self.finish(WORDS, self.whole)
            self.life = time.monotonic() - began
            assert done.returncode == 0, done.stderr[-3000:]

    def environment(self, **more: str) -> dict[str, str]:
        once = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CILSPL_CACHE": str(self.cache)}
        rest = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        return {**rest, **once, **more}

    def start(self, words: tuple[str, ...], cwd: Path, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cil_spl.cli", *words]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=cwd, env=self.environment(**env), start_new_session=True, **pipes)

    def finish(self, words: tuple[str, ...], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        started = self.start(words, cwd, **env)
        try:
            out, err = started.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            started.kill()
            out, err = started.communicate()
            err += "\nhangs"
        return subprocess.CompletedProcess(words, started.returncode, out, err)

    def case(self, number: int, kind: str, phase: str, draw: random.Random) -> Case:
        """Begin a run, end it, look, and go on."""
        cwd = self.folder / str(number)
        cwd.mkdir()
        began = time.monotonic()
        with contextlib.ExitStack() as undo:
            if kind == "disk":
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(cwd)], check=True)
                undo.callback(subprocess.run, ["umount", "-l", str(cwd)], check=False)
            shutil.copy(self.whole / "mlflow.db", cwd)
            env = {"CILSPL_CACHE": str(cwd / "cache")} if phase == "preparation" else {}
            server = Server(cwd) if kind == "server" else None
            if server is not None:
                undo.callback(server.stop)
                server.start()
                env["MLFLOW_TRACKING_URI"] = server.uri
            started = self.start(WORDS, cwd, **env)
            reach(phase, cwd, started, draw.random(), self.life)
            if kind in SIGNALS:
                started.send_signal(SIGNALS[kind])
            elif server is not None:
                server.stop()
            else:
                fill(cwd, draw.choice(FREE))
            try:
                _, err = started.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                started.kill()
                _, err = started.communicate()
                err += "\nhangs"
            (cwd / "ballast").unlink(missing_ok=True)
            found = Case(kind, phase, started.returncode, "none", 0)
            self.judge(found, cwd, env, server, err)
        shutil.rmtree(cwd, ignore_errors=True)
        found.seconds = time.monotonic() - began
        return found

    def judge(self, case: Case, cwd: Path, env: dict[str, str], server: Server | None, err: str) -> None:
        """Whether all say the same, and the next commands succeed."""
        if "Traceback" in err or "hangs" in err:
            case.agree = "hangs" if "hangs" in err else f"a traceback: {err.strip().splitlines()[-1][:120]}"
        folder = recorded(cwd)
        if case.kind == "sigkill" or server is not None:  # nobody was left to say so, or nobody to hear
            if server is not None:
                server.start()
            first = ("restore", str(folder)) if server is not None and folder is not None else ("table",)
            case.follow = problem(first[0], self.finish(first, cwd, **env))
        case.agree = case.agree or disagreement(case, cwd, folder)
        words = WORDS if folder is None else ("run", f"resume={folder}")
        case.follow = case.follow or problem("going on", self.finish(words, cwd, **env))
        case.follow = case.follow or problem("table", self.finish(("table",), cwd, **env))
        folder = recorded(cwd)
        if not case.follow and (folder is None or status_of(folder) != "finished" or stored(cwd) != ["FINISHED"]):
            case.follow = f"went on to {folder and status_of(folder)} in the folder, {stored(cwd)} in the store"


class Server:
    """A tracking server on the store in a folder."""

    def __init__(self, cwd: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.cwd = f"http://127.0.0.1:{self.port}", cwd
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.cwd / 'mlflow.db'}", "--artifacts-destination", str(self.cwd)]
        words = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(self.port), *store]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.process = subprocess.Popen([sys.executable, "-m", "mlflow", *words], **quiet)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.1)
        raise TimeoutError(f"no server at {self.uri}")

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def reach(phase: str, cwd: Path, started: subprocess.Popen[str], share: float, life: float) -> None:
    """Wait for a moment of a phase; of one that has ended before, the end of the run."""
    marks: dict[str, tuple[Callable[[], object], float]] = {
        "start": (lambda: True, 0.4 * life),
        "preparation": (lambda: (cwd / "cache").exists(), 0.3 * life),
        "training": (lambda: recorded(cwd), 0.1 * life),
        "evaluation": (lambda: list(cwd.glob("runs/*/*/weights.pt")), 0.05 * life),
        "recording": (lambda: list(cwd.glob("runs/*/*/figures")), 0.1 * life),
    }
    reached, more = marks[phase]
    deadline = time.monotonic() + LIMIT_S
    while not reached() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.003)
    until = time.monotonic() + share * more
    while started.poll() is None and time.monotonic() < until:
        time.sleep(0.003)


def fill(cwd: Path, free: int) -> None:
    """Leave so many bytes on a disk."""
    with (cwd / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            left = os.statvfs(cwd).f_bavail * os.statvfs(cwd).f_frsize - free
            if left <= 0:
                return
            file.write(bytes(min(left, 1 << 20)))


def recorded(cwd: Path) -> Path | None:
    """The folder of the run that was recorded, if any was."""
    found = list(cwd.glob("runs/*/*/run.json"))
    return found[0].parent if found else None


def status_of(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


def stored(cwd: Path) -> list[str]:
    """How the runs of a folder stand in its store; the one that was there before is left out."""
    with contextlib.closing(sqlite3.connect(cwd / "mlflow.db")) as database:
        query = "select status from runs join tags using (run_uuid) where key = 'folder' and value like ?"
        return [status for (status,) in database.execute(query, (f"{cwd.resolve()}/%",))]


def disagreement(case: Case, cwd: Path, folder: Path | None) -> str:
    """What exit code, record and store say that does not go together; nothing where they agree."""
    held = stored(cwd)
    left = [path for path in cwd.glob("runs/*/*") if not (path / "run.json").exists()]
    if folder is None:
        if left and case.kind != "sigkill":
            return f"an empty folder {left[0].name} is left"
        return "" if not held and case.code != 0 else f"no record, but exit {case.code} and {held} in the store"
    case.status = status_of(folder)
    if MEANS.get(case.code) != case.status and not (case.kind == "sigkill" and case.code == 0):
        return f"exit {case.code}, but the record says {case.status}"
    return "" if held == [case.status.upper()] else f"the record says {case.status}, the store {held}"


def problem(name: str, done: subprocess.CompletedProcess[str]) -> str:
    return "" if done.returncode == 0 else f"{name}: exit {done.returncode}: {done.stderr.strip()[-160:]}"


def report(cases: list[Case], seconds: float, left_out: list[str]) -> str:
    """The figures in Markdown."""
    rows = []
    for kind in KINDS:
        mine = [case for case in cases if case.kind == kind]
        if mine:
            ends = sorted({case.status for case in mine})
            rows.append(
                {
                    "kind": kind,
                    "cases": len(mine),
                    "all agree": sum(not case.agree for case in mine),
                    "next commands succeed": sum(not case.follow for case in mine),
                    "ends": ", ".join(f"{sum(case.status == end for case in mine)} {end}" for end in ends),
                }
            )
    here = about()
    head = f"{here['date']}, {here['machine']}, load {here['load']}, commit {here['commit']}, `{command()}`: "
    tail = f"{len(cases)} cases in {seconds / 60:.0f} minutes" + "".join(f"; left out: {text}" for text in left_out)
    return f"{head}{tail}.\n\n{table('kind', rows)}"


def command() -> str:
    return " ".join(["python", "benchmarks/reliability/kills.py", *(w for w in sys.argv[1:] if w != "--write")])


def record(text: str) -> None:
    """Put the figures into README.md, in the place of those before."""
    before, _, rest = README.read_text().partition("<!-- kills -->")
    _, _, after = rest.partition("<!-- end of kills -->")
    README.write_text(f"{before}<!-- kills -->\n{text}\n<!-- end of kills -->{after}")


if __name__ == "__main__":
    main()
