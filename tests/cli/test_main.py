"""The first word, and how fast it is answered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cil_spl import __version__, cli

HEAVY = "torch", "hydra", "omegaconf", "mlflow", "numpy", "rich", "sinabs", "tonic", "numba", "matplotlib", "samna"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom cil_spl.cli import main\ncode = main(['--help'])\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in cli.COMMANDS)
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["--help", "run --help", "table --help", "help", "--version"])
def test_a_reader_that_has_left_is_no_traceback(words, buffered):
    read, write = os.pipe()
    os.close(read)  # as of `cilspl table | head`
    program = [sys.executable, "-c", "import sys; from cil_spl.cli import main; sys.exit(main())", *words.split()]
    env = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert done.returncode in (0, 1)  # argparse does not look whether its help is read
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", ["--help", "ls"])
def test_a_full_disk_is_one_sentence(words, buffered):
    program = [sys.executable, "-c", "import sys; from cil_spl.cli import main; sys.exit(main())", *words.split()]
    env = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 1
    assert done.stderr == f"cilspl: {words}: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    "words",
    ["validate start_from={}", "evaluate {}", "predict {} a.csv", "chip show {}", "table --from {}", "runs {}"],
)
def test_a_name_that_no_file_can_have_is_a_wrong_request(cilspl, here, words):
    said = cilspl(*words.format("x" * 5000).split())
    assert said.code == 2
    assert "File name too long" in said.err
    assert said.err.count("\n") == 1


def test_version(cilspl):
    assert cilspl("--version").out == f"cilspl {__version__}\n"


@pytest.mark.parametrize("word", sorted(cli.COMMANDS))
def test_every_command_has_help(cilspl, here, word):
    said = cilspl(word, "--help")
    assert said.code == 0
    assert "sage:" in said.out
    assert f"cilspl {word}" in said.out
    assert max(len(line) for line in said.out.splitlines()) <= 80
    assert cilspl("help", word).out == said.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rnu"], "did you mean `cilspl run`?"),
        (["doctr"], "did you mean `cilspl doctor`?"),
        (["method=bptt"], "did you mean `cilspl run method=bptt`?"),
        (["xyz"], "there are: run, table"),
    ],
)
def test_an_unknown_command_exits_with_2_and_a_hint(cilspl, words, hint):
    said = cilspl(*words)
    assert said.code == 2
    assert hint in said.err
    assert "Traceback" not in said.err


def test_nothing_is_a_wrong_request_and_shows_help(cilspl):
    said = cilspl()
    assert said.code == 2
    assert "Usage: cilspl COMMAND" in said.err


def test_a_reader_that_stops_reading_is_no_error():
    code = "import sys\nfrom cil_spl.cli import main\nsys.exit(main(['ls']))"
    done = subprocess.run(f'{sys.executable} -c "{code}" | true', shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cilspl ", "run"),
        ("cilspl ta", "table"),
        ("cilspl ls ", "methods"),
        ("cilspl run met", "method="),
        ("cilspl run method=con", "method=conversion"),
        ("cilspl run method=conversion trainer.ep", "trainer.epochs="),
        ("cilspl validate method=", "method=bptt"),
    ],
)
def test_tab_completion(cilspl, here, monkeypatch, line, expected):
    monkeypatch.setitem(os.environ, "COMP_LINE", line)
    said = cilspl("-sc", "query=bash")
    assert said.code == 0
    assert expected in said.out.split()


def test_tab_completion_is_installed_under_our_name(cilspl, here):
    assert "hydra_bash_completion cilspl" in cilspl("-sc", "install=bash").out
