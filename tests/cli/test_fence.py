"""Ways to get code run from a config, a run folder or Hydra's own groups: none runs, and each is one sentence.

A module `evil` lies where Python finds it, and leaves a file when it is imported; the commands that configs carry leave
the same file. Everything arrives as it would from someone else: as YAML in another folder, or as a run's folder.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cil_spl.base import fence
from cil_spl.base.files import file_digest, write_json
from cil_spl.results.folder import artifacts
from cil_spl.results.store import own_store, redact

OFF = "tracking.enabled=false"
EVIL = """
import logging
from pathlib import Path

Path(__file__).parents[1].joinpath("canary").touch()

def run(*args, **kwargs): ...
class Handler(logging.StreamHandler): ...
class Callback:
    def __init__(self, **kwargs): ...
"""
DATA = "name: x\nsensor_size: [34, 34, 2]\nn_classes: 10\n"
GLOBAL = "# @package _global_\n"
OWN = "defaults:\n  - config\n  - _self_\n"  # a primary config of someone's own


def experiment(text: str) -> dict[str, str]:
    return {"mine/experiment/x.yaml": GLOBAL + text}


def hydra(text: str) -> dict[str, str]:
    return experiment("hydra:\n" + "".join(f"  {line}\n" for line in text.splitlines()))


def launcher(text: str) -> dict[str, str]:
    basic = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"
    chosen = experiment("defaults:\n  - override /hydra/launcher: theirs\n")
    return {**chosen, "mine/hydra/launcher/theirs.yaml": basic + text}


RUN = ("run", "--config-dir", "mine", "experiment=x", OFF)
DATASET = ("run", "--config-dir", "mine", "dataset=x", OFF)
SWEEP = ("run", "--config-dir", "mine", "-m", "experiment=x", "seed=0,1", OFF)
WALK = {"mine/dataset/x.yaml": "_target_: cil_spl.results.record.os.system\ncommand: touch canary\n" + DATA}
CALL = {"mine/dataset/x.yaml": "_target_: evil.run\n" + DATA}

# name: (files, words, a piece of the sentence)
WAYS: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "attribute walk": (WALK, DATASET, "dataset._target_=cil_spl.results.record.os.system: not one of cil_spl's"),
    "attribute walk, described": (WALK, ("data", "describe", "x", "-cd", "mine"), "not one of cil_spl's"),
    "attribute walk, pictured": (WALK, ("data", "picture", "x", "-cd", "mine"), "not one of cil_spl's"),
    "attribute walk, validated": (WALK, ("validate", "-cd", "mine", "dataset=x"), "not one of cil_spl's"),
    "module not named": (CALL, DATASET, "--extensions evil with other commands"),
    "module not named, described": (CALL, ("data", "describe", "x", "-cd", "mine"), "--extensions evil"),
    "module not named, test set": (
        CALL,
        ("run", "--config-dir", "mine", "dataset@test_dataset=x", OFF),
        "test_dataset._target_=evil.run",
    ),
    "file allows itself": (experiment("extensions: [evil]\ntask:\n  _target_: evil.run\n"), RUN, "extensions=[evil]"),
    "file allows itself, no other use": (experiment("extensions: [evil]\n"), RUN, "a list in a file allows nothing"),
    "file allows itself, validated": (
        experiment("extensions: [evil]\n"),
        ("validate", "-cd", "mine", "experiment=x"),
        "extensions=[evil]",
    ),
    "local config of another folder": (
        {"mine/local/default.yaml": GLOBAL + "extensions: [evil]\n"},
        ("run", "--config-dir", "mine", OFF),
        "extensions=[evil]",
    ),
    "typed words in a file": (
        hydra("overrides:\n  task: ['extensions=[evil]']"),
        RUN,
        "hydra.overrides: a file must not set it",
    ),
    "typed words in a file, of a sweep": (
        hydra("overrides:\n  task: ['extensions=[evil]']"),
        SWEEP,
        "hydra.overrides: a file must not set it",
    ),
    "sweep over extensions": (
        hydra("mode: MULTIRUN\nsweeper:\n  params:\n    extensions: '[evil]'"),
        RUN,
        "hydra.sweeper.params.extensions=[evil]: only a file",
    ),
    "sweep over Hydra's groups": (
        hydra("sweeper:\n  params:\n    +hydra.callbacks.x._target_: evil.Callback"),
        SWEEP,
        "hydra.sweeper.params.+hydra.callbacks.x._target_=evil.Callback",
    ),
    "import by a name": (
        {"mine/dataset/x.yaml": "_target_: cil_spl.cli.import_module\n" + DATA.replace("x", "evil", 1)},
        DATASET,
        "cil_spl.cli.import_module: not one of cil_spl's",
    ),
    "prefix of the package": (
        {"mine/dataset/x.yaml": "_target_: cil_spl_evil.run\n" + DATA},
        DATASET,
        "cil_spl_evil.run: only functions of cil_spl are run",
    ),
    "private": ({"mine/dataset/x.yaml": "_target_: cil_spl.data.datasets._cached\n" + DATA}, DATASET, "not one of"),
    "dunder": (
        experiment("task:\n  _target_: cil_spl.tasks.classification.classification.__globals__\n"),
        RUN,
        "task._target_=cil_spl.tasks.classification.classification.__globals__: not one of",
    ),
    "computed": (
        {"mine/dataset/x.yaml": "_target_: ${oc.env:EVIL}\n" + DATA},
        DATASET,
        "dataset._target_=evil.run: only functions of",
    ),
    "observer": (experiment("observer:\n  _target_: evil.run\n"), RUN, "observer._target_=evil.run"),
    "samna, named": ({}, ("run", "extensions=[samna]", OFF), "samna cannot be allowed"),
    "samna, in a module": ({}, ("run", "extensions=[sinabs.backend.dynapcnn.x]", OFF), "it imports samna"),
    "samna, called": (experiment("target:\n  _target_: samna.init\n"), RUN, "samna cannot be allowed"),
    "samna, through cil_spl": (
        experiment("target:\n  _target_: cil_spl.targets.devkit.connected\n"),
        RUN,
        "target._target_=cil_spl.targets.devkit.connected: not one of",
    ),
    "callback": (
        hydra("callbacks:\n  x:\n    _target_: evil.Callback"),
        RUN,
        "hydra.callbacks.x._target_=evil.Callback: only a file from elsewhere says so",
    ),
    "callback of a sweep": (
        hydra("callbacks:\n  x:\n    _target_: evil.Callback"),
        SWEEP,
        "hydra.callbacks.x._target_",
    ),
    "callback, shown": (
        hydra("callbacks:\n  x:\n    _target_: evil.Callback"),
        (*RUN, "--cfg", "job"),
        "hydra.callbacks",
    ),
    "callback, validated": (
        hydra("callbacks:\n  x:\n    _target_: evil.Callback"),
        ("validate", "-cd", "mine", "experiment=x"),
        "hydra.callbacks.x._target_",
    ),
    "callback in a runs' choice of a sweep": (
        hydra("callbacks:\n  x:\n    _target_: evil.Callback"),
        ("run", "--config-dir", "mine", "-m", "experiment=nmnist8,x", OFF),
        "hydra.callbacks.x._target_",
    ),
    "callbacks of another folder, chosen": (
        {"mine/hydra/callbacks/theirs.yaml": "x:\n  _target_: evil.Callback\n"},
        ("run", "--config-dir", "mine", "hydra/callbacks=theirs", OFF),
        "hydra.callbacks.x._target_",
    ),
    "callback, computed": (
        experiment("hydra:\n  callbacks: ${spy}\nspy:\n  x:\n    _target_: evil.Callback\n"),
        RUN,
        "hydra.callbacks",
    ),
    "argument of our own callback": (
        hydra("callbacks:\n  sweep:\n    x:\n      _target_: evil.Callback"),
        SWEEP,
        "hydra.callbacks.sweep.x._target_",
    ),
    "launcher": (hydra("launcher:\n  _target_: evil.Callback"), SWEEP, "hydra.launcher._target_=evil.Callback"),
    "argument of a launcher": (
        launcher("x:\n  _target_: evil.Callback\n"),
        SWEEP,
        "hydra.launcher.x._target_=evil.Callback",
    ),
    "shell command of a launcher": (launcher("setup: [touch canary]\n"), SWEEP, "hydra.launcher.setup.0=touch canary"),
    "sweeper": (hydra("sweeper:\n  _target_: evil.Callback"), SWEEP, "hydra.sweeper._target_=evil.Callback"),
    "log handler's class": (
        hydra("job_logging:\n  handlers:\n    x:\n      class: evil.Handler\n  root:\n    handlers: [x]"),
        RUN,
        "hydra.job_logging.handlers.x.class=evil.Handler",
    ),
    "log over a network": (
        hydra("job_logging:\n  handlers:\n    x:\n      class: logging.handlers.SocketHandler"),
        RUN,
        "hydra.job_logging.handlers.x.class=logging.handlers.SocketHandler",
    ),
    "log handler's factory": (
        hydra("job_logging:\n  handlers:\n    x:\n      (): evil.run"),
        RUN,
        "hydra.job_logging.handlers.x.()=evil.run",
    ),
    "function of logging's own": (
        hydra("job_logging:\n  formatters:\n    x:\n      (): logging.config.dictConfig"),
        RUN,
        "hydra.job_logging.formatters.x.()",
    ),
    "object in a log handler": (
        hydra("job_logging:\n  handlers:\n    console:\n      stream: ext://evil.run"),
        RUN,
        "hydra.job_logging.handlers.console.stream=ext://evil.run",
    ),
    "object in a log handler, computed": (
        experiment(
            "name: ext://evil.run\nhydra:\n  job_logging:\n    handlers:\n      console:\n        stream: ${name}\n"
        ),
        RUN,
        "hydra.job_logging.handlers.console.stream=${name}",
    ),
    "object in a log handler, by the job's name": (
        hydra(
            "job:\n  name: '://evil.run'\njob_logging:\n  handlers:\n    console:\n      stream: ext${hydra.job.name}"
        ),
        RUN,
        "hydra.job_logging.handlers.console.stream",
    ),
    "attribute of a log handler": (
        hydra("job_logging:\n  handlers:\n    file:\n      .:\n        baseFilename: canary"),
        RUN,
        "hydra.job_logging.handlers.file..",
    ),
    "log that is a script": (
        hydra("job_logging:\n  handlers:\n    file:\n      filename: canary"),
        RUN,
        "hydra.job_logging.handlers.file.filename=canary",
    ),
    "log of a sweep": (
        hydra("hydra_logging:\n  handlers:\n    x:\n      class: evil.Handler"),
        SWEEP,
        "hydra.hydra_logging.handlers.x.class",
    ),
    "log in a run's choice of a sweep": (
        hydra("job_logging:\n  handlers:\n    x:\n      class: evil.Handler"),
        ("run", "--config-dir", "mine", "-m", "experiment=nmnist8,x", OFF),
        "hydra.job_logging.handlers.x.class",
    ),
    "environment": (hydra("job:\n  env_set:\n    PATH: evil"), RUN, "hydra.job.env_set.PATH=evil"),
    "search path": (
        {"mine/own.yaml": OWN + "hydra:\n  searchpath: ['pkg://evil']\n"},
        ("run", "--config-dir", "mine", "--config-name", "own", OFF),
        "hydra.searchpath=[pkg://evil]: a file names it",
    ),
    "search path, validated": (
        {"mine/own.yaml": OWN + "hydra:\n  searchpath: ['pkg://evil']\n"},
        ("validate", "-cn", "own", "hydra.searchpath=[file://mine]"),
        "own",
    ),
    "search path of structured configs": (
        {"mine/own.yaml": OWN + "hydra:\n  searchpath: ['structured://evil']\n"},
        ("run", "--config-dir", "mine", "--config-name", "own", OFF),
        "hydra.searchpath=[structured://evil]: a file names it",
    ),
    "pickle": ({}, ("run", "--experimental-rerun", "job.pickle"), "it unpickles a file"),
    "pickle, abbreviated": ({}, ("run", "--exp=job.pickle"), "it unpickles a file"),
}


class Pickled:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.fixture
def canary(here, monkeypatch):
    """The file that nothing may leave."""
    for name in ("evil", "cil_spl_evil"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(EVIL)
        (here / name / "default.yaml").write_text("{}")
    (here / "mine").mkdir()
    (here / "job.pickle").write_bytes(pickle.dumps(Pickled()))
    monkeypatch.setenv("EVIL", "evil.run")
    monkeypatch.syspath_prepend(str(here))
    yield here / "canary"
    for name in ("evil", "cil_spl_evil"):
        sys.modules.pop(name, None)


def lay(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_in(way, cilspl, canary, pipeline):
    files, words, piece = WAYS[way]
    lay(files)
    said = cilspl(*words)
    assert said.code == 2, said.err
    assert piece in said.err
    assert "Traceback" not in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("cilspl: ")]) == 1, said.err
    assert not canary.exists()
    assert not {"evil", "cil_spl_evil", "samna"} & set(sys.modules)
    assert not pipeline.ran


# A colleague's run folder.


def rewrite(folder: Path, **entries) -> None:
    """Change a run's record as someone would who means it: with a checksum that is right."""
    info = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**info, **entries})


@pytest.fixture
def folder(cilspl, canary, pipeline):
    """A finished run, whose config is changed as a test says."""
    assert cilspl("run", "hydra.run.dir=theirs", OFF).code == 0
    pipeline.ran.clear()
    Path("mine.csv").write_text("1,2,0,1\n")

    def change(**settings):
        config = OmegaConf.load("theirs/config.yaml")
        for key, value in settings.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        OmegaConf.save(config, "theirs/config.yaml")
        rewrite(Path("theirs"), files={"config.yaml": file_digest(Path("theirs/config.yaml"))})

    return change


COMMANDS = {
    "predict": ("predict", "theirs", "mine.csv"),
    "mismatch": ("chip", "mismatch", "theirs"),
    "resume": ("run", "resume=theirs", "trainer.epochs=30"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"task": {"_target_": "cil_spl.results.record.os.system", "command": "touch canary"}},
        {"task": {"_target_": "evil.run"}},
        {"dataset___target_": "evil.run"},
        {"method": {"_target_": "cil_spl.cli.import_module", "name": "evil"}},
        {"extensions": ["evil"]},
        {"extensions": ["evil"], "task": {"_target_": "evil.run"}},
        {"extensions": ["samna"], "target": {"_target_": "samna.init"}},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_no_way_in_through_a_run_folder(command, settings, cilspl, canary, folder, pipeline):
    folder(**settings)
    said = cilspl(*COMMANDS[command])
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    assert said.err.startswith("cilspl: ")
    assert len(said.err.splitlines()) == 1
    assert not canary.exists()
    assert not {"evil", "samna"} & set(sys.modules)
    assert not pipeline.ran


def test_a_run_folders_list_counts_when_it_is_typed(cilspl, canary, folder, pipeline, monkeypatch):
    folder(extensions=["evil"], dataset___target_="evil.run")
    assert "--extensions evil with other commands" in cilspl("predict", "theirs", "mine.csv").err
    monkeypatch.setattr(fence, "make", lambda config, group: types.SimpleNamespace(family="cnn"))
    said = cilspl("predict", "theirs", "mine.csv", "--extensions", "evil")
    assert canary.exists()
    assert "leaves no chip network" in said.err  # all of its config was accepted


# What the user's own words do.


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ("run", "+hydra.callbacks.x._target_=evil.Callback", OFF)),
        ({"mine/experiment/x.yaml": ""}, ("run", "-cd", "mine", "+hydra.callbacks.x._target_=evil.Callback", OFF)),
        ({"mine/experiment/x.yaml": ""}, ("run", "-cd", "mine", "+hydra.callbacks.x={_target_: evil.Callback}", OFF)),
        (hydra("callbacks:\n  x:\n    _target_: evil.Callback"), (*RUN, "hydra.callbacks.x._target_=evil.Callback")),
        ({}, ("run", "hydra.searchpath=[pkg://evil]", OFF)),
        (experiment("extensions: [evil]\n"), (*RUN, "extensions=[evil]", "task._target_=evil.run")),
        (CALL, (*DATASET, "extensions=[evil]")),
    ],
)
def test_what_is_typed_is_done(files, words, cilspl, canary, pipeline):
    lay(files)
    said = cilspl(*words)
    assert canary.exists(), said.err


@pytest.mark.parametrize(
    "text",
    [
        "launcher:\n  n_jobs: 2\nsweeper:\n  params:\n    seed: 0,1\n    +trainer.warmup_steps: '0'",
        "job_logging:\n  formatters:\n    short:\n      format: '%(levelname)s %(message)s'\n  root:\n    level: DEBUG",
        "job_logging:\n  handlers:\n    file:\n      class: logging.FileHandler\n"
        "      filename: ${hydra.runtime.output_dir}/${hydra.job.name}.log",
        "job:\n  chdir: false\nrun:\n  dir: runs/elsewhere",
    ],
)
def test_what_files_may_say_of_hydra(text, cilspl, canary, pipeline):
    lay(hydra(text))
    words = SWEEP if "sweeper" in text else RUN
    said = cilspl(*(word for word in words if not ("sweeper" in text and word.startswith("seed="))))
    if "n_jobs" in text:  # the basic launcher takes none; it was asked
        assert "unexpected keyword argument" in said.err or "n_jobs" in said.err
        assert "only a file from elsewhere" not in said.err
    else:
        assert said.code == 0, said.err


def test_choices_of_hydras_own_groups_go_on_working(cilspl, canary, pipeline):
    lay(experiment("defaults:\n  - override /hydra/job_logging: none\n"))
    assert cilspl(*RUN).code == 0
    assert cilspl(*RUN, "hydra/job_logging=stdout").code == 0
    assert cilspl(*SWEEP, "hydra.sweeper.max_batch_size=1").code == 0


def test_the_users_own_local_config_is_trusted(cilspl, canary, pipeline, monkeypatch, tmp_path):
    conf = tmp_path / "conf"
    (conf / "local").mkdir(parents=True)
    (conf / "local" / "default.yaml").write_text(GLOBAL + "extensions: [evil]\n")
    monkeypatch.setattr("cil_spl.base.fence.files", lambda _: conf)
    from cil_spl.cli.compose import extensions_of

    cfg = OmegaConf.create({"extensions": ["evil"]})
    assert extensions_of(cfg, ["seed=1"], str(tmp_path)) == ["evil"]
    assert extensions_of(OmegaConf.create({"extensions": []}), ["extensions=[]"], str(tmp_path)) == []
    assert not canary.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--config-dir", "mine", "experiment=x", OFF),
        ("predict", "theirs", "mine.csv"),
    ],
)
def test_in_a_process_of_its_own(words, cilspl, canary, folder):
    """The current folder is on the path there, so that the module would be found."""
    lay(hydra("callbacks:\n  x:\n    _target_: evil.Callback"))
    folder(task={"_target_": "cil_spl.results.record.os.system", "command": "touch canary"})
    done = subprocess.run([sys.executable, "-m", "cil_spl.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("cilspl: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not canary.exists()


# Links, other stores, passwords.


def test_a_link_is_not_followed_out_of_a_folder(cilspl, store, pipeline):
    assert cilspl("run", "hydra.run.dir=theirs").code == 0
    (store / "secret").mkdir()
    (store / "secret" / "key").write_text("private")
    (Path("theirs") / "key").symlink_to(store / "secret" / "key")
    (Path("theirs") / "figures").symlink_to(store / "secret")
    (Path("theirs") / "more").mkdir()
    (Path("theirs") / "more" / "deep").symlink_to(store / "secret" / "key")
    (Path("theirs") / "more" / "kept").write_text("kept")
    names = [path.relative_to(store / "theirs").as_posix() for path in artifacts(store / "theirs")]
    assert "more/kept" in names
    assert not [name for name in names if "key" in name or "deep" in name or name.startswith("figures")]


def test_restore_writes_to_no_store_that_a_folder_names(cilspl, store, pipeline, template):
    (store / "other").mkdir()
    (store / "other" / "mlflow.db").write_bytes(template.read_bytes())
    before = (store / "other" / "mlflow.db").read_bytes()
    for name in ("one", "two"):
        assert cilspl("run", f"hydra.run.dir=theirs/{name}").code == 0
    params = json.loads((store / "theirs" / "one" / "run.json").read_text())["params"]
    rewrite(store / "theirs" / "one", params={**params, "tracking.uri": f"sqlite:///{store}/other/mlflow.db"})
    (store / "mlflow.db").write_bytes(template.read_bytes())
    said = cilspl("restore", "theirs")
    assert said.code == 2
    assert (
        f"type `cilspl restore {store}/theirs/one --uri sqlite:///{store}/other/mlflow.db` to write there" in said.err
    )
    assert len(said.out.splitlines()) == 1  # the other run is copied
    assert (store / "other" / "mlflow.db").read_bytes() == before
    said = cilspl("restore", "theirs/one", "--uri", "sqlite:///other/mlflow.db")
    assert said.code == 0, said.err
    assert cilspl("table", "--uri", "sqlite:///other/mlflow.db").code == 0


def test_uri_takes_precedence_over_the_environment(cilspl, store, pipeline, template, monkeypatch):
    assert cilspl("run", "hydra.run.dir=theirs").code == 0
    (store / "other.db").write_bytes(template.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert cilspl("restore", "theirs", "--uri", "sqlite:///other.db").code == 0
    assert not (store / "elsewhere.db").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("http://me:se@cret@host", "http://me:***@host"),
        ("http://me:sec/ret@host/x", "http://me:***@host/x"),
        ("mysql+pymysql://me:secret@host/db?ssl=1", "mysql+pymysql://me:***@host/db?ssl=1"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("no answer from http://:secret@host (refused)", "no answer from http://:***@host (refused)"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("http://me@host", "http://me@host"),
        ("sqlite:////srv/me/mlflow.db", "sqlite:////srv/me/mlflow.db"),
        ("lr:0.5 a@b", "lr:0.5 a@b"),
    ],
)
def test_a_password_is_not_shown(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown
    assert redact({"a": [text, 1, None], "b": {"c": text}}) == {"a": [shown, 1, None], "b": {"c": shown}}


def written(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode(errors="replace")
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def server(monkeypatch, template, tmp_path):
    """A tracking server that asks for a password; the addresses that were connected to."""
    from cil_spl.results import store

    connected = []
    real = store.client_of
    database = tmp_path / "server.db"
    database.write_bytes(template.read_bytes())
    monkeypatch.setattr(store, "_probe", lambda uri: None)

    def client_of(uri):
        connected.append(uri)
        return real(f"sqlite:///{database}" if uri.startswith("http") else uri)

    monkeypatch.setattr(store, "client_of", client_of)
    return connected


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("sweep", [True, False])
def test_a_password_goes_to_the_store_and_nowhere_else(typed, sweep, cilspl, here, pipeline, server, monkeypatch):
    uri = "http://me:hunter2@host:5000"
    if not typed:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = [f"tracking.uri={uri}"] if typed else []
    said = cilspl("run", *(["-m", "seed=0,1"] if sweep else ["name=bug"]), *words)
    assert said.code == (0 if sweep else 1), said.err
    assert set(server) == {uri}
    kept = written(here / "runs")
    assert any(name.endswith("run.json") for name in kept)
    assert any("http://me:***@host:5000" in text for text in kept.values())
    assert not [name for name, text in kept.items() if "hunter2" in text]
    assert b"hunter2" not in (here / "server.db").read_bytes()
    assert "hunter2" not in said.out + said.err
    assert os.environ.get("MLFLOW_TRACKING_URI") == (None if typed else uri)


def test_a_password_is_asked_for_again(cilspl, here, pipeline, server, monkeypatch):
    assert (
        cilspl("run", "tracking.uri=http://me:hunter2@host:5000", "name=interrupt", "hydra.run.dir=theirs").code == 130
    )
    said = cilspl("run", "resume=theirs")
    assert said.code == 2
    assert "the run names the store http://me:***@host:5000, which is not the present one" in said.err
    assert "passwords are not kept: set MLFLOW_TRACKING_URI to the address with its password" in said.err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host:5000")
    assert cilspl("run", "resume=theirs").code == 130
    assert cilspl("restore", "theirs").code == 0
    assert "hunter2" not in str(written(here / "theirs"))
    said = cilspl("doctor")
    assert "http://me:***@host:5000" in said.out
    assert "hunter2" not in said.out


def test_the_present_store_keeps_its_password(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host")
    assert own_store(here, "http://me:***@host", "") == "http://me:hunter2@host"


@pytest.mark.parametrize("name", ["run.log", "checkpoints", "figures", "weights.pt", "more/deep"])
def test_no_run_goes_on_through_a_link(name, cilspl, here, pipeline):
    assert cilspl("run", "hydra.run.dir=theirs", "name=interrupt", OFF).code == 130
    (here / "mine").mkdir()
    (here / "mine" / "file").write_text("mine")
    link = here / "theirs" / name
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(here / "mine" if name in ("checkpoints", "figures") else here / "mine" / "file")
    before, ran = written(here), len(pipeline.ran)
    said = cilspl("run", "resume=theirs")
    assert said.code == 2
    assert f"{link}: a symbolic link to {here / 'mine'}" in said.err
    assert len(pipeline.ran) == ran
    assert written(here) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", ["name", "model.layers"])
def test_a_run_folders_config_reads_no_environment(key, command, cilspl, folder, pipeline, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "hunter2")
    text = "${oc.env:MY_SECRET}"
    folder(**{key.replace(".", "__"): text if key == "name" else [{"linear": text}]})
    said = cilspl(*COMMANDS[command])
    assert said.code == 2
    assert f"config.yaml: {key}=" in said.err
    assert "a run's config holds no ${…}" in said.err
    assert "hunter2" not in said.err + str(written(Path("theirs")))
    assert not pipeline.ran


def test_a_run_goes_on_in_no_store_that_its_folder_names(cilspl, store, pipeline, template, monkeypatch):
    (store / "other.db").write_bytes(template.read_bytes())
    before = (store / "other.db").read_bytes()
    assert cilspl("run", "hydra.run.dir=theirs", "name=interrupt").code == 130
    mine = (store / "mlflow.db").read_bytes()
    config = OmegaConf.load("theirs/config.yaml")
    config.tracking.uri = f"sqlite:///{store}/other.db"
    OmegaConf.save(config, "theirs/config.yaml")
    word = f"tracking.uri=sqlite:///{store}/other.db"
    said = cilspl("run", "resume=theirs")
    assert said.code == 2
    assert f"type `cilspl run resume={store}/theirs {word}` to write there" in said.err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    assert (
        f"set MLFLOW_{word.replace('tracking.uri', 'TRACKING_URI')} to write there"
        in cilspl("run", "resume=theirs").err
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert (store / "other.db").read_bytes() == before
    assert (store / "mlflow.db").read_bytes() == mine
    assert cilspl("run", "resume=theirs", word).code == 130
    assert (store / "other.db").read_bytes() != before
    assert cilspl("run", "resume=theirs", f"tracking.uri=sqlite:///{store}/mlflow.db").code == 130
