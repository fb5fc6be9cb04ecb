"""What a config may name: cil_spl's own functions, each in its group, and those of modules that the user names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from cil_spl import schema
from cil_spl.base import fence
from cil_spl.base.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
LAB = """
import functools
import os
from os import getcwd, system
from cil_spl.base.files import write_json
from cil_spl.data.datasets import event_digits

number = 3
half = functools.partial(print, 1)

def train(ctx, *, lr=1.0): ...
def _hidden(): ...
class Chip:
    @staticmethod
    def run(): ...
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A module of the user's own, with what such modules hold besides their functions."""
    (tmp_path / "my_lab.py").write_text(LAB)
    (tmp_path / "my_labour.py").write_text("def train(): ...")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("open('imported', 'w')")
    (tmp_path / "my_package" / "nets.py").write_text("def train(): ...")
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_lab"
    for name in [n for n in sys.modules if n.startswith(("my_lab", "my_package", "broken"))]:
        del sys.modules[name]


def config(*overrides):
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_own_functions_are_those_that_the_shipped_configs_name():
    methods = sorted(path.stem for path in (ROOT / "cil_spl" / "methods").glob("[a-z]*.py"))
    assert fence.own_targets("method") == [f"cil_spl.methods.{name}.train" for name in methods]
    assert fence.own_targets("test_dataset") == fence.own_targets("dataset")
    assert "cil_spl.data.datasets.nmnist" in fence.own_targets("dataset")
    assert fence.own_targets("trainer") == fence.own_targets("nothing") == []
    for group in ("method", "dataset", "target", "task", "observer"):
        for path in fence.own_targets(group):
            found = fence.locate(group, path)
            assert f"{found.__module__}.{found.__qualname__}" == path


def test_what_earlier_versions_named_is_found():
    for group, old in (("observer", "cil_spl.observer.ChipObserver"), ("task", "cil_spl.task.classification")):
        assert fence.check_target(group, old) == fence.MOVED[old]
        assert fence.locate(group, old).__module__.startswith("cil_spl.")


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("dataset", "cil_spl.results.record.os.system"),
        ("dataset", "cil_spl.data.cache.clear"),
        ("dataset", "cil_spl.data.datasets.load"),
        ("dataset", "cil_spl.methods.bptt.train"),  # of another group
        ("method", "cil_spl.data.datasets.nmnist"),
        ("target", "cil_spl.base.files.write_json"),
        ("target", "cil_spl.targets.devkit.connected"),  # imports samna
        ("task", "cil_spl.cli.main"),
        ("task", "cil_spl.cli.import_module"),
        ("observer", "cil_spl"),
        ("method", "cil_spl.methods.bptt.train.__globals__"),
        ("method", "cil_spl_evil.train"),  # a prefix of the name is not the package
        ("method", "samna.init"),
        ("method", "sinabs.backend.dynapcnn.DynapcnnNetwork"),
        ("method", "os.system"),
        ("method", "train"),
        ("method", ""),
        ("method", None),
        ("method", ["os.system"]),
        ("method", "my_lab.Chip.run"),  # more than one attribute
        ("method", "my_lab.os.system"),
        ("method", "my_lab._hidden"),
        ("method", "my_lab.__builtins__"),
        ("method", "my_lab..train"),
        ("method", "my_labour.train"),
        ("method", "my_lab.getcwd"),  # it only imported them
        ("method", "my_lab.system"),
        ("method", "my_lab.write_json"),
        ("method", "my_lab.event_digits"),  # cil_spl's, and not of this group
        ("method", "my_lab.os"),
        ("method", "my_lab.half"),
        ("method", "my_lab.number"),
        ("method", "my_lab.nothing"),
    ],
)
def test_refused_by_its_key(lab, group, target):
    with pytest.raises(RequestError) as caught:
        fence.locate(group, target, [lab])
    assert str(caught.value).startswith(f"{group}._target_={target}: ")
    assert not any(name == "samna" or name.startswith("my_labour") for name in sys.modules)


def test_public_functions_and_classes_of_a_named_module_are_found(lab):
    import my_lab

    assert fence.locate("method", "my_lab.train", [lab]) is my_lab.train
    assert fence.locate("target", "my_lab.Chip", [lab]) is my_lab.Chip
    assert fence.locate("dataset", "my_lab.event_digits", [lab]).__module__ == "cil_spl.data.datasets"
    with pytest.raises(RequestError, match=r"did you mean train\? allowed are Chip, train"):
        fence.locate("method", "my_lab.trian", [lab])


def test_a_module_that_breaks_is_one_message(lab):
    with pytest.raises(RequestError, match=r"broken cannot be imported \(ZeroDivisionError: division by zero\)"):
        fence.locate("method", "broken.train", ["broken"])


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        ("my_lab", r"^extensions=my_lab: needs a list of modules, for example extensions=\[my_lab\]"),  # not m, y, _, …
        (3, r"^extensions=3: needs a list"),
        (["nolab"], r"^extensions=\[nolab\]: there is no such module"),
        (["my_lab.nets"], r"^extensions=\[my_lab\.nets\]: there is no such module"),
        (["my_package.nots"], r"^extensions=\[my_package\.nots\]: there is no such module"),
        ([3], r"^extensions=\[3\]: needs the name of a module"),
        (["my lab"], r"^extensions=\[my lab\]: needs the name of a module"),
        ([""], r"^extensions=\[\]: needs the name of a module"),
        (["cil_spl.base"], r"cil_spl cannot be allowed"),
        (["samna"], r"samna cannot be allowed \(a package of that name on the registry starts pip"),
        (["sinabs.backend.dynapcnn"], r"cannot be allowed \(it imports samna\)"),
    ],
)
def test_extensions_are_modules_that_are_there(lab, listed, sentence):
    asked = [lambda: fence.check_extensions([], listed)]
    if "there is no such module" not in sentence:  # of what a file alone names, it does not matter whether it is there
        asked.append(lambda: fence.check_extensions(listed))
    for ask in asked:
        with pytest.raises(RequestError, match=sentence):
            ask()
    assert "samna" not in sys.modules


def test_what_a_file_alone_names_has_to_be_named_whether_it_is_there_or_not(lab):
    with pytest.raises(RequestError, match=r"^extensions=\[nolab\]: a list in a file .* if you trust nolab"):
        fence.check_extensions(["nolab"])


def test_looking_for_a_module_imports_nothing(lab):
    assert fence.check_extensions(None, ["my_package.nets", "my_lab", "shlex", "sys", "my_lab"]) == [
        "my_package.nets",
        "my_lab",
        "shlex",
        "sys",
    ]
    assert not Path("imported").exists()


def test_a_list_in_a_config_allows_nothing_by_itself(lab):
    cfg = config("method._target_=my_lab.train", "~method.lr", "extensions=[my_lab]")
    with pytest.raises(RequestError, match=r"^extensions=\[my_lab\]: a list in a file .*extensions=\(\"my_lab\",\)"):
        schema.check_config(cfg)
    with pytest.raises(RequestError, match=r"^extensions=\[my_lab\]"):
        schema.check_config(cfg, ["my_package"])
    assert "my_lab" not in sys.modules
    with pytest.raises(RequestError, match=r"^method\.\w+=.*: no such key"):
        schema.check_config(cfg, ["my_lab"])  # found, and its signature does not have these keys


def test_what_the_user_names_is_recorded(lab):
    assert schema.check_config(config(), ["my_lab"]).extensions == ["my_lab"]
    assert schema.check_config(config()).extensions == []


def test_a_target_may_be_computed_but_not_escape(lab, monkeypatch):
    monkeypatch.setenv("TARGET", "my_lab.train")
    cfg = config("method._target_='${oc.env:TARGET}'")
    with pytest.raises(RequestError, match=r"^method\._target_=my_lab\.train: only functions of cil_spl are run"):
        schema.check_config(cfg)


def test_modules_lie_in_the_folder_only_for_who_names_some(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/usr/lib"])
    fence.look_in(str(tmp_path), [])
    assert sys.path == ["/usr/lib"]
    fence.look_in(str(tmp_path), ["my_lab"])
    fence.look_in(str(tmp_path), ["my_lab"])
    assert sys.path == ["/usr/lib", str(tmp_path)]


def test_nothing_else_in_the_tree_looks_a_name_up():
    """Hydra's and Python's ways from a name to an object stand in the fence alone (`cilspl WORD` aside)."""
    root = Path(fence.__file__).resolve().parents[2]
    words = ("get_object", "get_method", "get_class", "import_module(", "instantiate(", "__import__(", "eval(", "exec(")
    found = {
        path.relative_to(root).as_posix()
        for folder in ("cil_spl", "cli")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(word in line.replace(".eval(", "") for word in words)
    }
    annotations = "cil_spl/base/options.py"  # evaluates those of functions that the fence has let through
    assert found == {"cil_spl/base/fence.py", "cli/__init__.py", annotations}
