"""What an annotation says, in words: its types, its limits, and marks of our own beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at

from cil_spl.base.suggestions import nearest

LONGEST = 80  # characters of a value in a message


@dataclass(frozen=True)
class Keys:
    """In an annotation: the mapping has the options of this function or dataclass as its keys."""

    of: Callable[..., Any]


@dataclass(frozen=True)
class Says:
    """In an annotation: how a message calls what is needed, where the type alone says it badly."""

    words: str


@dataclass(frozen=True)
class Why:
    """In an annotation: what a limit is for, where the number alone does not say it."""

    words: str


@dataclass(frozen=True)
class Matches:
    """In an annotation: a text of this form, and how a message calls it."""

    pattern: str
    words: str


def reason_of(error: Mapping[str, Any], hint: Any, value: Any) -> str:
    """Why a value is refused, and what is allowed."""
    kind, null = error["type"], ", or null" if is_nullable(hint) else ""
    limits = next((limits for limits in map(limits_of, members_of(hint)) if limits), "")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal") and limits:
        why = next((mark.words for member in members_of(hint) if (mark := mark_of(member, Why)) is not None), "")
        return f"must be {limits}{null}" + (f"; {why}" if why else "")
    literals = [bare_of(member) for member in members_of(hint) if get_origin(bare_of(member)) is Literal]
    allowed = [arg for literal in literals for arg in get_args(literal)]
    if kind == "literal_error" and allowed:
        if not all(isinstance(arg, str) for arg in allowed):  # 3 is near to nothing
            return f"allowed are {', '.join(map(shown, allowed))}{null}"
        return nearest(str(value), allowed) + null
    if kind == "finite_number":
        return f"needs a finite number{', ' if limits else ''}{limits}{null}"
    needed = words_of(hint)
    return f"needs {needed}" if needed else str(error["msg"])[0].lower() + str(error["msg"])[1:]


def words_of(hint: Any) -> str:
    """A type in words; empty where there are none for it."""
    says = says_of(hint)
    if says is not None:
        return says.words
    found = [words for member in members_of(hint) if (words := _one(member))]
    return ", or ".join(found) + (", or null" if found and is_nullable(hint) else "")


def _one(member: Any) -> str:
    says = says_of(member)
    if says is not None:
        return says.words
    bare, limits = bare_of(member), limits_of(member)
    origin, args = get_origin(bare), get_args(bare)
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if bare in simple:
        return simple[bare] + (f", {limits}" if limits else "")
    if origin is Literal:
        return f"one of {', '.join(shown(arg) for arg in args)}"
    kind = origin or bare
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "names and values, {name: value}"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        least = next((mark.min_length for mark in marks_of(member) if isinstance(mark, at.MinLen)), 0)
        return "a list, [value]" + (f", of at least {least} value{'s' if least > 1 else ''}" if least else "")
    return ""


def limits_of(member: Any) -> str:
    """What a number may be, in words; empty where any will do."""
    words = {at.Gt: "more than", at.Ge: "at least", at.Lt: "less than", at.Le: "at most"}
    fields = {at.Gt: "gt", at.Ge: "ge", at.Lt: "lt", at.Le: "le"}
    found = []
    for kind, word in words.items():
        for mark in marks_of(member):
            if isinstance(mark, kind):
                limit = getattr(mark, fields[kind])
                found.append(f"{word} {limit if isinstance(limit, int) else format(limit, 'g')}")
    return " and ".join(found)


def marks_of(hint: Any) -> list[Any]:
    """What stands beside the type in an Annotated, groups of marks opened."""
    found: list[Any] = []
    for mark in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        found += list(mark) if isinstance(mark, at.GroupedMetadata) else [mark]
    return found


def mark_of(hint: Any, kind: type) -> Any:
    """The mark of a kind beside the type, None where there is none."""
    return next((mark for mark in marks_of(hint) if isinstance(mark, kind)), None)


def says_of(hint: Any) -> Says | Matches | None:
    """The mark that has the words, where there is one."""
    found: Says | Matches | None = mark_of(hint, Says) or mark_of(hint, Matches)
    return found


def bare_of(hint: Any) -> Any:
    """The type itself."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def members_of(hint: Any) -> list[Any]:
    """The types of a union, None left out; of any other hint itself."""
    bare = bare_of(hint)
    if get_origin(bare) in (Union, UnionType):
        return [member for arg in get_args(bare) if arg is not NoneType for member in members_of(arg)]
    return [hint]


def is_nullable(hint: Any) -> bool:
    """Whether None is allowed."""
    bare = bare_of(hint)
    return get_origin(bare) in (Union, UnionType) and NoneType in get_args(bare)


def shown(value: Any) -> str:
    """A value as it would be typed on the command line: ``[34,34,1]``, ``{shift: 1}``, ``null``."""
    try:
        text = _typed(value)
    except RecursionError:  # of what holds itself
        text = type(value).__name__
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_typed(held)}' for name, held in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    return str(value)
