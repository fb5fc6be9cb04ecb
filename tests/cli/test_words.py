"""Options and values wherever and however they are typed, folders of any name, numbers that no training takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.cli.words import for_hydra, quoted

OFF = "tracking.enabled=false"


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=1,2", "method=bptt"],
        ["method=bptt", "-m", "seed=1,2"],
        ["method=bptt", "seed=1,2", "--multirun"],
        ["method=bptt", "--multi", "seed=1,2"],
    ],
)
def test_a_sweep_is_one_wherever_m_stands(cilspl, here, pipeline, words):
    said = cilspl("run", *words, OFF)
    assert said.code == 0, said.err
    assert [cfg.seed for cfg in pipeline.ran] == [1, 2]
    assert {cfg.method.name for cfg in pipeline.ran} == {"bptt"}


@given(st.permutations([["-m"], ["seed=1"], ["-cd", "conf"], ["name=a"], ["-c", "job"], ["--info"]]))
def test_options_come_first_and_keep_their_values(parts):
    words = for_hydra([word for part in parts for word in part])
    assert words[-2:] == [word for part in parts for word in part if "=" in word]
    for option, value in (("-cd", "conf"), ("-c", "job")):
        assert words[words.index(option) + 1] == value
    assert {"-m", "--info=all"} < set(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--multirum"], "--multirum: no such option; did you mean --multirun?"),
        (["seed=1", "-x"], "-x: no such option; `cilspl run --help` lists them"),
        (["seed=1", "--cfg"], "--cfg: it needs a value after it"),
        (["--cfg", "jobs"], "--cfg jobs: did you mean job?"),
    ],
)
def test_a_wrong_option_is_named(cilspl, here, words, message):
    said = cilspl("run", *words)
    assert said.code == 2
    assert said.err.startswith(f"cilspl: {message}")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["validate", "restore"])
def test_other_commands_take_options_between_words(cilspl, store, pipeline, command):
    cilspl("run", "hydra.run.dir=one")
    cilspl("run", "hydra.run.dir=two")
    words = ["seed=1", "-m", "name=min_ö"] if command == "validate" else ["one", "--uri", "sqlite:///mlflow.db", "two"]
    assert cilspl(command, *words).code == 0


def test_letters_beyond_ascii_are_a_value_for_every_command(cilspl, here):
    said = cilspl("data", "describe", "nmnist", "root=größe")
    assert said.code == 2
    assert "dataset.root=größe does not exist" in said.err


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("name=min_körning", "name='min_körning'"),
        ("name=å,b,ä", "name='å',b,'ä'"),
        ("x=[å,1]", "x=['å',1]"),
        ("x={a: ö}", "x={a:'ö'}"),
        ("name='ö'", "name='ö'"),
        ("name=plain", "name=plain"),
        ("dataset.root=/a:b/ö", "dataset.root='/a:b/ö'"),
        ("ö", "ö"),
    ],
)
def test_what_hydra_reads_in_quotes_only_is_put_into_them(word, becomes):
    assert quoted(word) == becomes


@pytest.mark.parametrize("name", ["min_körning", "a?b", "実験", "a b", "x" * 250])
def test_a_run_may_have_any_name(cilspl, store, pipeline, name):
    said = cilspl("run", f"name={name}", "hydra.run.dir=one")
    assert said.code == 0, said.err
    assert json.loads((store / "one" / "run.json").read_text())["params"]["name"] == name


@pytest.mark.parametrize("name", ["a?b", "a?b=c", "a#b", "a%20b", "a b", "a\nb", "körning", "***", "x:y@z", "a'b"])
def test_a_folder_may_have_any_name(cilspl, here, template, pipeline, monkeypatch, name):
    place = here / name
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "mlflow.db").write_bytes(template.read_bytes())
    said = cilspl("run", "hydra.run.dir=one")
    assert said.code == 0, said.err
    assert len(json.loads((place / "one" / "run.json").read_text())["run_id"]) == 32
    assert cilspl("table").code == 0
    assert cilspl("run", "resume=one").code == 0
    assert cilspl("restore", "one").code == 0
    assert {path.name for path in place.iterdir()} >= {"one", "mlflow.db"}
    assert [path.name for path in here.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a${b}", "a${oc.env:HOME}", "a\udcff"])
def test_a_folder_that_a_config_cannot_name_is_refused(cilspl, here, pipeline, monkeypatch, name):
    (here / name).mkdir()
    monkeypatch.chdir(here / name)
    said = cilspl("run")
    assert said.code == 2
    assert "the name of this folder" in said.err
    assert list((here / name).iterdir()) == []


def test_a_folder_that_is_none_is_named(cilspl, here, pipeline):
    (here / "runs").write_text("a file in place of the folder, as a read-only one would be")
    said = cilspl("run", "trainer.epochs=1", OFF)
    assert said.code == 2
    assert "the run's folder cannot be made or written" in said.err
    assert "cannot be read" not in said.err


@pytest.mark.parametrize("value", ["1e38", "1e31", "-1e38", "inf", "nan", "1e-400", "1e400"])
def test_numbers_that_no_training_takes_are_refused(cilspl, here, value):
    said = cilspl("validate", "method=bptt", f"method.lr={value}")
    assert said.code == 2
    assert said.err.startswith("cilspl: method.lr=")
    assert len(said.err.splitlines()) == 1


def test_a_name_that_no_file_can_have_is_refused(cilspl, here):
    said = cilspl("validate", f"hydra.run.dir={'a' * 300}")
    assert said.code == 2
    assert "no folder can have such a name" in said.err


def test_sigterm_before_the_record_leaves_no_folder(cilspl, here, pipeline, monkeypatch):
    from cil_spl.base.signals import Terminated

    def terminated(*_args, **_kwargs):
        raise Terminated

    monkeypatch.setattr(pipeline, "run", terminated)
    said = cilspl("run", OFF)
    assert said.code == 143
    assert "before the run began" in said.err
    assert list(here.rglob("*")) in ([], [here / "runs"])


def test_a_signal_after_the_end_changes_nothing(cilspl, here, pipeline, monkeypatch):
    import cil_spl.cli.run as command

    def interrupted(_folder, **_how):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "show", interrupted)
    said = cilspl("run", "hydra.run.dir=one", OFF)
    assert said.code == 0
    assert "interrupted after the run had ended; one is finished" in said.err


def test_a_wrong_word_is_one_line(cilspl, here):
    with pytest.raises(RequestError, match="no such option"):
        for_hydra(["--nope=1"])


@pytest.mark.parametrize("word", ["method.lr=${method}", "dataset.seed=${nope}", "name=${oc.env:NOPE_AT_ALL}"])
def test_a_word_stays_as_it_was_typed(cilspl, here, pipeline, word):
    """Hydra's list of words would have them resolved, and the rest of the config in their place."""
    said = cilspl("run", word, OFF)
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("cilspl: ")
    assert word.split("=")[0] in said.err.splitlines()[-1]


def test_a_word_that_commands_the_terminal_is_shown(cilspl, here):
    said = cilspl("run", "+model.preset=\x1b[31mx", OFF)
    assert said.code == 2
    assert said.err.startswith(r"cilspl: +model.preset=\x1b[31mx: cannot be read")
    assert len(said.err.splitlines()) == 1
    said = cilspl("validate", "--trainer.patience=\x7f")
    assert (said.code, said.err) == (
        2,
        "cilspl: --trainer.patience=\\x7f: no option has such characters; leave them out\n",
    )
