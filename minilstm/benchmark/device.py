"""Checks and speeds of one GPU, for the command `python -m minilstm.doctor`.

`examine` asks for every piece that CuPy needs (gpu/diagnosis.py), then checks gradients and five
training steps on the device, and whether such steps can be recorded as CUDA graphs. `measure`
times copies, products and an LSTM.

Read next: ../gpu/diagnosis.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from .. import checker, config
from ..backend import asarray, synchronize, to_numpy, use_backend, xp
from ..errors import BackendError, named
from ..gpu.capture import Captured, on_stream
from ..gpu.diagnosis import CUPY_PIECES, find_cupy
from ..gpu.pinned import pinned, start_upload
from ..layers.lstm import PeepholeLSTM
from ..runs import build
from ..training.batches import BatchesAhead
from ..training.packing import packing_of
from ..training.step import training_step

PARITY = {"float32": 1e-4, "float64": 1e-10}  # relative; sums in another order round differently
STEPS = 5  # of training, after which weights are compared
REPORT = "report this with the lines above: nothing that this GPU computes can be trusted"


def check_gradients() -> str:
    """Compare the gradients of the paper's LSTM on the device with central differences."""
    found = []
    for fused, how in ((True, "by the kernels of cells.cuh"), (False, "operation by operation")):
        with use_backend("cupy", "float64", fused):
            sample = PeepholeLSTM.sample(np.random.default_rng(0))
            layer, inputs = sample.layer, dict(zip(("x", "state"), sample.inputs, strict=True))
            analytic, doutputs = checker.analytic_gradients(layer, inputs, "float64")
            worst = max(
                checker.error(a, checker.numeric_gradient(layer, inputs, array, doutputs, 1e-4))
                for array, a in analytic.items()
            )
        what = f"gradients of a PeepholeLSTM, {how},"
        found.append(_at_most(worst, checker.TOLERANCE["difference"], what))
    return " and ".join(found)


def check_parity() -> str:
    """Compare the weights after five training steps on the device and on the host."""
    found = []
    for precision, limit in PARITY.items():
        there, here = (_trained(name, precision) for name in ("cupy", "numpy"))
        worst = np.abs(there - here).max() / np.abs(here).max()
        found.append(_at_most(worst, limit, f"{precision} weights after five steps"))
    return ", ".join(found)


def check_graphs() -> str:
    """Compare the weights after five steps replayed from CUDA graphs with five made one by one."""
    with use_backend("cupy"):
        if xp.cuda.runtime.is_hip:
            return "not recorded on AMD GPUs: train with --no-graph"
        with on_stream():
            replayed, one_by_one = (_trained("cupy", "float32", how) for how in (Captured, None))
    if replayed.tobytes() != one_by_one.tobytes():
        raise BackendError(
            "expected the same weights from steps recorded as CUDA graphs and from steps made one "
            "by one, got others: train with --no-graph"
        )
    return "training steps recorded as CUDA graphs change no bit"


def _trained(name, precision, recorded=None):
    small = {"frame_size": 8, "digit_size": 5, "past": 3, "future": 3}
    run = {"batch_size": 4, "precision": precision}
    settings = config.load(overrides={"data": small, "model": {"hidden": 16}, "run": run})
    source = build.open_source(settings, "train")
    with use_backend(name, precision):
        model = build.build_model(settings, math.prod(source.frame_shape))
        optimizer = build.build_optimizer(model, settings)
        packing = packing_of(source, settings)

        def step(packed):
            training_step(model, optimizer, packing.open(packed), settings, 1e-2)

        step, batches = recorded(step) if recorded else step, BatchesAhead(packing, 0, STEPS)
        try:
            for _ in range(STEPS):
                step(batches.receive())
        finally:
            batches.stop()
        return to_numpy(model.flat().value)


def _at_most(worst, limit, what):
    if not worst < limit:
        raise BackendError(
            f"expected {what} within {limit:.0e}, got an error of {worst:.1e}: {REPORT}"
        )
    return f"{what} within {worst:.0e}"


# Each check needs those before it, so the first failure names the missing piece.
CHECKS: dict[str, Callable[[], str]] = {
    "import": find_cupy,
    **CUPY_PIECES,
    "gradients": check_gradients,
    "parity": check_parity,
    "graphs": check_graphs,
}


def examine() -> Iterator[tuple[str, str]]:
    """Run all checks in order; yield the name and the finding of each.

    The first check that fails raises BackendError, whose message starts with the check's name.
    """
    for name, check in CHECKS.items():
        try:
            yield name, check()
        except BackendError as error:
            raise BackendError(f"{name}: {error}") from error
        except Exception as error:  # a broken device may fail in any way
            found = named(error)
            raise BackendError(f"{name}: expected a result, got {found}: {REPORT}") from error


def measure(megabytes: int = 64) -> Iterator[tuple[str, str]]:
    """Time the device in use, copying `megabytes`; yield each name and its value with a unit."""
    host = np.zeros(megabytes * 250_000, np.float32)
    device, tiny = asarray(host), xp.zeros(1, "float32")
    locked = pinned(host.nbytes).view(host.dtype)
    for name, unit, amount, work in (
        ("launches of a kernel", "per ms", 1e-3, lambda: xp.negative(tiny, out=tiny)),
        ("copy host to device", "GB/s", host.nbytes / 1e9, lambda: asarray(host)),
        (
            "copy host to device, pinned as batches are",
            "GB/s",
            host.nbytes / 1e9,
            lambda: start_upload(locked, device, xp.cuda.get_current_stream()),
        ),
        ("copy device to host", "GB/s", host.nbytes / 1e9, lambda: to_numpy(device)),
        (
            "read and write on the device",
            "GB/s",
            2 * host.nbytes / 1e9,
            lambda: xp.negative(device, out=device),
        ),
    ):
        yield name, f"{amount / _seconds(work):,.1f} {unit}"
    for precision in ("float32", "tf32", "float64"):
        for size in (256, 1024, 4096):
            with use_backend("cupy", precision):
                matrix = asarray(np.random.default_rng(0).random((size, size)))
                seconds = _seconds(lambda matrix=matrix: xp.matmul(matrix, matrix))
            speed = 2 * size**3 / seconds / 1e9
            yield f"{precision} product {size}x{size}", f"{speed:,.1f} GFLOP/s"
            if seconds > 0.01:  # a larger one would take 64 times as long
                break
    for fused, how in ((True, "by kernels"), (False, "operation by operation")):
        with use_backend("cupy", "float32", fused):
            seconds = _seconds_of_a_step()
        yield f"an LSTM forward and back, {how}", f"{1e6 * seconds:,.0f} us per step"


def _seconds_of_a_step():
    """Return the seconds per time step of a layer so small that launches take most of the time."""
    T, B, D, H = 10, 32, 64, 128
    rng = np.random.default_rng(0)
    layer, x, dy = PeepholeLSTM(D, H, rng), *(asarray(rng.random((T, B, N))) for N in (D, H))

    def forward_and_back():
        _, cache = layer.forward(x)
        layer.backward((dy, None), cache)

    return _seconds(forward_and_back) / T


def _seconds(work, at_least=0.1):
    """Return the seconds of one call of `work`, averaged over at least `at_least` seconds."""
    work()
    synchronize()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < at_least:
        work()
        count += 1
        if count % 100 == 0:  # do not queue more than a slow device can do in that time
            synchronize()
    synchronize()
    return (time.perf_counter() - start) / count
