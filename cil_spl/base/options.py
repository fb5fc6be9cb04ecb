"""Options: what a config may give to a function, read off its signature.

Name, type, range and default of an option stand in one place, the signature of the function (or the fields of the
dataclass) that takes it, for the package's own and for a user's alike::

    def train(ctx, *, lr: Annotated[float, Gt(0)] = 5e-3, loss: Literal["counts", "steps"] = "counts"): ...

    checked(train, {"lr": -1}, "method", given=1)      RequestError: method.lr=-1: must be more than 0

pydantic does the checking, with three rules of our own: numbers are finite, a boolean is no number, and an unknown key
is refused with the nearest one. An option without an annotation, or with one that pydantic does not know, takes
anything. pydantic is imported when something is checked and not before.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cil_spl.base.annotations import (
    Keys,
    Matches,
    Says,
    Why,
    bare_of,
    is_nullable,
    mark_of,
    members_of,
    reason_of,
    says_of,
    shown,
    words_of,
)
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest

_MISSING: Any = inspect.Parameter.empty

T = TypeVar("T")


@dataclass(frozen=True)
class _Options:
    """A signature's options: hints and defaults by name; ``open`` where it takes any other key as well."""

    hints: dict[str, Any]
    defaults: dict[str, Any]
    open: bool


def unless_default(kind: type[T], values: Mapping[str, Any] | T | None, where: str) -> T | None:
    """A dataclass of options, of its keys or as it is given; None where all of them are the defaults.

    Raises:
        RequestError: as :func:`checked`.
    """
    given = values if isinstance(values, kind) else kind(**checked(kind, values or {}, where))  # type: ignore[arg-type]
    return None if given == kind() else given


def checked(function: Callable[..., Any], values: Mapping[str, Any], where: str, *, given: int = 0) -> dict[str, Any]:
    """``values`` in the types of a signature, with the defaults of what is not among them.

    Args:
        function: a function, class or dataclass.
        values: options by name, as YAML gives them: 3.0 is a whole number, "1e-3" a number.
        where: what messages put in front of a name, the config's group; may be empty.
        given: how many of the first parameters the caller supplies itself.

    Returns:
        booleans, numbers, texts, lists and dictionaries by name, those of ``values`` first.

    Raises:
        RequestError: one message that names the key, its value and what is allowed.
    """
    from pydantic import ValidationError

    options = _options(function, given)
    values = {str(name): value for name, value in values.items()}
    try:
        found = _model(function, given).model_validate(values)
    except ValidationError as error:
        raise RequestError(_message(error.errors(include_url=False), options, values, where)) from None
    typed = found.model_dump(by_alias=True, exclude_unset=True, warnings=False)
    result = {name: _plain(typed[name], value) for name, value in values.items()}
    for name, default in options.defaults.items():
        if name not in result and default is not _MISSING and _is_plain(default):
            result[name] = _plain(copy.deepcopy(default), default)
    for name, hint in options.hints.items():
        keys = mark_of(hint, Keys)
        if keys is not None and result.get(name) and _fields(keys.of):
            _build(keys.of, result[name], _key(where, [name]))
    return result


def _build(kind: Any, values: Mapping[str, Any], where: str) -> None:
    """Make a dataclass of its values, for the rules of its own that no type can say."""
    has_where = any(f.name == "where" for f in _fields(kind))
    kind(**values, **({"where": where} if has_where else {}))


def check_fields(thing: Any, where: str) -> None:
    """Hold a dataclass's own values against its annotations; for ``__post_init__``.

    Raises:
        RequestError: as :func:`checked`.
    """
    kind: Callable[..., Any] = type(thing)
    checked(kind, {name: getattr(thing, name) for name in names(kind)}, where)


def names(function: Callable[..., Any], given: int = 0) -> tuple[str, ...]:
    """The options that a signature names."""
    return tuple(_options(function, given).hints)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with this keyword."""
    options = _options(function, 0)
    return name in options.hints or options.open


def takes_any(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with any keyword."""
    return _options(function, 0).open


def defaults(function: Callable[..., Any], given: int = 0) -> dict[str, Any]:
    """The defaults of a signature as a config would write them; options without one are left out."""
    found = _options(function, given).defaults
    return {name: _plain(value, value) for name, value in found.items() if value is not _MISSING}


@functools.cache
def _options(function: Callable[..., Any], given: int) -> _Options:
    try:
        parameters = list(inspect.signature(function).parameters.values())[given:]
    except (TypeError, ValueError):  # compiled, without a signature
        return _Options({}, {}, open=True)
    left_out = {f.name for f in _fields(function) if not f.metadata.get("option", True)}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in left_out]
    hints = _hints(function)
    return _Options(
        hints={p.name: hints.get(p.name, Any) for p in named},
        defaults={p.name: _default(function, p) for p in named},
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _fields(function: Any) -> tuple[dataclasses.Field[Any], ...]:
    """A dataclass's fields; none of any other function."""
    is_data = isinstance(function, type) and dataclasses.is_dataclass(function)
    return dataclasses.fields(function) if is_data else ()


def _default(function: Any, parameter: inspect.Parameter) -> Any:
    """A dataclass hides what a ``default_factory`` makes."""
    for field in _fields(function):
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def _hints(function: Any) -> dict[str, Any]:
    """Annotations by parameter; what cannot be resolved, or is no type, is Any."""
    own_class = isinstance(function, type) and not _fields(function)
    annotated: Any = function.__init__ if own_class else function
    try:
        return get_type_hints(annotated, include_extras=True)
    except Exception:  # a name that only type checkers import makes all of them fail
        found = {}
        scope = getattr(inspect.unwrap(annotated), "__globals__", {})
        for name, hint in getattr(annotated, "__annotations__", {}).items():
            try:
                found[name] = eval(hint, scope) if isinstance(hint, str) else hint
            except Exception:
                found[name] = Any
        return found


@functools.cache
def _model(function: Callable[..., Any], given: int = 0) -> Any:
    """The signature as a pydantic model; its fields are numbered, so that an option may have any name."""
    from pydantic import ConfigDict, Field, create_model

    options = _options(function, given)
    config = ConfigDict(extra="allow" if options.open else "forbid", allow_inf_nan=False)
    fields: dict[str, Any] = {}
    for number, (name, hint) in enumerate(options.hints.items()):
        default = options.defaults[name]
        field = Field(alias=name) if default is _MISSING else Field(default, alias=name)
        fields[f"option{number}"] = (_known(hint), field)
    return create_model("Options", __config__=config, **fields)


def _known(hint: Any) -> Any:
    """The hint as pydantic takes it; Any where it does not."""
    from pydantic import TypeAdapter

    try:
        strict = _strict(hint)
        TypeAdapter(strict)
    except Exception:  # a class of the user's, say
        return Any
    return strict


def _strict(hint: Any) -> Any:
    """The hint with a boolean no number, at any depth, and mappings with the keys of a signature."""
    from pydantic import AfterValidator, BeforeValidator

    if hint is int or hint is float:
        return Annotated[hint, BeforeValidator(_no_boolean)]
    if hint is str:
        return Annotated[str, BeforeValidator(_text)]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        keys = next((mark for mark in args[1:] if isinstance(mark, Keys)), None)
        if keys is not None:
            return Union[_model(keys.of), None] if is_nullable(hint) else _model(keys.of)  # noqa: UP007
        marks = [AfterValidator(_matcher(mark)) if isinstance(mark, Matches) else mark for mark in args[1:]]
        marks = [mark for mark in marks if not isinstance(mark, Says | Why)]
        inner = _strict(args[0])
        return Annotated[(inner, *marks)] if marks else inner
    if origin is Literal and not any(isinstance(arg, bool) for arg in args):
        return Annotated[hint, BeforeValidator(_no_boolean)]
    if origin in (Union, UnionType):
        return Union[tuple(_strict(arg) for arg in args)]  # noqa: UP007
    if origin is not None and args and origin is not Literal and not isinstance(args[0], list):
        return origin[tuple(arg if arg is Ellipsis else _strict(arg) for arg in args)]
    return hint


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return value


def _text(value: Any) -> Any:
    """YAML makes a number of a run's id or a folder that is all digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _matcher(form: Matches) -> Callable[[str], str]:
    def match(value: str) -> str:
        if not re.fullmatch(form.pattern, value):
            raise ValueError(f"needs {form.words}")
        return value

    return match


def _message(errors: Sequence[Mapping[str, Any]], options: _Options, values: Mapping[str, Any], where: str) -> str:
    """What is wrong, in one sentence: the first error, and of those of one key the one that lies deepest."""
    first = errors[0]["loc"][0]
    error = max((e for e in errors if e["loc"][0] == first), key=lambda e: len(_path(values, e["loc"])))
    path, kind = _path(values, error["loc"]), error["type"]
    for depth in range(1, len(path) + 1):
        says = says_of(_hint_at(options, path[:depth]))
        if says is not None:
            return f"{_key(where, path[:depth])}={shown(_at(values, path[:depth]))}: needs {says.words}"
    if kind == "missing":
        name = str(error["loc"][-1])
        needed = words_of(_hint_at(options, [*path, name])) or "a value"
        return f"{_key(where, [*path, name])}: missing; it needs {needed}"
    value = _at(values, path)
    if kind == "extra_forbidden":
        known = _names_at(options, path[:-1])
        allowed = nearest(str(path[-1]), known) if known else "there are none"
        return f"{_key(where, path)}={shown(value)}: no such key; {allowed}"
    reason = reason_of(error, _hint_at(options, path), value)
    if isinstance(path[-1], int):  # the whole list is what was typed
        path, reason = path[:-1], f"each value {reason}"
    return f"{_key(where, path)}={shown(_at(values, path))}: {reason}"


def _hint_at(options: _Options, path: Sequence[str | int]) -> Any:
    """The hint of what lies at a path of names and numbers."""
    hint: Any = options.hints.get(str(path[0]), Any)
    for part in path[1:]:
        hint = _below(hint, part)
    return hint


def _below(hint: Any, part: str | int) -> Any:
    keys = mark_of(hint, Keys)
    if keys is not None:
        return _options(keys.of, 0).hints.get(str(part), Any)
    for member in members_of(hint):
        origin, args = get_origin(bare_of(member)), get_args(bare_of(member))
        if not args or not isinstance(origin, type):
            continue
        if isinstance(part, int) and issubclass(origin, Sequence):
            return args[0] if len(args) == 1 or args[1] is Ellipsis else args[part]
        if not isinstance(part, int) and issubclass(origin, Mapping):
            return args[1]
    return Any


def _names_at(options: _Options, path: Sequence[str | int]) -> list[str]:
    if not path:
        return list(options.hints)
    keys = mark_of(_hint_at(options, path), Keys)
    return list(_options(keys.of, 0).hints) if keys is not None else []


def _path(values: Any, loc: Sequence[str | int]) -> list[str | int]:
    """Those parts of pydantic's location that lie in the values; others name the members of a union."""
    path: list[str | int] = []
    for part in loc:
        inside = part in values if isinstance(values, Mapping) else False
        if isinstance(values, (list, tuple)) and isinstance(part, int):
            inside = part < len(values)
        if inside:
            path.append(part)
            values = values[part]
    return path


def _at(values: Any, path: Sequence[str | int]) -> Any:
    return functools.reduce(lambda node, part: node[part], path, values)


def _key(where: str, path: Sequence[str | int]) -> str:
    text = where
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any, as_given: Any) -> Any:
    """Plain lists and dictionaries; what the annotation made something else of stays as it was given."""
    if not _is_plain(value):
        return as_given
    if isinstance(value, Mapping):
        return {k: _plain(v, v) for k, v in value.items()}
    return [_plain(v, v) for v in value] if isinstance(value, (list, tuple)) else value
