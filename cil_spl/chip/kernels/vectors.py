"""The step of one input event in LLVM's vector types, 64 neurons at a time, which any processor has.

numba keeps its wrap-around checks on indexed arrays, counts references to them and finds no mask of the neurons that
fired; here there is nothing of the kind.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cil_spl.chip.kernels.tables import NARROW, NOWHERE, WIDE, Tables

_word, _half = ir.IntType(64), ir.IntType(16)


class Window(NamedTuple):
    """What an event may reach: ``rows`` x ``lanes`` membranes, a row every ``row``, weights a row every ``lead``."""

    row: int
    lead: int
    rows: int
    lanes: int


class Bounds(NamedTuple):
    """Of a layer's neurons, int16: lower bound, threshold, and what remains of a state that fired."""

    low: np.int16
    threshold: np.int16
    keep: np.int16


class Masks(NamedTuple):
    """Which neurons fired: words of ``mask`` that are not zero, uint64, with the time (upper half) and number of its
    first neuron in ``tag``, int64; ``saturations`` [1], int64, counts sums that left 16 bits."""

    mask: np.ndarray
    tag: np.ndarray
    saturations: np.ndarray


class _Vectors:
    """Vectors of 16-bit numbers while LLVM's instructions are put together."""

    def __init__(self, context: Any, builder: Any, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.type = ir.VectorType(_half, lanes)

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def pointer(self, array: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(array, [index]), self.type.as_pointer())

    def mask(self, condition: Any) -> Any:
        """The condition's lanes as bits of a 64-bit word."""
        bits = self.builder.bitcast(condition, ir.IntType(self.lanes))
        return bits if self.lanes == 64 else self.builder.zext(bits, _word)

    def step(self, v: Any, w: Any, low: Any, threshold: Any) -> Any:
        """Add, clip from below, compare, subtract and store; the condition that a neuron fired."""
        builder = self.builder
        state = builder.add(builder.load(v, align=2), builder.load(w, align=2))
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        fired = builder.icmp_signed(">=", state, threshold)
        state = builder.select(fired, builder.sub(state, threshold), state)
        builder.store(state, v, align=2)
        return fired

    def exact_step(self, v: Any, w: Any, low: Any, threshold: Any, keep: Any) -> tuple[Any, Any]:
        """As :meth:`step`; the conditions that a neuron fired and that its sum left 16 bits.

        The thresholds are read as unsigned numbers: 0 is reached by every state, ``NEVER`` by none.
        """
        builder = self.builder
        name, kind = f"llvm.sadd.sat.v{self.lanes}i16", ir.FunctionType(self.type, [self.type, self.type])
        saturating = cgutils.get_or_insert_function(builder.module, kind, name)
        old, weight, zero = builder.load(v, align=2), builder.load(w, align=2), self.splat(_half(0))
        threshold = builder.load(threshold, align=2)
        reached = builder.icmp_signed("!=", weight, self.splat(_half(NOWHERE)))
        state = builder.call(saturating, [old, weight])
        saturated = builder.and_(builder.icmp_signed("!=", state, builder.add(old, weight)), reached)
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        positive = builder.select(builder.icmp_signed(">", state, zero), state, zero)
        fired = builder.and_(builder.icmp_unsigned(">=", positive, threshold), reached)
        state = builder.select(fired, builder.and_(builder.sub(state, threshold), keep), state)
        builder.store(builder.select(reached, state, old), v, align=2)
        return fired, saturated


def _event(lanes: int, exact: bool) -> Any:
    """The step of one input event, in vectors of so many lanes.

    The ``window`` of membranes from ``v[state + at]`` on takes the tables' weights from ``w`` on. For the exact step,
    the neurons' own thresholds lie from ``own + at`` on in the tables. The masks are appended at ``m``, neurons counted
    from ``state`` on, ``time`` in the upper half of a word. Returns the new ``m``.
    """

    @intrinsic
    def event(typing_context, v, state, tables, own, at, w, window, bounds, masks, time, m):  # type: ignore[no-untyped-def]
        integer = types.intp
        signature = types.intp(
            v, integer, tables, integer, integer, integer, window, bounds, masks, types.int64, integer
        )

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            def data(kind, value):  # type: ignore[no-untyped-def]
                return context.make_array(kind)(context, builder, value).data

            def column(name):  # type: ignore[no-untyped-def]
                i = Tables._fields.index(name)
                return data(signature.args[2][i], builder.extract_value(args[2], i))

            v, state, _, own, at, w, window, bounds, masks, time, m = args
            v, thresholds, weight = data(signature.args[0], v), column("threshold"), column("weight")
            row, lead, rows, many_lanes = cgutils.unpack_tuple(builder, window)
            low, threshold, keep = cgutils.unpack_tuple(builder, bounds)
            mask, tag, saturations = map(data, signature.args[8], cgutils.unpack_tuple(builder, masks))
            vectors = _Vectors(context, builder, lanes)
            low, keep, v = vectors.splat(low), vectors.splat(keep), builder.gep(v, [state])
            thresholds = builder.gep(thresholds, [own])
            threshold = vectors.splat(threshold)
            filled = cgutils.alloca_once_value(builder, m)
            many = builder.sdiv(many_lanes, ir.Constant(many_lanes.type, lanes))
            with cgutils.for_range(builder, rows) as y, cgutils.for_range(builder, many) as x:
                shift = builder.mul(x.index, ir.Constant(many_lanes.type, lanes))
                neuron = builder.add(builder.add(at, builder.mul(y.index, row)), shift)
                first = builder.add(builder.add(w, builder.mul(y.index, lead)), shift)
                voltage, weights = vectors.pointer(v, neuron), vectors.pointer(weight, first)
                if exact:
                    own_threshold = vectors.pointer(thresholds, neuron)
                    fired, saturated = vectors.exact_step(voltage, weights, low, own_threshold, keep)
                    more = builder.ctpop(vectors.mask(saturated))
                    builder.store(builder.add(builder.load(saturations), more), saturations)
                else:
                    fired = vectors.step(voltage, weights, low, threshold)
                fired, n = vectors.mask(fired), builder.load(filled)
                builder.store(fired, builder.gep(mask, [n]))
                builder.store(builder.or_(time, neuron), builder.gep(tag, [n]))
                some = builder.zext(builder.icmp_unsigned("!=", fired, _word(0)), n.type)
                builder.store(builder.add(n, some), filled)
            return builder.load(filled)

        return signature, generate

    return event


narrow, wide, exact = _event(NARROW, False), _event(WIDE, False), _event(NARROW, True)


@intrinsic
def borrowed(typing_context, values):  # type: ignore[no-untyped-def]
    """An array, or a named tuple of arrays, whose references are not counted from here on.

    numba counts those of every array of a tuple, atomically, wherever the tuple is an argument; in a loop over events
    that would be most of the work. The caller has to hold the arrays for as long as what is borrowed is used.
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _without_owner(context, builder, signature.args[0], args[0])

    return values(values), generate


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.BaseTuple):
        kinds: Any = kind
        parts = [_without_owner(context, builder, k, builder.extract_value(value, i)) for i, k in enumerate(kinds)]
        return context.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo, array.parent = (cgutils.get_null_value(part.type) for part in (array.meminfo, array.parent))
    return array._getvalue()


@intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Number of the lowest bit of a mask, 64 if it is zero."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def bits(typing_context, mask):  # type: ignore[no-untyped-def]
    """How many bits of a mask are set."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.intp(types.uint64), generate


@intrinsic
def next_of(typing_context, counter):  # type: ignore[no-untyped-def]
    """counter[0] before it is raised by one, safe between threads."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
