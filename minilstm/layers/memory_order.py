"""The order of arrays in memory, which changes the speed and never a shape. Read this file last.

All equations are written for arrays (T, B, H). NumPy would store them in that order, "plain". On a
CPU most arrays of a recurrent layer are stored in one of two other orders, with the batch last:

    for the loop over time   (T, H, B)   h[t] is one block of memory, and so is each gate of a step
    for products             (H, T, B)   the rows of all time steps form one matrix, without a copy

Plain order everywhere (PLAIN = True below) is slower. The table says how many times as long a
training step then takes. From 512 units on the difference is small. On a GPU every array is plain.

    sizes                                    one thread    two threads
    the defaults of minilstm.bench                 1.04           1.10
    T, B, D, H = 10, 100, 256, 128                 1.09           1.13
    T, B, D, H = 20, 64, 64, 64                    1.15           1.21
"""

from __future__ import annotations

from ..backend import current_backend, xp
from ..gpu import products
from .workspace import empty

PLAIN = False  # True: plain order everywhere, to measure what the other two gain


def loop_array(shape: tuple[int, ...], dtype):
    """Return an uninitialised array (..., B, H) for the loop over time."""
    if _plain():
        return empty(shape, dtype)
    return empty((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)


def product_array(shape: tuple[int, ...], dtype):
    """Return an uninitialised array (..., H) for products over all time steps."""
    if _plain():
        return empty(shape, dtype)
    return empty((shape[-1], *shape[:-1]), dtype).transpose(*range(1, len(shape)), 0)


def product_copy(array):
    """Return a copy of `array` for products over all steps; in plain order the array itself."""
    if _plain():
        return array
    copy = product_array(array.shape, array.dtype)
    copy[...] = array
    return copy


def rows(x):
    """Return x (T, B, D) as one matrix (T*B, D) for products over all time steps.

    The result is a view where the order in memory allows it. x (B, D) is returned as it is.
    """
    if x.ndim == 2:
        return x
    T, B, D = x.shape
    return (x if _is_a_matrix(x) else product_copy(x)).reshape(T * B, D)


def matmul(x, W, out=None):
    """out = x W, for all time steps at once. x (..., D), W (D, K) -> out (..., K).

    D = 0 gives zeros. Without `out` the result is a new array.
    """
    if out is None:
        out = product_array((*x.shape[:-1], W.shape[1]), W.dtype)
    if not len(W):
        out.fill(0)
        return out
    if products.wanted(out.dtype):
        products.matmul(rows(x), W, rows(out))
        return out
    result = out if _is_a_matrix(out) else product_array(out.shape, out.dtype)
    xp.matmul(rows(x), W, out=rows(result))
    if result is not out:
        out[...] = result
    return out


def _plain():
    return PLAIN or current_backend().name != "numpy"


def _is_a_matrix(x):
    """Return True if the rows of all time steps lie in memory as one matrix."""
    return x.ndim == 2 or len(x) <= 1 or x.strides[0] == x.shape[1] * x.strides[1]
