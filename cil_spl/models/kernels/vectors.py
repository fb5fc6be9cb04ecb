"""What the kernels do with a window of a map, in LLVM's vector types, which any processor has.

A layer's map lies in memory as rows of pixels, all features of a pixel together. What one input event reaches are a few
pixels in each of a few rows: so many numbers in a run, and the weights are laid out in such runs too (``tables.py``).
numba would keep its wrap-around checks on indexed arrays and a loop's prologue for each run; here there are none.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_word = ir.IntType(64)
FUSED = ("contract",)  # a multiplication and the addition after it, rounded once, where the processor can


class _Floats:
    """Vectors of one kind of floating-point numbers while LLVM's instructions are put together."""

    def __init__(self, context: Any, builder: Any, kind: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.scalar = context.get_value_type(kind)
        self.type = ir.VectorType(self.scalar, lanes)
        self.align = kind.bitwidth // 8

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def first(self, n: Any) -> Any:
        """The condition of the first ``n`` lanes."""
        numbers = ir.Constant(ir.VectorType(_word, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(n))

    def store_where(self, mask: Any, value: Any, data: Any, index: Any) -> None:
        condition = ir.VectorType(ir.IntType(1), self.lanes)
        call = ir.FunctionType(ir.VoidType(), [self.type, self.type.as_pointer(), ir.IntType(32), condition])
        name = f"llvm.masked.store.v{self.lanes}f{8 * self.align}.p0"
        store = cgutils.get_or_insert_function(self.builder.module, call, name)
        self.builder.call(store, [value, self.pointer(data, index), ir.IntType(32)(self.align), mask])

    def load_where(self, mask: Any, data: Any, index: Any) -> Any:
        """Zeros in the other lanes, which are not read."""
        condition = ir.VectorType(ir.IntType(1), self.lanes)
        call = ir.FunctionType(self.type, [self.type.as_pointer(), ir.IntType(32), condition, self.type])
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.align}.p0"
        load = cgutils.get_or_insert_function(self.builder.module, call, name)
        zeros = ir.Constant(self.type, None)
        return self.builder.call(load, [self.pointer(data, index), ir.IntType(32)(self.align), mask, zeros])

    def pointer(self, data: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [index]), self.type.as_pointer())

    def load(self, data: Any, index: Any) -> Any:
        return self.builder.load(self.pointer(data, index), align=self.align)

    def store(self, value: Any, data: Any, index: Any) -> None:
        self.builder.store(value, self.pointer(data, index), align=self.align)

    def plus_product(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=FUSED), flags=FUSED)


def lanes_of(kind: Any) -> int:
    """How many numbers of a type the longest vectors have."""
    return 512 // kind.bitwidth


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def add_window(typing_context, into, at, row, source, first, lead, value, rows, groups):  # type: ignore[no-untyped-def]
    """``into[at + r row + i] += value source[first + r lead + i]`` for ``r < rows``, ``i < groups`` times the lanes."""
    n = types.intp
    kind = into.dtype

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        into, at, row, source, first, lead, value, rows, groups = args
        into = _data(context, builder, signature.args[0], into)
        source = _data(context, builder, signature.args[3], source)
        vectors = _Floats(context, builder, kind, lanes_of(kind))
        value, lanes = vectors.splat(value), ir.Constant(_word, vectors.lanes)
        with cgutils.for_range(builder, rows) as r, cgutils.for_range(builder, groups) as g:
            shift = builder.mul(g.index, lanes)
            to = builder.add(builder.add(at, builder.mul(r.index, row)), shift)
            of = builder.add(builder.add(first, builder.mul(r.index, lead)), shift)
            total = vectors.plus_product(vectors.load(into, to), value, vectors.load(source, of))
            vectors.store(total, into, to)
        return context.get_dummy_value()

    return types.void(into, n, n, source, n, n, kind, n, n), generate


def _pooling(back: bool, half: bool) -> Any:
    """Sums over windows of neighbouring pixels, or the reverse, see :func:`pool_row`."""

    @intrinsic
    def pooling(typing_context, small, at, large, first, row, features, many, pool_y, pool_x, area):  # type: ignore[no-untyped-def]
        n = types.intp
        kind = small.dtype

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            small, at, large, first, row, features, many, pool_y, pool_x, area = args
            small = _data(context, builder, signature.args[0], small)
            large = _data(context, builder, signature.args[2], large)
            vectors = _Floats(context, builder, kind, lanes_of(kind) // (2 if half else 1))
            lanes = ir.Constant(_word, vectors.lanes)
            groups = builder.sdiv(builder.add(features, ir.Constant(_word, vectors.lanes - 1)), lanes)
            area = vectors.splat(area)
            total = cgutils.alloca_once(builder, vectors.type)
            with cgutils.for_range(builder, many) as x, cgutils.for_range(builder, groups) as g:
                shift = builder.mul(g.index, lanes)
                there = builder.add(builder.add(at, builder.mul(x.index, features)), shift)
                corner = builder.mul(builder.mul(x.index, pool_x), features)
                corner = builder.add(builder.add(first, corner), shift)
                mask = vectors.first(builder.sub(features, shift))
                zero = ir.Constant(vectors.type, None)
                value = builder.fdiv(vectors.load_where(mask, small, there), area) if back else zero
                builder.store(value, total)
                with cgutils.for_range(builder, pool_y) as dy, cgutils.for_range(builder, pool_x) as dx:
                    place = builder.add(corner, builder.mul(dy.index, row))
                    place = builder.add(place, builder.mul(dx.index, features))
                    if back:
                        vectors.store_where(mask, builder.load(total), large, place)
                    else:
                        builder.store(builder.fadd(builder.load(total), vectors.load(large, place)), total)
                if not back:
                    vectors.store_where(mask, builder.fdiv(builder.load(total), area), small, there)
            return context.get_dummy_value()

        return types.void(small, n, large, n, n, n, n, n, n, kind), generate

    return pooling


pool_row, half_pool_row, unpool_row, half_unpool_row = (
    _pooling(back, half) for back in (False, True) for half in (False, True)
)


def _sum_window(pixels: int, half: bool, two: bool) -> Any:
    """Sums over windows, for ``pixels`` neighbours in a row, and where ``two`` for those of the next row as well.

    ``into[at + i step + c]`` becomes the sum over r and q of
    ``source[first + r row + i apart + q] weight[w + (r length + q) lanes + c]``, for ``r < rows``, ``q < length`` and
    ``c < channels``, at most the lanes. The next row is ``line`` further in ``into``, one row further in ``source``, so
    that most of what is read serves both.
    """

    @intrinsic
    def sum_window(  # type: ignore[no-untyped-def]
        typing_context, into, at, line, step, channels, source, first, row, apart, weight, w, rows, length,
    ):  # fmt: skip
        n = types.intp
        kind = into.dtype

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            into, at, line, step, channels, source, first, row, apart, weight, w, rows, length = args
            into = _data(context, builder, signature.args[0], into)
            source = _data(context, builder, signature.args[5], source)
            weight = _data(context, builder, signature.args[9], weight)
            vectors = _Floats(context, builder, kind, lanes_of(kind) // (2 if half else 1))
            lanes = ir.Constant(_word, vectors.lanes)
            zero = ir.Constant(vectors.type, None)
            lines = [[cgutils.alloca_once(builder, vectors.type) for _ in range(pixels)] for _ in range(1 + two)]
            for total in (total for totals in lines for total in totals):
                builder.store(zero, total)
            stride = builder.mul(length, lanes)  # of the weights of a row

            def add(r: Any, *taking: int) -> None:
                """Row ``r`` of the source, to the lines that take it: line k with the weights of row r - k."""
                begin = builder.add(first, builder.mul(r, row))
                weights = [builder.add(w, builder.mul(builder.sub(r, ir.Constant(_word, k)), stride)) for k in taking]
                with cgutils.for_range(builder, length) as q:
                    shift = builder.mul(q.index, lanes)
                    factors = [vectors.load(weight, builder.add(one, shift)) for one in weights]
                    for i in range(pixels):
                        place = builder.add(begin, builder.add(q.index, builder.mul(apart, ir.Constant(_word, i))))
                        value = vectors.splat(builder.load(builder.gep(source, [place])))
                        for k, factor in zip(taking, factors, strict=True):
                            total = lines[k][i]
                            builder.store(vectors.plus_product(builder.load(total), value, factor), total)

            if two:
                one = ir.Constant(_word, 1)
                add(ir.Constant(_word, 0), 0)
                with cgutils.for_range(builder, builder.sub(rows, one)) as r:
                    add(builder.add(r.index, one), 0, 1)
                add(rows, 1)
            else:
                with cgutils.for_range(builder, rows) as r:
                    add(r.index, 0)
            mask = vectors.first(channels)
            for k, totals in enumerate(lines):
                for i, total in enumerate(totals):
                    place = builder.add(at, builder.mul(step, ir.Constant(_word, i)))
                    place = builder.add(place, builder.mul(line, ir.Constant(_word, k)))
                    vectors.store_where(mask, builder.load(total), into, place)
            return context.get_dummy_value()

        return types.void(into, n, n, n, n, source, n, n, n, weight, n, n, n), generate

    return sum_window


sum_8, sum_6, sum_4, sum_1 = (_sum_window(n, False, False) for n in (8, 6, 4, 1))
half_8, half_6, half_4, half_1 = (_sum_window(n, True, False) for n in (8, 6, 4, 1))
two_8, two_6, two_4, two_1 = (_sum_window(n, False, True) for n in (8, 6, 4, 1))
half_two_8, half_two_6, half_two_4, half_two_1 = (_sum_window(n, True, True) for n in (8, 6, 4, 1))
NUMBERS = 8  # of a window, that :func:`outer` takes at a time


def _outer(half: bool) -> Any:
    """Products of a window's numbers and a pixel's features, summed over a map.

    To ``table[at + k lanes + f]`` is added the sum over y and x of
    ``source[first + y row + x apart + k] delta[start + y line + x step + f]``, for ``k < NUMBERS``, f below the lanes.
    """

    @intrinsic
    def outer(  # type: ignore[no-untyped-def]
        typing_context, table, at, source, first, row, apart, delta, start, line, step, height, width,
    ):  # fmt: skip
        n = types.intp
        kind = table.dtype

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            table, at, source, first, row, apart, delta, start, line, step, height, width = args
            table = _data(context, builder, signature.args[0], table)
            source = _data(context, builder, signature.args[2], source)
            delta = _data(context, builder, signature.args[6], delta)
            vectors = _Floats(context, builder, kind, lanes_of(kind) // (2 if half else 1))
            places = [builder.add(at, ir.Constant(_word, k * vectors.lanes)) for k in range(NUMBERS)]
            totals = [cgutils.alloca_once(builder, vectors.type) for _ in places]
            for place, total in zip(places, totals, strict=True):
                builder.store(vectors.load(table, place), total)
            with cgutils.for_range(builder, height) as y, cgutils.for_range(builder, width) as x:
                of = builder.add(start, builder.add(builder.mul(y.index, line), builder.mul(x.index, step)))
                features = vectors.load(delta, of)
                of = builder.add(first, builder.add(builder.mul(y.index, row), builder.mul(x.index, apart)))
                for k, total in enumerate(totals):
                    value = vectors.splat(builder.load(builder.gep(source, [builder.add(of, ir.Constant(_word, k))])))
                    builder.store(vectors.plus_product(builder.load(total), value, features), total)
            for place, total in zip(places, totals, strict=True):
                vectors.store(builder.load(total), table, place)
            return context.get_dummy_value()

        return types.void(table, n, source, n, n, n, delta, n, n, n, n, n), generate

    return outer


outer, half_outer = _outer(False), _outer(True)


@intrinsic
def copy(typing_context, into, at, source, first, many):  # type: ignore[no-untyped-def]
    """``into[at + i] = source[first + i]`` for ``i < many``."""
    n = types.intp

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        into, at, source, first, many = args
        to = builder.gep(_data(context, builder, signature.args[0], into), [at])
        of = builder.gep(_data(context, builder, signature.args[2], source), [first])
        cgutils.raw_memcpy(builder, to, of, many, signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(into, n, source, n, n), generate


@intrinsic
def nonzero(typing_context, x, at):  # type: ignore[no-untyped-def]
    """Which of the 64 numbers from ``x[at]`` on are not zero, as the bits of a word."""
    kind = x.dtype

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        x, at = args
        data = _data(context, builder, signature.args[0], x)
        vectors = _Floats(context, builder, kind, lanes_of(kind))
        word = _word(0)
        zero = ir.Constant(vectors.type, None)
        for k in range(64 // vectors.lanes):
            value = vectors.load(data, builder.add(at, ir.Constant(_word, k * vectors.lanes)))
            bits = builder.bitcast(builder.fcmp_unordered("!=", value, zero), ir.IntType(vectors.lanes))
            bits = builder.shl(builder.zext(bits, _word), _word(k * vectors.lanes))
            word = builder.or_(word, bits)
        return word

    return types.uint64(x, types.intp), generate


@intrinsic
def power_of_two(typing_context, exponent):  # type: ignore[no-untyped-def]
    """2 to the power of a whole number from -126 to 127, as float32."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = ir.IntType(32)
        bits = builder.shl(builder.add(args[0], kind(127)), kind(23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate
