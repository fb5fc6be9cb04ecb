"""Whether a record and a config say what a run can have written: without a checksum nothing else tells a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.results.store import MLFLOW_STATUS, WORDS_OF_A_ROW
from cil_spl.results.values import is_time

_NO_RECORD = "not the record of a run, or changed since"
_LARGEST = 1e100  # of a figure; squares of it are numbers still
_LARGEST_CONFIG = 1 << 20  # bytes; a config has some thousand
_DEEPEST = 50  # lists and mappings in each other
NUMBER = (int, float, NoneType)
# What a record says under its keys: types, and words for them. The first three are in every record.
FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "run_id": ((str, NoneType), "text or null"),
    "status": ((str,), "text"),
    "started": ((str,), "a time"),
    "ended": ((str, NoneType), "a time or null"),
    "params": ((dict,), "names and values"),
    "tags": ((dict,), "names and texts"),
    "metrics": ((dict,), "names and numbers"),
    "row": ((dict,), "names and values"),
    "warnings": ((list,), "a list"),
    "error": ((str, NoneType), "text or null"),
    "files": ((dict,), "names and digests"),
    "logged": ((dict, NoneType), "a length and a digest"),
    "former_run_ids": ((list,), "a list"),
    "resumed": ((list,), "a list"),
    "refused": ((bool,), "true or false"),
    "lost": ((str, NoneType), "text or null"),
    "extension": ((dict,), "names and values"),
}
INNER: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("tags", (str,), "text"),
    ("metrics", NUMBER, "a number or null"),
    ("row", NUMBER, "a number or null"),
    ("warnings", (str,), "text"),
    ("files", (str,), "text"),
    ("former_run_ids", (str,), "text"),
    ("resumed", (str,), "text"),
)
# Values that later steps take for what they are, wherever they are there at all.
SINGLE: tuple[tuple[str, str, tuple[type, ...], str], ...] = (
    ("params", "tracking.uri", (str, NoneType), "text or null"),
    ("params", "tracking.experiment", (str, NoneType), "text or null"),
    ("params", "trainer.epochs", (int, NoneType), "a whole number"),
    ("params", "name", (str, NoneType), "text or null"),
    ("extension", "epochs", (int,), "a whole number"),
)


def check_info(info: dict[str, Any], path: Path) -> None:
    """Refuse a record with values of the wrong type; mappings that it lacks are added, empty.

    Raises:
        RequestError: names the key, its value and what it needs.
    """
    for key in ("params", "tags", "metrics", "row"):
        info.setdefault(key, {})
    for number, (key, (kinds, words)) in enumerate(FIELDS.items()):
        if key in info or number < 3:
            if key not in info:
                raise RequestError(f"{path}: {key} is missing: {_NO_RECORD}")
            _check_kind(path, key, info[key], kinds, words)
    if info["status"] not in MLFLOW_STATUS:
        listed = ", ".join(MLFLOW_STATUS)
        raise RequestError(f"{path}: status={shown(info['status'])}: {_NO_RECORD}; allowed are {listed}")
    for key in ("started", "ended"):
        if info.get(key) is not None and not is_time(info[key]):
            raise RequestError(f"{path}: {key}={shown(info[key])}: {_NO_RECORD}; it needs a time there")
    for key, value, kinds, words in _inner(info):
        _check_kind(path, key, value, kinds, words)


def _inner(info: dict[str, Any]) -> Iterator[tuple[str, Any, tuple[type, ...], str]]:
    """What stands inside a record's mappings and lists: key, value, types and words for them."""
    for key, kinds, words in INNER:
        held = info.get(key, {})
        for name, value in held.items() if isinstance(held, dict) else enumerate(held):
            if key == "row" and name in WORDS_OF_A_ROW:
                yield f"{key}.{name}", value, (str, *NUMBER), "text, a number or null"
            else:
                yield f"{key}.{name}", value, kinds, words
    for key, name, kinds, words in SINGLE:
        if key in info and name in info[key]:
            yield f"{key}.{name}", info[key][name], kinds, words


def _check_kind(path: Path, key: str, value: Any, kinds: tuple[type, ...], words: str) -> None:
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
    if not fits or (isinstance(value, int | float) and not abs(value) <= _LARGEST):  # NaN neither
        raise RequestError(f"{path}: {key}={shown(value)}: {_NO_RECORD}; it needs {words} there")


def _check_events(events: Iterator[Any]) -> None:
    """Refuse YAML that takes more time or memory to read than its size says, and that no run writes.

    Raises:
        ValueError: it is nested too deep, or has aliases, a few lines of which stand for more than the memory holds.
    """
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases (*name)")
        if depth > _DEEPEST:
            raise ValueError("nested too deep")


def load_config(path: Path) -> Any:
    """A run's ``config.yaml`` as OmegaConf reads it.

    Raises:
        ValueError: it is no YAML that a run writes; says why.
        OSError: it cannot be read.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with path.open("rb") as file:
        content = file.read(_LARGEST_CONFIG + 1)
    if len(content) > _LARGEST_CONFIG:
        raise ValueError(f"more than {_LARGEST_CONFIG >> 20} MiB")
    try:
        _check_events(yaml.parse(content.decode(), Loader=yaml.SafeLoader))
        return OmegaConf.load(path)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 from byte {error.start} on") from None
    # What yaml's and OmegaConf's readers of single values raise on those that they cannot read.
    except (yaml.YAMLError, OmegaConfBaseException, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
