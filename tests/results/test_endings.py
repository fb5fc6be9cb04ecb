"""How runs end: a signal, a full disk and a lost store say the same in the folder and in the store."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from cil_spl.base import files, signals
from cil_spl.base.errors import RequestError
from cil_spl.results import record as records
from cil_spl.results import runs, store
from cil_spl.results.mlflow_run import stored
from cil_spl.results.record import RESERVE_FILE, open_record
from cil_spl.results.restore import catch_up, restore
from cil_spl.results.store import client_of, store_uri, stored_runs
from cil_spl.results.sweep import Sweep
from cil_spl.training.checkpoints import write_checkpoint

CONFIG = {
    "seed": 3,
    "name": None,
    "method": {"name": "bptt"},
    "model": {"name": "m"},
    "dataset": {"name": "d"},
    "target": {"name": "speck", "backend": "auto"},
    "trainer": {"epochs": 2},
    "tracking": {"enabled": True, "uri": None, "experiment": "trial"},
}
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def interrupts():
    """SIGINT raises, also where the tests were started in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def status(folder):
    return json.loads((Path(folder) / "run.json").read_text())["status"]


def in_store():
    client = client_of(store_uri())
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [run for run in found if run.data.tags.get("kind") != "sweep"]


def statuses():
    return [run.info.status for run in in_store()]


class Disk:
    """A disk that is full while the reserve of a run is on it, or for good."""

    def __init__(self, monkeypatch, folder, for_good=False):
        self.folder, self.for_good, self.full = folder, for_good, False
        whole = files.write_whole

        def write_whole(path):
            if self.full and (self.for_good or (self.folder / RESERVE_FILE).exists()):
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(path)

        monkeypatch.setattr(files, "write_whole", write_whole)


def test_the_reserve_is_what_the_last_word_is_written_in(here, monkeypatch):
    disk = Disk(monkeypatch, here / "run")
    with open_record(CONFIG, here / "run") as record:
        assert (here / "run" / RESERVE_FILE).stat().st_size == 1 << 18
        record.finish({}, {"method": "bptt"})
        disk.full = True
    assert status("run") == "finished"
    assert statuses() == ["FINISHED"]
    assert not (here / "run" / RESERVE_FILE).exists()
    assert "no space was left" in json.loads((here / "run" / "run.json").read_text())["lost"]


def test_a_run_that_a_full_disk_ends_has_failed_everywhere(here, monkeypatch):
    disk = Disk(monkeypatch, here / "run")

    def work():
        with open_record(CONFIG, here / "run"):
            disk.full = True
            raise FULL

    with pytest.raises(OSError, match="No space left"):
        work()
    assert status("run") == "failed"
    assert statuses() == ["FAILED"]


def test_a_finished_run_that_cannot_be_written_down_has_failed(here, monkeypatch):
    disk = Disk(monkeypatch, here / "run", for_good=True)
    with pytest.raises(OSError, match="No space left"), open_record(CONFIG, here / "run"):
        disk.full = True
    assert statuses() == ["FAILED"]
    assert runs.read("run").status == "killed"  # nothing could be written, and its process is gone


@pytest.mark.parametrize("at", ["reserve", "write_json"])
def test_a_disk_that_is_full_from_the_start_leaves_no_record(at, here, monkeypatch):
    def full(*_args):
        raise FULL

    monkeypatch.setattr(records, at, full)
    with pytest.raises(OSError, match="No space left"), open_record(CONFIG, here / "run"):
        pass
    assert {path.name for path in (here / "run").iterdir()} <= {".lock"}
    assert statuses() == []


def test_a_run_that_could_not_go_on_is_as_it_was(here, monkeypatch):
    with pytest.raises(ZeroDivisionError), open_record(CONFIG, here / "run"):
        raise ZeroDivisionError
    before = (here / "run" / "run.json").read_bytes()
    monkeypatch.setattr(records.Record, "start_copy", lambda *_a, **_k: (_ for _ in ()).throw(RequestError("gone")))
    with pytest.raises(RequestError, match="gone"), open_record(CONFIG, here / "run", resume=True):
        pass
    assert (here / "run" / "run.json").read_bytes() == before


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_end_is_written_counts_after_it(number, here, monkeypatch):
    close = records.Record._close

    def interrupted(self, *args):
        os.kill(os.getpid(), number)
        return close(self, *args)

    monkeypatch.setattr(records.Record, "_close", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught, open_record(CONFIG, here / "run"):
        pass
    assert isinstance(caught.value, signals.Terminated) == (number == signal.SIGTERM)
    assert status("run") == "finished"
    assert statuses() == ["FINISHED"]


def test_a_signal_while_the_record_is_begun_ends_it_as_killed(here, monkeypatch):
    start = records.Record.start_copy

    def interrupted(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        start(self, *args, **kwargs)

    monkeypatch.setattr(records.Record, "start_copy", interrupted)
    with pytest.raises(signals.Terminated), open_record(CONFIG, here / "run"):
        raise AssertionError
    assert status("run") == "killed"
    assert statuses() == ["KILLED"]


def test_a_second_signal_is_not_held_back():
    def work():
        with signals.held_back() as held:
            os.kill(os.getpid(), signal.SIGINT)
            assert held.number == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_while_the_store_is_asked_waits_for_its_answer(here, monkeypatch):
    """A query that is cut short would leave the file locked, by this very process."""
    store.connect(store_uri())
    answered = []
    client_of = store.client_of

    class Slow:
        def __init__(self, client):
            self.client = client

        def search_experiments(self, **options):
            os.kill(os.getpid(), signal.SIGINT)
            answered.append(self.client.search_experiments(**options))

    monkeypatch.setattr(store, "client_of", lambda uri: Slow(client_of(uri)))
    with pytest.raises(KeyboardInterrupt):
        store.connect(store_uri())
    assert len(answered) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# a store that was lost


class Gone:
    """A client whose server was killed."""

    def __getattr__(self, name):
        raise ConnectionError("server gone")


def lose(here):
    """A run whose store is lost after its first epoch and for good."""
    with open_record(CONFIG, here / "run") as record:
        record.log({"train/loss": 0.5}, step=0)
        record._copy.client = Gone()
        record.log({"train/loss": 0.25}, step=1)
        record.finish({"float/accuracy": 0.5}, {"method": "bptt"})
    assert statuses() == ["RUNNING"]
    return record.run_id


def test_restore_completes_the_run_that_the_store_has(here):
    run_id = lose(here)
    for _ in range(2):
        assert restore(here / "run") == run_id
        (run,) = in_store()
        assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
        history = client_of(store_uri()).get_metric_history(run_id, "train/loss")
        assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25)]
    info = json.loads((here / "run" / "run.json").read_text())
    assert info["run_id"] == run_id
    assert "former_run_ids" not in info
    assert "lost" not in info


def test_the_store_is_told_how_a_run_ended_even_after_it_was_lost(here):
    with open_record(CONFIG, here / "run") as record:
        client, record._copy.client = record._copy.client, Gone()
        record.log({"train/loss": 0.5}, step=0)
        record._copy.client = client
    assert statuses() == ["FINISHED"]
    assert restore(here / "run") == record.run_id  # it lacks the metric still
    assert in_store()[0].data.metrics["train/loss"] == 0.5


def test_a_store_that_does_not_answer_is_no_store_without_the_run(here):
    with pytest.raises(ConnectionError):
        stored(Gone(), "a" * 32)


def test_a_run_goes_between_two_stores_and_is_once_in_each(here, template):
    with open_record(CONFIG, here / "run") as record:
        record.finish({}, {"method": "bptt"})
    shutil.copy(template, here / "other.db")
    there = restore(here / "run", "sqlite:///other.db")
    assert there != record.run_id
    assert restore(here / "run") == record.run_id
    assert restore(here / "run", "sqlite:///other.db") == there
    assert len(in_store()) == len(stored_runs("sqlite:///other.db")) == 1
    assert restore(here / "run") == record.run_id
    assert runs.read("run").info["former_run_ids"] == [there]


def test_restored_children_keep_their_sweep(here, template):
    sweep = Sweep.open(CONFIG["tracking"], here / "sweep", ["seed=0,1"])
    for number in ("0", "1"):
        with open_record(CONFIG, here / "sweep" / number) as record:
            record.finish({}, {"method": "bptt"})
    sweep.close("finished", [])
    shutil.copy(template, here / "mlflow.db")
    for number in ("0", "1", "0"):
        restore(here / "sweep" / number)
    client = client_of(store_uri())
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in found if run.data.tags.get("kind") == "sweep"]
    assert parent.data.tags["overrides"] == "seed=0,1"
    assert parent.info.status == "FINISHED"
    assert [run.data.tags["mlflow.parentRunId"] for run in in_store()] == [parent.info.run_id] * 2


def test_what_sigkill_left_is_made_good_by_the_table(here):
    body = f"""
        import os, signal
        from cil_spl.results.record import open_record
        with open_record({CONFIG!r}, "run") as record:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(body)], cwd=here, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (status("run"), statuses()) == ("running", ["RUNNING"])
    assert runs.read("run").status == "killed"
    assert catch_up(store_uri(), stored_runs(store_uri()))
    assert (status("run"), statuses()) == ("killed", ["KILLED"])
    assert not catch_up(store_uri(), stored_runs(store_uri()))


def test_a_run_that_goes_on_is_left_alone(here):
    with open_record(CONFIG, here / "run"):
        assert not catch_up(store_uri(), stored_runs(store_uri()))
        assert statuses() == ["RUNNING"]


class Finaliser:
    """Where Python cannot hand an exception on, it says so and goes on."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("logged", [True, False])
def test_a_signal_whose_exception_gets_lost_counts_nevertheless(logged, here):
    def work():
        with open_record(CONFIG, here / "run") as record:
            Finaliser()
            if logged:
                record.log({"train/loss": 1.0}, 1)
                raise AssertionError

    with pytest.raises(signals.Terminated):
        work()
    assert status("run") == "killed"
    assert statuses() == ["KILLED"]


def test_a_full_disk_says_so_of_a_checkpoint(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path / "x.pt", {"a": torch.zeros(9)})
    assert not list(tmp_path.iterdir())

    class Full(io.RawIOBase):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cil_spl.training.checkpoints.write_sealed", lambda path, write: write(Full()))
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path / "x.pt", {"a": torch.zeros(9)})
