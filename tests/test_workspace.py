"""The workspaces: a buffer is lent again when nobody refers to it, and never before."""

import itertools

import numpy as np
import pytest
from threads import run_in_threads

from minilstm.errors import ConfigError
from minilstm.layers import memory_order
from minilstm.layers.lstm import PeepholeLSTM
from minilstm.layers.memory_order import loop_array, matmul, product_array, product_copy, rows
from minilstm.layers.workspace import (
    Fresh,
    Reused,
    current_workspace,
    empty,
    use_workspace,
    zeros,
)


@pytest.mark.parametrize("workspace", [Fresh, Reused])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (4,), (5, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128", "bool"])
def test_a_buffer_has_the_shape_and_dtype_that_were_asked_for(workspace, shape, dtype):
    array = workspace().empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("workspace", [Fresh, Reused])
def test_live_buffers_never_share_memory(workspace):
    pool = workspace()
    live = [pool.empty((3, 4), "float32") for _ in range(6)]
    del live[2:4]
    live += [pool.empty((4, 3), "float32") for _ in range(4)]
    for a, b in itertools.combinations(live, 2):
        assert not np.shares_memory(a, b)


@pytest.mark.parametrize("workspace", [Fresh, Reused])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (5, 3, 4), (1, 3, 4), (5, 1, 4), (5, 3, 0)])
def test_the_order_in_memory_changes_neither_shape_nor_numbers(workspace, shape):
    numbers = np.random.default_rng(0).standard_normal(shape).astype("float32")
    with use_workspace(workspace()):
        for array in (product_copy(numbers), loop_array(shape, "float32")):
            assert (array.shape, array.dtype) == (numbers.shape, numbers.dtype)
            assert not np.shares_memory(array, numbers)
            array[...] = numbers
            assert np.array_equal(
                rows(array), numbers.reshape(-1 if 0 not in shape else 15, shape[-1])
            )


def test_a_gate_of_a_step_is_one_block_and_the_rows_of_all_steps_are_one_matrix():
    T, B, H = 5, 3, 4
    in_loop = loop_array((T, B, 4 * H), "float32")
    assert in_loop[2, :, H : 2 * H].T.flags.c_contiguous
    for_product = product_array((T, B, H), "float32")
    assert np.shares_memory(rows(for_product), for_product)
    assert rows(for_product).T.flags.c_contiguous
    assert not np.shares_memory(rows(in_loop), in_loop)  # a copy, with the same numbers
    in_loop[...] = np.random.default_rng(0).standard_normal(in_loop.shape)
    assert np.array_equal(rows(in_loop), in_loop.reshape(T * B, 4 * H))


@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 3, 4), (5, 1, 4), (5, 3, 0), (3, 4), (0, 3, 4)])
@pytest.mark.parametrize("new", [loop_array, product_array, empty])
def test_a_product_reads_and_writes_arrays_in_any_order(new, shape):
    rng = np.random.default_rng(0)
    x, W = new(shape, "float64"), rng.standard_normal((shape[-1], 6))
    x[...] = rng.standard_normal(shape)
    expected = x @ W
    for out in (
        None,
        *(of((*shape[:-1], 6), "float64") for of in (loop_array, product_array, empty)),
    ):
        got = matmul(x, W, out)
        assert out is None or got is out
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14, strict=True)


def test_plain_order_everywhere_changes_no_result_beyond_rounding(monkeypatch):
    """The switch by which the gain of the orders is measured."""
    rng = np.random.default_rng(0)
    layer, x = PeepholeLSTM(3, 4, rng), rng.standard_normal((5, 2, 3)).astype("float32")
    found = []
    for plain in (False, True):
        monkeypatch.setattr(memory_order, "PLAIN", plain)
        layer.zero_grad()
        (y, _), cache = layer.forward(x)
        assert y[0].flags.c_contiguous is plain
        dx, _ = layer.backward((np.ones_like(y), None), cache)
        found.append([y, dx, *(param.grad.copy() for param in layer.params().values())])
    for ordered, in_plain_order in zip(*found, strict=True):
        np.testing.assert_allclose(ordered, in_plain_order, rtol=1e-5, atol=1e-6)


def test_the_bytes_lent_are_those_that_somebody_refers_to():
    pool = Reused()
    kept = pool.empty((3, 4), "float32")
    del kept
    kept = [pool.empty((3, 4), "float32"), pool.empty((5,), "float64").reshape(5, 1)]
    assert (pool.lent(), pool.nbytes) == (48 + 40, 48 + 40)
    del kept[0]
    assert (pool.lent(), pool.nbytes) == (40, 48 + 40)


def test_a_buffer_is_lent_again_after_its_last_reference_dies():
    pool = Reused()
    array = pool.empty((3, 4), "float32")
    address, nbytes = array.ctypes.data, array.nbytes
    also = array
    del array
    assert pool.empty((3, 4), "float32").ctypes.data != address, "`also` still refers to it"
    del also
    assert pool.empty((3, 4), "float32").ctypes.data == address
    assert (pool.allocated, pool.nbytes) == (2, 2 * nbytes)


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array[1:],
        lambda array: array.T,
        lambda array: array.reshape(-1)[3:5],
        lambda array: array[1][2:].view(),
        lambda array: (array[0], [array[:, 1]]),
        lambda array: {"frame": array[::-1]},
        lambda array: array.data,
        lambda array: array.real,
        lambda array: iter(array),
    ],
    ids="slice transpose reshape nested tuple dict memoryview real iterator".split(),
)
def test_whatever_refers_to_a_buffer_keeps_it(keep):
    pool = Reused()
    array = pool.empty((3, 4), "float32")
    address = array.ctypes.data
    kept = keep(array)
    del array
    assert pool.empty((3, 4), "float32").ctypes.data != address
    del kept
    assert pool.empty((3, 4), "float32").ctypes.data == address


def test_a_buffer_serves_any_shape_of_its_size_but_no_other_dtype_and_no_other_size():
    pool = Reused()
    address = pool.empty((3, 4), "float32").ctypes.data
    assert pool.empty((2, 6), "float32").ctypes.data == address
    assert pool.empty((12,), "float32").ctypes.data == address
    assert pool.allocated == 1
    pool.empty((6,), "float64")  # as many bytes
    pool.empty((11,), "float32")
    assert pool.allocated == 3


def test_the_pool_grows_to_what_one_step_needs_and_no_further():
    pool = Reused()

    def step():
        kept = [pool.empty((5, 3), "float32") for _ in range(7)]
        kept.append(pool.empty((5, 3), "float64"))
        return kept

    counts = []
    for _ in range(4):
        step()
        counts.append((pool.allocated, pool.nbytes))
    assert counts == [(8, 7 * 60 + 120)] * 4


def test_fresh_buffers_are_new_even_when_the_last_one_was_dropped():
    pool = Fresh()
    first = pool.empty((100,), "float32")
    first.fill(7)
    view = first[:50]
    del first
    pool.empty((100,), "float32").fill(8)
    assert (view == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_poison_fills_floating_buffers_with_nan_every_time_they_are_lent(dtype):
    pool = Reused(poison=True)
    for _ in range(3):
        array = pool.empty((3, 4), dtype)
        assert np.isnan(array).all()
        array.fill(1)
        del array
    assert pool.allocated == 1
    pool.empty((3,), "bool"), pool.empty((3,), "int64")  # these can't be poisoned, nor need be


def test_zeros_are_zero_in_a_buffer_that_held_something_else():
    with use_workspace(Reused(poison=True)) as pool:
        empty((3, 4), "float32").fill(5)
        assert not zeros((3, 4), "float32").any()
        assert pool.allocated == 1


def test_use_workspace_puts_the_previous_one_back():
    outer, inner = Reused(), Reused()
    with use_workspace(outer) as chosen:
        assert chosen is outer
        with use_workspace(inner):
            empty((2,), "float32")
        empty((2,), "float32")
        assert (outer.allocated, inner.allocated) == (1, 1)
    assert isinstance(current_workspace(), Fresh)


def test_use_workspace_puts_the_previous_one_back_after_an_exception():
    before = current_workspace()
    with pytest.raises(ZeroDivisionError), use_workspace(Reused()):
        1 / 0  # noqa: B018
    assert current_workspace() is before


def test_use_workspace_without_with_is_refused_at_the_next_request():
    use_workspace(Reused())
    with pytest.raises(ConfigError, match="expected `with use_workspace"):
        empty((2,), "float32")
    with use_workspace(Fresh()):
        empty((2,), "float32")


def test_two_threads_are_never_lent_the_same_buffer():
    pool, mixed = Reused(), []

    def borrow(number):
        for _ in range(3000):
            array = pool.empty((4,), "int64")
            array.fill(number)
            for _ in range(3):
                if (array != number).any():
                    mixed.append(number)

    run_in_threads(borrow, range(4))
    assert not mixed


def test_a_thread_of_ones_own_starts_with_fresh_buffers():
    found = []
    with use_workspace(Reused()):
        run_in_threads(lambda _: found.append(current_workspace()), range(1))
    assert [type(workspace) for workspace in found] == [Fresh]


def test_buffers_lent_before_an_exception_return_to_the_pool():
    pool = Reused()

    def fails():
        kept = pool.empty((3, 4), "float32")
        raise ValueError(kept.shape)

    for _ in range(3):
        with pytest.raises(ValueError, match="3, 4") as caught:
            fails()
        del caught  # the traceback refers to the frame, and the frame to the buffer
    assert pool.allocated == 1


def test_a_workspace_is_not_chosen_by_making_one():
    before = current_workspace()
    Reused()
    assert current_workspace() is before
