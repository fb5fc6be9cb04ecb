"""Options against a signature: what passes and as what, and what is said of the rest."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MinLen
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.annotations import Keys, Matches, Says
from cil_spl.base.errors import RequestError
from cil_spl.base.options import check_fields, checked, defaults, names, takes, takes_any

if TYPE_CHECKING:
    from nowhere import Unknown


@dataclass(frozen=True)
class Inner:
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    every: Literal[1, 2, 4] | Mapping[str, Literal[1, 2, 4]] = 1
    rate: Annotated[float, Ge(1)] | Mapping[str, Annotated[float, Ge(1)]] | None = None
    where: str = field(default="inner", metadata={"option": False})

    def __post_init__(self) -> None:
        check_fields(self, self.where)
        if self.rate is not None and self.every != 1:
            raise RequestError(f"{self.where}.rate: not with every")


def train(
    ctx: Any,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    share: Annotated[float, Ge(0), Le(1)] = 0.5,
    n: Annotated[int, Interval(ge=1, le=1000)] | None = None,
    gains: Annotated[Sequence[Annotated[float, Gt(0)]], MinLen(1)] = (1.0, 2.0),
    loss: Literal["counts", "steps"] = "counts",
    straight: bool = True,
    die: Annotated[Mapping[str, Any] | None, Keys(Inner)] = None,
    by_name: Mapping[str, float] | None = None,
    size: Annotated[Sequence[Annotated[int, Ge(1)]], Len(2, 2), Says("[width, height]")] = (3, 4),
    device: Annotated[str, Matches(r"cpu|cuda(:\d+)?", "cpu, cuda or cuda:NUMBER")] = "cpu",
    root: str | None = None,
    model_config: Any = None,
    plain=None,
) -> None: ...


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1}, "method.lr=-1: must be more than 0"),
        ({"lr": 0}, "method.lr=0: must be more than 0"),
        ({"lr": "abc"}, "method.lr=abc: needs a number, more than 0"),
        ({"lr": None}, "method.lr=null: needs a number, more than 0"),
        ({"lr": True}, "method.lr=true: needs a number, more than 0"),
        ({"lr": float("nan")}, "method.lr=nan: needs a finite number, more than 0"),
        ({"lr": float("inf")}, "method.lr=inf: needs a finite number, more than 0"),
        ({"lr": "1e400"}, "method.lr=1e400: needs a finite number, more than 0"),
        ({"share": 1.5}, "method.share=1.5: must be at least 0 and at most 1"),
        ({"n": 0}, "method.n=0: must be at least 1 and at most 1000, or null"),
        ({"n": 2.5}, "method.n=2.5: needs a whole number, at least 1 and at most 1000, or null"),
        ({"n": False}, "method.n=false: needs a whole number, at least 1 and at most 1000, or null"),
        ({"gains": [-1, 2]}, "method.gains=[-1,2]: each value must be more than 0"),
        ({"gains": []}, "method.gains=[]: needs a list, [value], of at least 1 value"),
        ({"gains": [True]}, "method.gains=[true]: each value needs a number, more than 0"),
        ({"gains": 5}, "method.gains=5: needs a list, [value], of at least 1 value"),
        ({"gains": "ab"}, "method.gains=ab: needs a list, [value], of at least 1 value"),
        ({"loss": "count"}, "method.loss=count: did you mean counts? allowed are counts, steps"),
        ({"losss": "counts"}, "method.losss=counts: no such key; did you mean loss? allowed are lr, share, n, gains"),
        ({"ctx": 1}, "method.ctx=1: no such key; allowed are lr"),
        ({"straight": 2}, "method.straight=2: needs true or false"),
        ({"die": 5}, "method.die=5: needs names and values, {name: value}, or null"),
        ({"die": [1]}, "method.die=[1]: needs names and values"),
        ({"die": {"sed": 1}}, "method.die.sed=1: no such key; did you mean seed? allowed are seed, every, rate"),
        ({"die": {"seed": 1.5}}, "method.die.seed=1.5: needs a whole number, at least 0"),
        ({"die": {"every": 3}}, "method.die.every=3: allowed are 1, 2, 4"),
        ({"die": {"every": {"conv1": 3}}}, "method.die.every.conv1=3: allowed are 1, 2, 4"),
        ({"die": {"every": {"conv1": True}}}, "method.die.every.conv1=true: needs one of 1, 2, 4"),
        ({"die": {"rate": {"conv1": 0.5}}}, "method.die.rate.conv1=0.5: must be at least 1"),
        ({"die": {"where": "x"}}, "method.die.where=x: no such key"),
        ({"die": {"rate": 2, "every": 4}}, "method.die.rate: not with every"),
        ({"by_name": {"a": "b"}}, "method.by_name.a=b: needs a number"),
        ({"size": [1, 2, 3]}, "method.size=[1,2,3]: needs [width, height]"),
        ({"size": [1, 0]}, "method.size=[1,0]: needs [width, height]"),
        ({"device": "gpu"}, "method.device=gpu: needs cpu, cuda or cuda:NUMBER"),
        ({"root": 1.5}, "method.root=1.5: needs text, or null"),
        ({"root": [1]}, "method.root=[1]: needs text, or null"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        checked(train, values, "method", given=1)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given_as", "taken_as"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": "1e-3"}, {"lr": 1e-3}),
        ({"n": 3.0}, {"n": 3}),
        ({"n": None}, {"n": None}),
        ({"gains": [1, 2]}, {"gains": [1.0, 2.0]}),
        ({"die": {"every": 4.0, "rate": None}}, {"die": {"every": 4, "rate": None}}),
        ({"die": {}}, {"die": {}}),
        ({"root": 2024}, {"root": "2024"}),
        ({"plain": {"anything": [1, None]}}, {"plain": {"anything": [1, None]}}),
        ({"model_config": 5}, {"model_config": 5}),
    ],
    ids=str,
)
def test_what_fits_comes_back_in_its_type(given_as: dict[str, Any], taken_as: dict[str, Any]) -> None:
    found = checked(train, given_as, "method", given=1)
    for name, value in taken_as.items():
        assert found[name] == value
        assert type(found[name]) is type(value)
    assert {k: v for k, v in found.items() if k not in taken_as} == {
        k: v for k, v in defaults(train, 1).items() if k not in taken_as
    }


def test_defaults_are_what_a_config_would_write() -> None:
    assert defaults(train, 1) == {
        "lr": 5e-3, "share": 0.5, "n": None, "gains": [1.0, 2.0], "loss": "counts", "straight": True, "die": None,
        "by_name": None, "size": [3, 4], "device": "cpu", "root": None, "model_config": None, "plain": None,
    }  # fmt: skip
    assert names(train, 1) == tuple(defaults(train, 1))
    assert names(Inner) == ("seed", "every", "rate")


def test_a_default_is_not_shared() -> None:
    @dataclass
    class Kept:
        values: list[int] = field(default_factory=lambda: [1])

    checked(Kept, {}, "x")["values"].append(2)
    assert checked(Kept, {}, "x") == {"values": [1]}


def test_a_missing_option_is_named() -> None:
    def load(*, root: str, n) -> None: ...

    with pytest.raises(RequestError, match=r"dataset\.root: missing; it needs text"):
        checked(load, {"n": 1}, "dataset")
    with pytest.raises(RequestError, match=r"dataset\.n: missing; it needs a value"):
        checked(load, {"root": "a"}, "dataset")


def test_functions_of_any_make() -> None:
    """Without annotations, with any keyword, with an annotation that cannot be resolved or is no type, compiled."""

    def bare(a, b=1): ...

    def any_key(*, lr: Annotated[float, Gt(0)] = 1.0, **rest): ...

    def unknown(*, a: Unknown = None, lr: Annotated[float, Gt(0)] = 1.0): ...

    class Own: ...

    def odd(*, a: Own = None, b: "a sentence" = 2): ...  # noqa: F722

    assert checked(bare, {"a": [1]}, "x") == {"a": [1], "b": 1}
    assert checked(any_key, {"more": 3}, "x") == {"more": 3, "lr": 1.0}
    assert takes_any(any_key)
    assert takes(any_key, "whatever")
    assert not takes(bare, "c")
    with pytest.raises(RequestError, match=r"x\.lr=-1: must be more than 0"):
        checked(any_key, {"lr": -1}, "x")
    assert checked(unknown, {"a": 5}, "x") == {"a": 5, "lr": 1.0}
    with pytest.raises(RequestError, match=r"x\.lr=-1"):
        checked(unknown, {"lr": -1}, "x")
    assert checked(odd, {"a": 5}, "x")["a"] == 5
    assert checked(functools.partial(any_key, lr=2.0), {}, "x") == {"lr": 2.0}
    assert checked(dict, {"anything": 1}, "x") == {"anything": 1}


@given(st.dictionaries(st.sampled_from(names(train, 1)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5,
)))  # fmt: skip
def test_any_value_passes_or_is_refused_by_name(values: dict[str, Any]) -> None:
    found, said = None, ""
    try:
        found = checked(train, values, "method", given=1)
    except RequestError as error:
        said = str(error)
    if found is None:
        assert any(said.startswith(f"method.{name}") for name in values)
    else:
        assert set(found) == set(names(train, 1))
        assert found["lr"] > 0
        assert not isinstance(found["lr"], bool)


def test_pydantic_is_imported_when_something_is_checked() -> None:
    code = "import sys, cil_spl.schema, cil_spl.cli, cil_spl.base.options; print('pydantic' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"
