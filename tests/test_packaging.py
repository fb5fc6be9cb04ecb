"""The wheel ships what the tree holds: a forgotten subpackage or config only fails for those who install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"cil_spl": "cil_spl", "cli": "cil_spl/cli", "conf": "cil_spl/conf"}
SHIPPED = {".py", ".yaml", ".typed"}


def tracked(*folders: str) -> list[str]:
    """Files of the tree that git has, or would take."""
    if not (ROOT / ".git").exists():
        found = [p for f in folders or (".",) for p in ((ROOT / f).rglob("*") if (ROOT / f).is_dir() else [ROOT / f])]
        return [p.relative_to(ROOT).as_posix() for p in found if p.is_file() and "__pycache__" not in p.parts]
    asked = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    names = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def build(tree: Path, into: Path) -> Path:
    """A wheel of a tree, with the setuptools at hand."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(into), str(tree)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = into.glob("*.whl")
    return wheel


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the tree, with a user's own settings in it."""
    copy = tmp_path_factory.mktemp("packaging") / "tree"
    for name in tracked("pyproject.toml", "README.md", "LICENSE", *PLACES):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    (copy / "conf" / "local").mkdir(exist_ok=True)
    (copy / "conf" / "local" / "default.yaml").write_text("seed: 7\n")
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The wheel's content in a folder of its own, as an installer lays it out."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def test_the_wheel_holds_the_tree_and_nothing_else(wheel):
    expected = {
        f"{place}/{name.removeprefix(f'{folder}/')}"
        for folder, place in PLACES.items()
        for name in tracked(folder)
        if Path(name).suffix in SHIPPED
    }
    assert len(expected) > 40
    got = {name for name in content(wheel) if ".dist-info/" not in name}
    assert sorted(expected - got) == [], "in the tree, but not in the wheel: see [tool.setuptools] in pyproject.toml"
    assert sorted(got - expected) == [], "in the wheel, but not in the tree"


def test_the_wheel_carries_licence_and_console_script(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        assert names["LICENSE"].endswith(".dist-info/licenses/LICENSE")
        assert "cilspl = cil_spl.cli:main" in archive.read(names["entry_points.txt"]).decode()


def test_a_forgotten_subpackage_is_noticed(tree, tmp_path):
    """The comparison above can fail: a package that pyproject.toml does not list is not shipped."""
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    (copy / "cil_spl" / "forgotten").mkdir()
    (copy / "cil_spl" / "forgotten" / "__init__.py").write_text("")
    (copy / "conf" / "newgroup" / "deeper").mkdir(parents=True)
    (copy / "conf" / "newgroup" / "deeper" / "choice.yaml").write_text("a: 1\n")
    names = content(build(copy, tmp_path / "out"))
    assert "cil_spl/forgotten/__init__.py" not in names
    assert "cil_spl/conf/newgroup/deeper/choice.yaml" in names  # a new config group ships by itself
    assert "cil_spl/conf/local/default.yaml" not in names


def test_hydra_finds_groups_in_the_installed_wheel(installed, tmp_path):
    """Group folders have no __init__.py; Hydra has to find them beside the package all the same."""
    code = (
        "import cil_spl.conf, hydra\n"
        "print(cil_spl.conf.__file__)\n"
        "with hydra.initialize_config_module('cil_spl.conf', version_base='1.3'):\n"
        "    cfg = hydra.compose('config', overrides=['method=conversion', 'target=software'])\n"
        "print(cfg.method.name, cfg.model.name, cfg.target.name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ["PYTHONPATH"]])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    where, composed = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert composed == "conversion cnn software"


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    fresh = tmp_path / "venv"
    venv.create(fresh, with_pip=True, symlinks=True)
    python = fresh / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies come from the environment of the tests; its editable install is left out, being no folder.
    (site,) = (fresh / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    run = tmp_path / "elsewhere"
    run.mkdir()
    for words, expected in (
        (["--version"], "cilspl "),
        (["--help"], "run"),
        (["ls"], "event_digits"),
        (["run", "--help"], "method"),
        (["run", "--cfg", "job", "method=conversion"], "conversion"),
        (["validate"], ""),
    ):
        done = subprocess.run(
            [fresh / "bin" / "cilspl", *words], capture_output=True, text=True, cwd=run, timeout=120, check=False
        )
        assert done.returncode == 0, (words, done.stderr)
        assert expected in done.stdout
    where = subprocess.run(
        [python, "-c", "import cil_spl; print(cil_spl.__file__)"], capture_output=True, text=True, cwd=run, check=True
    )
    assert Path(where.stdout.strip()).is_relative_to(fresh)
    assert [p.name for p in site.iterdir() if p.name in ("cli", "conf", "tests")] == []


def test_pyproject_and_constraints_agree():
    """Every direct dependency has a tested version, without the tag of one machine's build."""
    project = (ROOT / "pyproject.toml").read_text()
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    direct = re.findall(r'^  "([a-z0-9-]+)>=', project, re.MULTILINE)
    assert len(direct) > 20
    assert sorted(set(direct) - pinned) == []
    assert [name for name, version in pins.items() if "+" in version] == []


def test_no_tracked_file_names_a_place_of_one_machine():
    """Home folders, temporary ones and package hosts of whoever wrote it."""
    private = re.compile(rb"(?<![\w.:$}])/(?:home|root|Users|work)/[\w.]+|(?:extra-)?index-url\s*=")
    named = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data and name != "tests/test_packaging.py":
            named += [f"{name}: {found.group().decode()}" for found in private.finditer(data)]
    assert named == []
