"""The fence around ``_target_``: what a config may have imported and called.

A config may come from someone else: a data set's YAML, a colleague's run folder. What it may have called are the
functions and classes that this package's own configs name, and public functions and classes of modules that the user
has named (``extensions``): on the command line, in ``conf/local/default.yaml``, or as an argument. A list of modules
in any other file counts for nothing. Nothing else in the tree looks a name from a config up, or imports it.

Hydra's own groups are fenced in ``cil_spl.cli.hydra_fence``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from cil_spl.base import options
from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest

# What configs of earlier versions name, and where it is now.
MOVED = {
    "cil_spl.observer.ChipObserver": "cil_spl.chip.observer.ChipObserver",
    "cil_spl.task.classification": "cil_spl.tasks.classification.classification",
}
# Packages that are no extensions, and why.
NEVER = {
    "cil_spl": "what a config may name of it is known already",
    "samna": "a package of that name on the registry starts pip when it is imported",
    "sinabs.backend.dynapcnn": "it imports samna",
}
_NAME = re.compile(r"[A-Za-z]\w*")


def check_extensions(listed: Any, named: Any = ()) -> list[str]:
    """The modules, besides cil_spl, whose functions a config may name.

    Args:
        listed: ``extensions`` of the config, from wherever it came.
        named: the modules that the user names.

    Raises:
        RequestError: the config lists a module that the user does not name; a module is none, or must not be one.
    """
    allowed = _modules(named)
    for module in _modules(listed, there=False):  # one that is not allowed need not be found
        if module not in allowed:
            raise RequestError(f"extensions=[{module}]: a list in a file allows nothing by itself; {_how(module)}")
    return allowed


def _modules(value: Any, there: bool = True) -> list[str]:
    """A list of modules, which can be found where they have to be ``there``; nothing is imported."""
    if isinstance(value, str) or not isinstance(value, Sequence | None):
        raise RequestError(
            f"extensions={shown(value)}: needs a list of modules, for example extensions=[{_first(value)}]"
        )
    found = []
    for name in value or ():
        if not isinstance(name, str) or not all(_NAME.fullmatch(part) for part in name.split(".")):
            raise RequestError(f"extensions=[{name}]: needs the name of a module, for example my_lab or my_lab.nets")
        _refuse_never(name, f"extensions=[{name}]")
        if there and not _exists(name):
            raise RequestError(
                f"extensions=[{name}]: there is no such module; it has to be installed, or lie in the current folder"
            )
        found.append(str(name))
    return list(dict.fromkeys(found))


def _first(value: Any) -> str:
    return value if isinstance(value, str) and _NAME.match(value) else "my_lab"


def _refuse_never(name: str, key: str) -> None:
    for package, why in NEVER.items():
        if _within(name, [package]):
            raise RequestError(f"{key}: {package} cannot be allowed ({why}); name a module of your own")


def _exists(name: str) -> bool:
    """Whether a module can be found, without importing it or a package above it."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        whole = ".".join(parts[:i])
        if whole in sys.modules:
            path = getattr(sys.modules[whole], "__path__", None)
        else:
            specs = (finder.find_spec(whole, path) for finder in sys.meta_path)
            spec = next((found for found in specs if found is not None), None)
            if spec is None:
                return False
            path = spec.submodule_search_locations
        if path is None and i < len(parts):
            return False
    return True


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _how(module: str) -> str:
    return (
        f"if you trust {module}, name it yourself: extensions=[{module}] with `cilspl run` and `validate`, "
        f'--extensions {module} with other commands, extensions=("{module}",) in Python'
    )


def local_extensions() -> list[str]:
    """The ``extensions`` of the user's own ``conf/local/default.yaml``, where there is one."""
    from omegaconf import DictConfig, OmegaConf

    path = files("cil_spl.conf") / "local" / "default.yaml"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        settings = OmegaConf.load(file)
    listed = settings.get("extensions") if isinstance(settings, DictConfig) else None
    return _modules(OmegaConf.to_container(listed) if listed is not None else None)


def look_in(folder: str, extensions: Sequence[str]) -> None:
    """Let modules be found in ``folder``, if the user has named any; otherwise nothing is ever imported from there."""
    if extensions and folder not in sys.path:
        sys.path.append(folder)


def own_targets(group: str) -> list[str]:
    """What of this package the configs of a group may name: what the shipped ones do."""
    folder = files("cil_spl.conf") / ("dataset" if group == "test_dataset" else group)
    if not folder.is_dir():
        return []
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")]
    return sorted({name for text in texts for name in re.findall(r"^_target_:\s*([\w.]+)", text, re.MULTILINE)})


def check_target(group: str, target: Any, extensions: Sequence[str] = ()) -> str:
    """The path that a ``_target_`` names, if a config of this group may name it; nothing is imported.

    Args:
        group: of the config: ``method``, ``dataset`` and so on.
        target: as the config has it.
        extensions: modules besides cil_spl, from :func:`check_extensions`.

    Raises:
        RequestError: it is none of cil_spl's and lies in no module that is allowed.
    """
    key = f"{group}._target_={target}"
    if not isinstance(target, str) or not target:
        raise RequestError(f"{key}: needs the path of a function, for example my_lab.train")
    path = MOVED.get(target, target)
    own = own_targets(group)
    if path in own:
        return path
    module = path.rpartition(".")[0]
    if _within(path, ["cil_spl"]):
        raise RequestError(f"{key}: not one of cil_spl's for this group; {nearest(path, own)}")
    _refuse_never(path, key)
    if not all(_NAME.fullmatch(part) for part in path.split(".")) or not module:
        raise RequestError(f"{key}: needs the path of a public function or class, for example my_lab.train")
    if not _within(module, extensions):
        allowed = ", ".join(["cil_spl", *extensions])
        raise RequestError(f"{key}: only functions of {allowed} are run; {_how(module)}")
    return path


def locate(group: str, target: Any, extensions: Sequence[str] = ()) -> Any:
    """The function or class that a ``_target_`` names, imported.

    What it is found under says nothing of what it is: a module of the user's holds ``os`` as soon as it imports it. So
    the object's own module has to be allowed too.

    Raises:
        RequestError: as :func:`check_target`; or there is none, its module cannot be imported, or it comes from
            elsewhere.
    """
    path = check_target(group, target, extensions)
    key = f"{group}._target_={target}"
    module, _, name = path.rpartition(".")
    try:
        names = vars(importlib.import_module(module))
    except Exception as error:  # a module of the user's may raise anything
        raise RequestError(f"{key}: {module} cannot be imported ({type(error).__name__}: {error})") from error
    found: Any = names.get(name)
    if not _is_called(found):
        there = [
            n for n, held in names.items() if _NAME.fullmatch(n) and _is_called(held) and held.__module__ == module
        ]
        raise RequestError(f"{key}: no function or class of {module}; {nearest(name, sorted(there))}")
    home = str(found.__module__)
    own = own_targets(group)
    if not (_within(home, extensions) or path in own or f"{home}.{found.__qualname__}" in own):
        raise RequestError(
            f"{key}: {module} has it from {home}, which is not allowed; write a function of your own around it"
        )
    return found


def bring_in(extensions: Sequence[str]) -> None:
    """Import the modules that the user has named, for what they register.

    Raises:
        RequestError: one cannot be imported.
    """
    for module in extensions:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module of the user's may raise anything
            raise RequestError(
                f"extensions=[{module}]: it cannot be imported ({type(error).__name__}: {error})"
            ) from error


def _is_called(found: Any) -> bool:
    return inspect.isfunction(found) or inspect.isbuiltin(found) or inspect.isclass(found)


def make(cfg: Any, group: str, *given: Any) -> Any:
    """Call what a group of a checked config names, its keys as keywords; with its ``name`` where it takes one.

    Args:
        cfg: the config.
        group: ``method``, ``target`` and so on; None is what a group that is not chosen makes.
        given: what the function takes before its options.
    """
    node = cfg[group]
    if node is None:
        return None
    function = locate(group, node._target_, cfg.extensions)
    return function(*given, **keywords(node, with_name=options.takes(function, "name")))


def keywords(node: Any, *, with_name: bool = False) -> dict[str, Any]:
    """What a config node hands to the function that its ``_target_`` names."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(node)
    left_out = ("_target_",) if with_name else ("_target_", "name")
    return {str(key): value for key, value in plain.items() if key not in left_out}
