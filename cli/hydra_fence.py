"""The fence around Hydra's own groups: what a config file from elsewhere must not have Hydra import or run.

Hydra calls what ``hydra.callbacks``, ``hydra.launcher`` and ``hydra.sweeper`` name, builds log handlers from
``hydra.job_logging`` and ``hydra.hydra_logging``, sets ``hydra.job.env_set`` in the environment, and imports the
packages of ``hydra.searchpath``. Any YAML that is composed can set these. Here they are compared with what Hydra's own
configs, this package's and the words of the command line give without any file from elsewhere: what only such a file
says is refused, before Hydra acts on it, for a run and for every run of a sweep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hydra._internal.hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.results.folder import RUN_FILE
from cil_spl.results.names import run_name
from cil_spl.results.store import URI_VARIABLE, anchor, redact

# Names a run's folder by what differs; see conf/hydra/output.
OmegaConf.register_new_resolver("run_name", run_name, replace=True)

CALLED = ("hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra.job.env_set")
LOGGED = ("hydra.job_logging", "hydra.hydra_logging")
OUTPUT = "${hydra.runtime.output_dir}"
# To the screen or to the one file that is named; those of logging.handlers send over a network or name files anew.
_LOG_CLASS = re.compile(r"logging\.(StreamHandler|FileHandler|NullHandler|Formatter)|colorlog\.[A-Z]\w*")
_LOG_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LONGEST_NAME = 255  # bytes of a file's name, in nearly all file systems
_CLASS_KEYS = ("class", "()", "factory", "queue", "listener")


@contextmanager
def fenced() -> Iterator[None]:
    """Within it, every config that Hydra composes passes :class:`FencedLoader`."""
    inside: Any = hydra._internal.hydra  # the module that makes the loader of every way into Hydra
    before = inside.ConfigLoaderImpl
    inside.ConfigLoaderImpl = FencedLoader
    try:
        yield
    finally:
        inside.ConfigLoaderImpl = before


class FencedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs; refuses those whose Hydra groups a file from elsewhere has changed.

    Everything Hydra composes comes through :meth:`load_configuration`: the config of a run, of a sweep, of each of its
    runs, and what ``--cfg``, ``--info`` and ``--help`` show.
    """

    latest: ClassVar[DictConfig | None] = None  # of a single run: says which folder it has

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        check_hydra(cfg, overrides)
        _hide_password(cfg)
        FencedLoader.latest = cfg if run_mode == RunMode.RUN else None
        return cfg

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list[Override], repo: Any) -> None:
        """Before Hydra imports the packages that the search path names."""
        typed = any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides)
        loaded = None if config_name is None or typed else repo.load_config(config_path=config_name)
        if loaded is not None and OmegaConf.is_dict(loaded.config):
            for path in OmegaConf.select(loaded.config, "hydra.searchpath") or ():
                if "://" in str(path) and not str(path).startswith("file://"):
                    raise RequestError(
                        f"hydra.searchpath=[{path}]: a file names it, and Hydra would import it; if you trust that "
                        f"package, type hydra.searchpath=[{path}]"
                    )
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def check_hydra(cfg: DictConfig, words: list[str]) -> None:
    """Refuse what a file from elsewhere adds to the groups that Hydra runs.

    Args:
        cfg: a composed config with its ``hydra`` node.
        words: the overrides that were typed.

    Raises:
        RequestError: names the key, its value, and what to type if it is meant.
    """
    node = cfg.hydra
    if len(node.overrides.task) + len(node.overrides.hydra) != len(words):
        raise RequestError("hydra.overrides: a file must not set it; it holds the words of the command line")
    if not any(source["schema"] == "file" for source in node.runtime.config_sources):
        return
    trusted = _trusted(cfg, words)
    for key in (*CALLED, *LOGGED):
        known = dict(_leaves(_raw(trusted, key), key))
        for path, value in _leaves(_raw(cfg, key), key):
            if (path in known and known[path] == value) or value == "???":
                continue
            if not _harmless(path, value, str(node.job.get("name", ""))):
                raise RequestError(
                    f"{path}={redact(value)}: only a file from elsewhere says so, and Hydra would act on it; if you "
                    f"mean it, type it on the command line, or set it in conf/local/default.yaml"
                )


def check_hydra_settings(cfg: DictConfig, several: bool) -> None:
    """Refuse settings of Hydra's with which a run would not begin: its callbacks, and the folder that it runs in.

    Args:
        cfg: a composed config with its ``hydra`` node, which has passed :func:`check_hydra`.
        several: it belongs to a sweep.

    Raises:
        hydra.errors.HydraException: a callback cannot be made.
        RequestError: the folder cannot be made or written to, or holds a run.
    """
    Callbacks(cfg)
    key = "hydra.sweep.dir" if several else "hydra.run.dir"
    text = OmegaConf.select(cfg, key)
    if not isinstance(text, str) or not text:
        raise RequestError(f"{key}={shown(text)}: needs a folder")
    folder = Path(text)
    longest = max(len(os.fsencode(part)) for part in folder.absolute().parts)
    if longest > LONGEST_NAME or "\0" in text:
        raise RequestError(
            f"{key}={shown(text)}: no folder can have such a name ({longest} bytes); name another, of at most "
            f"{LONGEST_NAME}"
        )
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is a file"
        raise RequestError(f"{key}={text}: no folder can be made there, {there} {why}; name another")
    if (folder / RUN_FILE).exists():
        raise RequestError(f"{key}={text}: the folder holds a run already; name another, or go on with it by resume=")


def _trusted(cfg: DictConfig, words: list[str]) -> DictConfig:
    """The same config without any file from elsewhere: the same choices of Hydra's groups, the same words."""
    path = create_config_search_path("pkg://cil_spl.conf")
    for source in cfg.hydra.runtime.config_sources:
        if source["schema"] == "pkg" and source.provider == "hydra.searchpath in command-line":
            path.append(source.provider, f"pkg://{source.path}")
    loader = ConfigLoaderImpl(path)
    chosen = [
        f"{group}={name}"
        for group, name in cfg.hydra.runtime.choices.items()
        if re.fullmatch(r"hydra/\w+", group) and loader.repository.config_exists(f"{group}/{name}")
    ]
    typed = []
    for word in OverridesParser.create().parse_overrides(words):
        key = word.key_or_group
        if word.is_hydra_override() and "/" not in key and key != "hydra.searchpath" and not word.is_delete():
            typed.append("++" + str(word.input_line).lstrip("+"))
    return loader.load_configuration("config", [*chosen, *typed], RunMode.MULTIRUN, validate_sweep_overrides=False)


def _raw(cfg: DictConfig, key: str) -> Any:
    node = OmegaConf.select(cfg, key, throw_on_missing=False)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, held in value.items():
            yield from _leaves(held, f"{path}.{key}")
    elif isinstance(value, list):
        for i, held in enumerate(value):
            yield from _leaves(held, f"{path}.{i}")
    else:
        yield path, value


def _harmless(path: str, value: Any, job_name: str) -> bool:
    """Whether a file from elsewhere may say this. Text may be a path to code or a shell command; numbers are not."""
    if path.startswith("hydra.sweeper.params."):  # a sweep in a file: of anything but what it may run
        key = path.removeprefix("hydra.sweeper.params.").lstrip("+~")
        return not re.match(r"(hydra|extensions)\b", key) and bool(re.fullmatch(r"[\w./@]+", key))
    if path.startswith(CALLED[1:3]) and (value is None or isinstance(value, int | float)):
        return True
    if path.startswith(LOGGED):
        return ".." not in path and _harmless_log(path.rpartition(".")[2], value, job_name)
    return path.startswith("hydra.job.env_set.") and os.environ.get(path.rpartition(".")[2]) == value


def _harmless_log(key: str, value: Any, job_name: str) -> bool:
    """Whether a line of a logging config only writes text to the screen or to a log file."""
    if key == "":  # `.`: sets any attribute of a handler
        return False
    if not isinstance(value, str):
        return True
    text = value.replace(OUTPUT, "/").replace("${hydra.job.name}", job_name)
    if key in _CLASS_KEYS:
        return bool(_LOG_CLASS.fullmatch(text))
    if key in ("filename", "baseFilename"):  # any other file might be one that is executed
        return "${" not in text and text.endswith(".log")
    return text in _LOG_STREAMS or not re.search(r"\$\{|^\w+://", text)


def _hide_password(cfg: DictConfig) -> None:
    """Keep a password in ``tracking.uri`` from what Hydra writes and prints: the full address goes to the environment,
    which takes precedence over the config wherever a store is opened."""
    try:
        uri = OmegaConf.select(cfg, "tracking.uri")
    except Exception:  # an interpolation that leads nowhere is reported elsewhere
        return
    if not isinstance(uri, str) or redact(uri) == uri:
        return
    os.environ.setdefault(URI_VARIABLE, anchor(uri))
    OmegaConf.update(cfg, "tracking.uri", redact(uri))
    from cil_spl.cli.compose import typed_words

    for words in (cfg.hydra.overrides.task, cfg.hydra.overrides.hydra):
        for i, word in enumerate(typed_words(words)):
            words[i] = redact(word)
    cfg.hydra.job.override_dirname = redact(cfg.hydra.job.override_dirname)
