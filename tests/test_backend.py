"""The choice of array library and dtype: for the process, for a block, and in several threads."""

import contextvars
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from small import small
from threads import run_in_threads

import minilstm
from minilstm.backend import (
    asarray,
    current_backend,
    set_backend,
    to_numpy,
    use_backend,
    xp,
)
from minilstm.errors import BackendError, ShapeError
from minilstm.layers.workspace import Reused, current_workspace, use_workspace
from minilstm.training import batches

SMALL = small(model={"hidden": 4})


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy that computes with NumPy."""
    strict_cupy.install(monkeypatch)
    yield strict_cupy.cupy
    set_backend("numpy")


def seen_by_a_new_thread():
    found = []
    run_in_threads(lambda _: found.append(current_backend()), range(1))
    return found[0]


def test_the_default_is_numpy_in_float32():
    now = current_backend()
    assert (now.name, now.dtype, now.tf32, now.fused) == ("numpy", np.dtype("float32"), False, True)
    assert xp.tanh is np.tanh and asarray([1]).dtype == "float32"


def test_set_backend_chooses_for_every_thread():
    set_backend("numpy", "float64", fused=False)
    for now in (current_backend(), seen_by_a_new_thread()):
        assert (now.dtype, now.fused) == (np.dtype("float64"), False)
    set_backend()
    assert current_backend().dtype == seen_by_a_new_thread().dtype == "float32"


def test_use_backend_chooses_for_its_block_and_its_thread():
    with use_backend("numpy", "float64") as chosen:
        assert current_backend() is chosen and chosen.dtype == "float64"
        assert seen_by_a_new_thread().dtype == "float32"
        with use_backend("numpy", "complex128"):
            assert asarray([1]).dtype == "complex128"
        assert asarray([1]).dtype == "float64"
    assert asarray([1]).dtype == "float32"


@pytest.mark.parametrize("value", [[1], 1.0, None, {}])
def test_to_numpy_refuses_what_is_no_array(value):
    with pytest.raises(ShapeError, match=f"got {type(value).__name__}: pass an array"):
        to_numpy(value)


def test_the_choice_before_a_block_is_in_force_after_an_exception():
    with pytest.raises(ZeroDivisionError), use_backend("numpy", "float64"):
        1 / 0  # noqa: B018
    assert current_backend().dtype == "float32"


def test_a_thread_in_a_copied_context_shares_the_choice():
    found = []
    with use_backend("numpy", "float64"):
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(lambda: found.append(current_backend()),))
    thread.start()
    thread.join()
    assert found[0].dtype == "float64"


@pytest.mark.parametrize(
    "library, use",
    [
        ("numpy", lambda: asarray([1.0])),
        ("numpy", lambda: current_backend().name),
        ("cupy", lambda: xp.tanh),
    ],
)
def test_use_backend_without_with_is_refused_at_the_next_use(cupy, library, use):
    use_backend(library, "float64")
    with pytest.raises(BackendError, match="without `with`: write set_backend"):
        use()
    set_backend("numpy", "float64")  # as the message says
    assert asarray([1]).dtype == "float64"


def test_after_the_error_of_calls_without_with_the_backend_can_be_used_again():
    use_backend("numpy", "float64")
    use_backend("numpy", "float64")
    with use_backend("numpy", "complex128"):
        assert asarray([1]).dtype == "complex128"
    with pytest.raises(BackendError, match="without `with`"):
        asarray([1])
    assert asarray([1]).dtype == "float32"
    with use_backend("numpy", "float64"):
        use_backend("numpy", "complex128")
        with pytest.raises(BackendError, match="without `with`"):
            current_backend().name  # noqa: B018
        assert asarray([1]).dtype == "float64"
    assert asarray([1]).dtype == "float32"


def test_a_notebook_that_shows_the_result_of_use_backend_does_not_use_up_the_error():
    shown = use_backend("numpy", "float64")
    assert not hasattr(shown, "_repr_html_")
    with pytest.raises(BackendError, match="without `with`"):
        asarray([1])


def test_set_backend_inside_a_block_is_refused():
    with use_backend("numpy", "float64"):
        with pytest.raises(BackendError, match="outside `with use_backend"):
            set_backend("numpy", "float32")
        assert current_backend().dtype == "float64"


@pytest.mark.parametrize(
    "words, message",
    [
        (("jax",), "expected backend numpy or cupy, got 'jax'"),
        (
            ("numpy", "float16"),
            "expected dtype float32, float64, complex128 or tf32, got 'float16'",
        ),
        (("numpy", "half a float"), "got 'half a float'"),
        (("numpy", "tf32"), "expected backend cupy for tf32, got 'numpy'"),
    ],
)
def test_a_wrong_choice_is_refused_in_one_line_and_changes_nothing(words, message):
    for choose in (set_backend, use_backend):
        with pytest.raises(BackendError, match=message) as refused:
            choose(*words)
        assert "\n" not in str(refused.value)
        assert current_backend().dtype == "float32"


# ---------------------------------------------------------------- several threads


def fails_while_another_thread_chooses(read, choose, seconds):
    """Return True if `read` raises AttributeError within so many seconds of calls of `choose`."""
    failed, end = [], time.perf_counter() + seconds

    def run(reads):
        while not failed and time.perf_counter() < end:
            try:
                read() if reads else choose()
            except AttributeError as error:
                failed.append(error)

    run_in_threads(run, [True, False])
    return bool(failed)


def test_a_thread_reads_numpy_while_another_chooses_cupy_for_the_first_time(cupy):
    assert vars(xp).pop("tanh", np.tanh) is np.tanh

    def choose():
        vars(xp).update(vars(np))  # as when the package is imported
        with use_backend("cupy"):
            assert xp.tanh is cupy.tanh and not vars(xp)

    def read():
        assert xp.tanh is np.tanh

    assert not fails_while_another_thread_chooses(read, choose, 0.1)
    assert xp.tanh is np.tanh


def test_a_thread_reads_xp_while_another_enters_and_leaves_blocks():
    def choose():
        with use_backend("numpy", "float64"):
            pass

    assert not fails_while_another_thread_chooses(lambda: xp.tanh, choose, 0.1)
    assert not fails_while_another_thread_chooses(lambda: xp.tanh, set_backend, 0.1)


def test_the_reader_above_finds_the_fault_of_a_namespace_that_is_cleared_and_filled():
    """Cleared and filled at each choice, `xp` is empty for a moment. The reader ends at once."""
    library = SimpleNamespace(**vars(np))

    def choose():
        vars(library).clear()
        vars(library).update(vars(np))

    assert fails_while_another_thread_chooses(lambda: library.tanh, choose, 20)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, train_undrawn):
    """Two run folders, one of float32 and one of float64, with the same settings otherwise."""
    found = {}
    for precision in ("float32", "float64"):
        found[precision] = tmp_path_factory.mktemp("runs") / precision
        settings = SMALL | {"run": SMALL["run"] | {"precision": precision}}
        with use_backend("numpy", precision):
            train_undrawn(settings, found[precision])
    return found


def test_eight_threads_load_runs_of_two_dtypes_and_compute_what_one_thread_does(runs):
    past = np.random.default_rng(0).random((3, 2, 64))

    def rollout(precision):
        with use_backend("numpy", precision), use_workspace(Reused()):
            model = minilstm.load(runs[precision])
            assert {param.value.dtype.name for param in model.params().values()} == {precision}
            return to_numpy(model.rollout(asarray(past), 5))

    expected = {precision: rollout(precision) for precision in runs}
    assert expected["float64"].dtype == "float64"
    found = []

    def work(number):
        precision = ("float32", "float64")[number % 2]
        for _ in range(3):
            found.append((precision, rollout(precision)))

    run_in_threads(work, range(8))
    assert len(found) == 24
    for precision, result in found:
        assert result.dtype == precision and (result == expected[precision]).all()


def test_eight_threads_load_runs_without_choosing_anything(runs):
    def work(number):
        precision = ("float32", "float64")[number % 2]
        for _ in range(3):
            assert minilstm.load(runs[precision]).dtype == precision

    run_in_threads(work, range(8))


def test_the_thread_that_draws_batches_sees_the_choices_of_its_creator():
    seen = []

    def pack(k):
        seen.append((current_backend(), current_workspace(), threading.current_thread()))

    with use_backend("numpy", "float64") as chosen, use_workspace(Reused()) as workspace:
        ahead = batches.BatchesAhead(SimpleNamespace(pack=pack), 0, 2)
        ahead.receive(), ahead.receive()
        ahead.stop()
    for backend, buffers, thread in seen:
        assert backend is chosen and buffers is workspace
        assert thread is not threading.current_thread()


# ---------------------------------------------------------------- tf32


def test_each_thread_and_block_has_its_own_precision_on_cupy(cupy):
    met, seen = threading.Barrier(2), {}

    def choose(precision):
        with use_backend("cupy", precision):
            met.wait(10)
            with use_backend("cupy", "float64"):
                inner = current_backend().tf32
            seen[precision] = inner, current_backend().tf32

    run_in_threads(choose, ["tf32", "float32"])
    assert seen == {"tf32": (False, True), "float32": (False, False)}


def test_tf32_is_refused_on_a_gpu_that_does_not_have_it(cupy, monkeypatch):
    monkeypatch.setattr(strict_cupy.Device, "compute_capability", "75")
    with pytest.raises(BackendError, match="got A GPU, 8 GB: use float32"):
        use_backend("cupy", "tf32")
    with use_backend("cupy", "float32"):
        assert not current_backend().tf32
