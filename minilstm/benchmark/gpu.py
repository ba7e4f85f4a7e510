"""Times of whole training steps on one GPU, compared with PyTorch, bare products and GPU limits.

Times are measured on the GPU, between two events. In each round every contender is timed once, so a
GPU that slows down slows all of them. The result is the median over the rounds. Our step has
everything: batch, losses, gradients, their norms, clipping and Adam. PyTorch's step has `nn.LSTM`
(cuDNN, no peepholes), clipping and its fused Adam, and uses one batch that is already on the GPU.

Read next: ../gpu/capture.py.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from .. import config, threads
from ..backend import asarray, use_backend, xp
from ..errors import BackendError, named
from ..gpu import products
from ..gpu.capture import Captured, on_stream
from ..gpu.transfers import Readings
from ..layers.init import Blank, Init
from ..runs import build
from ..runs.torch_names import to_torch
from ..training import resources
from ..training.batches import BatchesAhead
from ..training.packing import packing_of
from ..training.step import Batch, training_step
from .contenders import torch_composite

DEVICE = "cuda"  # of PyTorch's contenders
ROUNDS = 5
PASSES = 8  # over the parameters: Adam reads w, dw, m, s and writes w, m, s; the norm reads dw
MOST_BUSY = 16  # processes, where a machine names more CPUs than it lends
AGREE = 1e-3  # relative: losses and gradient norms of ours and PyTorch's, in float32


@dataclass(frozen=True)
class Row:
    """A model (composite, 10 + 10 frames), a precision, and how often a round repeats its step."""

    name: str
    precision: str
    hidden: int
    layers: int
    frame: int
    digit: int
    sequences: int
    repeats: int

    def settings(self, cell: str = "peephole") -> config.Config:
        """Return the settings of a training run of this model."""
        return config.load(
            overrides={
                "data": {"frame_size": self.frame, "digit_size": self.digit},
                "model": {"hidden": self.hidden, "layers": self.layers, "cell": cell},
                "run": {
                    "batch_size": self.sequences,
                    "precision": self.precision,
                    "backend": "cupy",
                },
            }
        )


PAPER, SMALL, DEFAULT = (2048, 2, 64, 28), (512, 1, 64, 28, 100), (128, 2, 40, 14, 40)
ROWS = (
    Row("paper, 128 sequences", "tf32", *PAPER, 128, 8),
    Row("paper, 256 sequences", "tf32", *PAPER, 256, 5),
    Row("paper, 128 sequences", "float32", *PAPER, 128, 4),
    Row("paper, 256 sequences", "float32", *PAPER, 256, 3),
    Row("1x512", "tf32", *SMALL, 40),
    Row("1x512", "float32", *SMALL, 30),
    Row("default", "tf32", *DEFAULT, 60),
    Row("default", "float32", *DEFAULT, 60),
)
TINY = tuple(Row(row.name, row.precision, 16, row.layers, 12, 6, 4, 2) for row in ROWS[::2])
# the targets of other / ours, on an H100 or H200
TARGETS = {
    ("paper, 128 sequences", "tf32"): (1.15, 1.05, 0.70),
    ("paper, 128 sequences", "float32"): (1.10, 1.05, 0.88),
    ("1x512", "tf32"): (1.8, 1.1, None),
    ("default", "float32"): (2.5, 1.0, None),
}
CONTENDERS = ("PyTorch as used", "PyTorch captured", "own products")


class Training:
    """Our training step for a row of the table, with all its arrays on the device."""

    def __init__(self, settings: config.Config, init: Init | None = None):
        self.settings = settings
        source = build.open_source(settings, "train")
        self.model = build.build_model(settings, math.prod(source.frame_shape), init)
        self.optimizer = build.build_optimizer(self.model, settings)
        self.packing = packing_of(source, settings)
        self.readings = Readings(100)

    def step(self, packed) -> None:
        """Make one step, as training/loop.py does."""
        batch = self.packing.open(packed)
        arguments = self.model, self.optimizer, batch, self.settings, batch.rate
        self.readings.write(training_step(*arguments))

    def forward_and_backward(self, packed) -> None:
        """Add to the gradients, and make no update."""
        batch = self.packing.open(packed)
        T = len(batch.future)
        logits, cache = self.model.forward(batch.past, batch.future, T, False, None)
        dlogits = []
        for z, target in zip(logits, self.model.targets(batch.past, batch.future), strict=True):
            _, loss_cache = self.model.loss.forward(z, target)
            dlogits.append(self.model.loss.backward(1.0, loss_cache)[0])
        self.model.backward(tuple(dlogits), cache, want_dinputs=False)

    def products(self, packed) -> list:
        """Return the arguments of all matrix products of a step, with arrays that stay."""
        calls, matmul = [], products.matmul

        def noting(*arguments, **keywords):
            calls.append((arguments, keywords))
            matmul(*arguments, **keywords)

        with mock.patch.object(products, "matmul", noting):
            self.forward_and_backward(packed)
        return calls


class Torch:
    """The model in PyTorch, with its fused Adam. `captured` makes its step a CUDA graph."""

    def __init__(self, row: Row, captured: bool = False, weights: dict | None = None):
        self._torch = torch = find_torch()
        tf32 = row.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        T, B, D = 10, row.sequences, row.frame**2
        with torch.device(DEVICE):  # to draw 200 million weights on the host would take seconds
            self.module = torch_composite(torch, D, row.hidden, row.layers)
        if weights is not None:
            weights = {name: torch.from_numpy(x.copy()) for name, x in weights.items()}
            self.module.load_state_dict(weights)
        self.past, self.future = (torch.rand(T, B, D, device=DEVICE) for _ in range(2))
        self._nothing = torch.zeros(T, B, 1, device=DEVICE)
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=1e-6, fused=True, capturable=captured
        )
        if captured:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                self.step()
            self.step = graph.replay

    def losses(self) -> list:
        """Return both losses, in nats per frame."""
        loss = self._torch.nn.functional.binary_cross_entropy_with_logits
        targets = self.past.flip(0), self.future
        return [
            loss(z, target, reduction="sum") / math.prod(target.shape[:2])
            for z, target in zip(self.module(self.past, self._nothing), targets, strict=True)
        ]

    def step(self) -> Any:
        """Make one step -> the norm of the gradient."""
        self._optimizer.zero_grad(set_to_none=True)
        sum(self.losses()).backward()
        norm = self._torch.nn.utils.clip_grad_norm_(self._parameters, 5.0)
        self._optimizer.step()
        return norm

    def milliseconds(self, count: int) -> float:
        """Time one of `count` steps."""
        start, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            self.step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count


def find_torch():
    """Return the module `torch`. Raises BackendError without it or without its GPU."""
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            "expected PyTorch for `python -m minilstm.bench gpu`, got none: pip install torch"
        ) from error
    if not torch.cuda.is_available():
        raise BackendError(
            "expected a PyTorch that can use the GPU, got one that finds none: install the build "
            "for your CUDA from pytorch.org"
        )
    return torch


def milliseconds(work: Callable, count: int) -> float:
    """Return the time on the device of one of `count` calls, between two events."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    for _ in range(count):
        work()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / count


def median(work: Callable, count: int, rounds: int = ROUNDS) -> float:
    """Return the median of several such times. A first time is not counted."""
    milliseconds(work, max(2, count // 4))
    return float(np.median([milliseconds(work, count) for _ in range(rounds)]))


def expect_same_results(row: Row) -> float:
    """Return the largest relative difference to PyTorch of both losses and the gradient's norm.

    The model has the standard cell, which PyTorch has too, and float32. Raises BackendError above
    AGREE.
    """
    settings = row.settings("standard")
    with use_backend("cupy", "float32"):
        ours = Training(settings)
        other = Torch(row, weights=to_torch(ours.model))
        past, future = (asarray(x.cpu().numpy()) for x in (other.past, other.future))
        batch = Batch(past, future, False, None)
        expected = [float(loss.detach()) for loss in (*other.losses(), other.step())]
        numbers = training_step(ours.model, ours.optimizer, batch, settings, 1e-6)
        names = *ours.model.output_names, "gradient_norm"
        found = [float(numbers[name]) for name in names]
    worst = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    if not worst < AGREE:
        raise BackendError(
            f"expected losses and gradient norms as PyTorch's within {AGREE:.0e}, got {found} and "
            f"{expected}: run `python -m minilstm.doctor`"
        )
    return worst


def limits() -> dict[str, float]:
    """Measure the limits of the GPU: TFLOP/s of a large product by precision, TB/s of a copy."""
    size, copied, found = 8192, 1 << 28, {}
    for precision in ("float32", "tf32"):
        with use_backend("cupy", precision):
            a, b, c = (xp.zeros((size, size), "float32") for _ in range(3))
            ms = median(lambda a=a, b=b, c=c: products.matmul(a, b, c), 3, 3)
            found[f"{precision}, TFLOP/s"] = 2 * size**3 / ms / 1e9
    x, y = (xp.zeros(copied, "float32") for _ in range(2))
    ms = median(lambda: xp.copyto(y, x), 3, 3)
    found["copy, TB/s"] = 2 * x.nbytes / ms / 1e9
    return found


def floor(training: Training, row: Row, limit: dict[str, float]) -> float:
    """Return the least possible milliseconds of a step: products and passes at full speed."""
    flop = 1e9 * resources.gflop_per_step(training.model, training.settings)
    passes = PASSES * training.model.flat().value.nbytes
    return 1e3 * (
        flop / (1e12 * limit[f"{row.precision}, TFLOP/s"]) + passes / (1e12 * limit["copy, TB/s"])
    )


def _captured(row, say):
    """Return the function that times PyTorch's step as a graph, or None if that fails."""
    try:
        return Torch(row, captured=True).milliseconds
    except RuntimeError as error:
        say(f"PyTorch captured is not measured: {named(error)}")
        return None


def measure(row: Row, limit: dict[str, float], say: Callable[[str], None]) -> dict:
    """Return milliseconds of a row's step and of the contenders, ratios, counts, idle shares."""
    with use_backend("cupy", row.precision), on_stream():
        training = Training(row.settings(), Blank())
        weights = training.model.flat().value  # to draw 200 million numbers would take seconds
        weights[...] = 0.02 * xp.sin(xp.arange(weights.size, dtype=weights.dtype))
        used, captured = Torch(row).milliseconds, _captured(row, say)
        batches = BatchesAhead(training.packing, 0, 10**9)
        try:
            run = Captured(training.step)
            for _ in range(6):  # for each of two buffers: run once, record, replay
                run(batches.receive())
            packed = batches.receive()
            calls = training.products(packed)

            def multiply_all():
                for arguments, keywords in calls:
                    products.matmul(*arguments, **keywords)

            alone = Captured(multiply_all)
            for _ in range(2):
                alone()
            contenders = {
                "ours": lambda count: milliseconds(lambda: run(batches.receive()), count),
                "PyTorch as used": used,
                "PyTorch captured": captured,
                "own products": lambda count: milliseconds(alone, count),
            }
            contenders = {name: timed for name, timed in contenders.items() if timed is not None}
            times = {name: [] for name in contenders}
            for timed in contenders.values():
                timed(2)
            for _ in range(ROUNDS):
                for name, timed in contenders.items():
                    times[name].append(timed(row.repeats))
            found = {name: float(np.median(x)) for name, x in times.items()}
            packed = batches.receive()
            replayed = median(lambda: run(packed), row.repeats, 3)
            with busy_host():
                when_busy = median(lambda: run(batches.receive()), row.repeats, 3)
            one_by_one = median(lambda: training.step(packed), max(2, row.repeats // 4), 2)
        finally:
            batches.stop()
        ratios = {
            f"{name} / ours": found[name] / found["ours"] for name in CONTENDERS if name in found
        }
        return {
            "row": row.name, "precision": row.precision, "milliseconds": found, "ratios": ratios,
            "targets": TARGETS.get((row.name, row.precision)),
            "without a graph": one_by_one, "floor": floor(training, row, limit),
            "idle": max(0.0, 1 - replayed / found["ours"]),
            "idle, host busy": max(0.0, 1 - replayed / when_busy),
            "products": len(calls), "launches": launches(lambda: run(packed)),
        }  # fmt: skip


def launches(work: Callable) -> int | None:
    """Count kernels, copies and fills of the GPU in one call, by PyTorch's profiler."""
    torch = find_torch()
    activity = torch.profiler.ProfilerActivity.CUDA
    work()
    xp.cuda.get_current_stream().synchronize()
    try:
        with torch.profiler.profile(activities=[activity]) as seen:
            work()
            xp.cuda.get_current_stream().synchronize()
    except RuntimeError:  # not every machine lets its GPU be profiled
        return None
    calls = re.compile("cu(da)?[A-Z]|Activity Buffer")  # of the host: not work of the device
    return sum(calls.match(event.name) is None for event in seen.events()) or None


@contextlib.contextmanager
def busy_host() -> Iterator[None]:
    """Keep every CPU at work in a process of its own, as other programs of a machine do."""
    workers = multiprocessing.get_context("spawn")
    count = min(len(threads.cpus()), MOST_BUSY)
    busy = [workers.Process(target=_spin, daemon=True) for _ in range(count)]
    started = []
    try:
        for process in busy:
            process.start()
            started.append(process)
        time.sleep(1)  # until they have started
        yield
    finally:
        for process in started:
            process.terminate()
            process.join()


def _spin():
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():  # a killed parent cannot stop this
        pass


def measure_all(
    rows: tuple[Row, ...], say: Callable[[str], None], keep: Callable[[dict], None]
) -> dict:
    """Compare results, then measure all rows. Returns everything that was measured. CuPy only.

    After each row keep(everything so far) is called, so that a later error loses nothing.
    """
    find_torch()
    agreement = expect_same_results(replace(rows[-1], precision="float32"))
    say(f"losses and gradient norm as PyTorch's within {agreement:.0e}")
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())["name"].decode()
    found = {"device": name, "limits": limits(), "agreement": agreement, "rows": []}
    for row in rows:
        say(f"{row.name}, {row.precision}")
        found["rows"].append(measure(row, found["limits"], say))
        keep(found)
        _free()
    return found


def _free():
    """Free unused memory of CuPy's pool, so that PyTorch can use it."""
    import gc

    gc.collect()
    xp.get_default_memory_pool().free_all_blocks()
    find_torch().cuda.empty_cache()


def in_words(found: dict) -> str:
    """Return what was measured as Markdown."""
    limits_ = ", ".join(f"{name} {value:.3g}" for name, value in found["limits"].items())
    lines = [
        f"{found['device']}: {limits_}. Milliseconds per step; other / ours (target).",
        "",
        "| step | ours | without a graph | "
        + " | ".join(CONTENDERS)
        + " | floor | idle | idle, host busy | launches | products |",
        "| --- " * 11 + "|",
    ]
    for row in found["rows"]:
        times, targets = row["milliseconds"], row["targets"] or (None, None, None)
        contenders = (
            "-"
            if name not in times
            else f"{times[name]:.2f}: {row['ratios'][name + ' / ours']:.2f}"
            + (f" (>= {target:.2f})" if target else "")
            for name, target in zip(CONTENDERS, targets, strict=True)
        )
        words = (
            f"{row['row']}, {row['precision']}", f"{times['ours']:.2f}",
            f"{row['without a graph']:.2f}", *contenders, f"{row['floor']:.2f}",
            f"{100 * row['idle']:.1f} %", f"{100 * row['idle, host busy']:.1f} %",
            row["launches"] or "-", row["products"],
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, words)) + " |")
    return "\n".join(lines)
