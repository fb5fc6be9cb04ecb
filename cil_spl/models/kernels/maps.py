"""A layer's map with its margins: values in and out of it, and pooling."""

from __future__ import annotations

from numba import njit

from cil_spl.models.kernels.vectors import copy, half_pool_row, half_unpool_row, pool_row, unpool_row


@njit(nogil=True)
def into_map(values, out, shape):  # type: ignore[no-untyped-def]
    """Values of a layer's neurons, (N,), into a map with margins, (size,)."""
    n = shape.out_width * shape.features
    for y in range(shape.out_height):
        copy(out, shape.first + y * shape.row, values, y * n, n)


@njit(nogil=True)
def out_of_map(values, out, shape):  # type: ignore[no-untyped-def]
    """The reverse of :func:`into_map`."""
    n = shape.out_width * shape.features
    for y in range(shape.out_height):
        copy(out, y * n, values, shape.first + y * shape.row, n)


@njit(nogil=True)
def pool(spikes, out, shape):  # type: ignore[no-untyped-def]
    """Pooled spikes of a map. Shapes (size,), (N',)."""
    g = shape
    if g.pool_y == 1 and g.pool_x == 1:
        out_of_map(spikes, out, g)
        return
    f, many, area = g.features, g.out_width // g.pool_x, out.dtype.type(g.area)
    for y in range(g.out_height // g.pool_y):
        at, first = y * many * f, g.first + y * g.pool_y * g.row
        if 2 * f * out.itemsize <= 64:
            if g.pool_y == 2 and g.pool_x == 2:  # written as numbers, they become straight code
                half_pool_row(out, at, spikes, first, g.row, f, many, 2, 2, area)
            else:
                half_pool_row(out, at, spikes, first, g.row, f, many, g.pool_y, g.pool_x, area)
        elif g.pool_y == 2 and g.pool_x == 2:
            pool_row(out, at, spikes, first, g.row, f, many, 2, 2, area)
        else:
            pool_row(out, at, spikes, first, g.row, f, many, g.pool_y, g.pool_x, area)


@njit(nogil=True)
def unpool(grad, out, shape):  # type: ignore[no-untyped-def]
    """The gradient of spikes from that of pooled ones. Shapes (N',), (size,); margins are left as they are."""
    g = shape
    if g.pool_y == 1 and g.pool_x == 1:
        into_map(grad, out, g)
        return
    f, many, area = g.features, g.out_width // g.pool_x, grad.dtype.type(g.area)
    for y in range(g.out_height // g.pool_y):
        at, first = y * many * f, g.first + y * g.pool_y * g.row
        if 2 * f * out.itemsize <= 64:
            if g.pool_y == 2 and g.pool_x == 2:
                half_unpool_row(grad, at, out, first, g.row, f, many, 2, 2, area)
            else:
                half_unpool_row(grad, at, out, first, g.row, f, many, g.pool_y, g.pool_x, area)
        elif g.pool_y == 2 and g.pool_x == 2:
            unpool_row(grad, at, out, first, g.row, f, many, 2, 2, area)
        else:
            unpool_row(grad, at, out, first, g.row, f, many, g.pool_y, g.pool_x, area)
