"""The whole check on hardware: results to the bit, kernels against optim.py, and times.

    python tests/on_gpu.py OUT [SECTION ...] [--size small]

Each section prints as it goes and writes OUT/results.json; one that fails does not stop the others.
No network. Needs CuPy and a GPU; PyTorch for the sections that compare with it, pytest for `tests`.
`--size small` is for the emulation, which has no times. Sections, in their order:

    doctor    python -m minilstm.doctor --backend cupy
    bits      steps recorded as a graph against the same steps one by one, bit by bit
    streams   gradients computed in several streams against those in one, bit by bit, 20 times
    kernels   each optimizer's kernel against optim.py
    frames    frames made on the device against those of the host, bit by bit
    times     whole training steps, by graphs and one by one, and their parts, beside PyTorch
    bench     python -m minilstm.bench gpu, with its table
    profile   the kernels of a recorded step by their time (by PyTorch's profiler)
    tests     python -m pytest tests/on_cupy.py
"""

import argparse
import contextlib
import gc
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "harness")]

import numpy as np  # noqa: E402

from minilstm import config  # noqa: E402
from minilstm.backend import set_backend, xp  # noqa: E402
from minilstm.gpu import products  # noqa: E402
from minilstm.gpu.capture import Captured, on_stream  # noqa: E402
from minilstm.gpu.transfers import Readings  # noqa: E402
from minilstm.runs import build  # noqa: E402
from minilstm.training.batches import BatchesAhead  # noqa: E402
from minilstm.training.packing import packing_of  # noqa: E402
from minilstm.training.step import training_step  # noqa: E402

SIZES = {  # hidden, layers, frame size, digit size, sequences
    "paper": (2048, 2, 64, 28, 128),
    "512": (512, 1, 64, 28, 100),
    "default": (128, 2, 40, 28, 40),
}
SMALL = {"paper": (16, 2, 12, 6, 4), "512": (8, 1, 12, 6, 4), "default": (8, 2, 12, 6, 4)}
RUNS = (("paper", "tf32"), ("paper", "float32"), ("512", "tf32"), ("default", "float32"))


def settings_of(size, precision):
    """Settings of a composite model of one of the sizes."""
    hidden, layers, frame, digit, sequences = size
    return config.load(
        overrides={
            "data": {"frame_size": frame, "digit_size": digit},
            "model": {"hidden": hidden, "layers": layers},
            "run": {"batch_size": sequences, "precision": precision, "backend": "cupy"},
        }
    )


# ---------------------------------------------------------------- our step


class Ours:
    """A model with everything that a training step needs, on the device."""

    def __init__(self, settings):
        self.settings = settings
        self.source = build.open_source(settings, "train")
        self.model = build.build_model(settings, int(np.prod(self.source.frame_shape)))
        self.optimizer = build.build_optimizer(self.model, settings)
        self.packing = packing_of(self.source, settings)
        self.readings = Readings(100)

    def step(self, packed):
        batch = self.packing.open(packed)
        numbers = training_step(self.model, self.optimizer, batch, self.settings, batch.rate)
        self.readings.write(numbers)

    def forward_and_backward(self, packed):
        batch = self.packing.open(packed)
        T = len(batch.future)
        logits, cache = self.model.forward(batch.past, batch.future, T, False, None)
        dlogits = []
        for z, target in zip(logits, (batch.past[::-1], batch.future), strict=True):
            _, loss_cache = self.model.loss.forward(z, target)
            dlogits.append(self.model.loss.backward(1.0, loss_cache)[0])
        self.model.backward(tuple(dlogits), cache, want_dinputs=False)


def milliseconds(work, count):
    """The time on the device of one of `count` calls, between two events."""
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    for _ in range(count):
        work()
    end.record()
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / count


def median(work, count, rounds=5):
    """The median of several such times, after a first one that does not count."""
    milliseconds(work, max(2, count // 4))
    return float(np.median([milliseconds(work, count) for _ in range(rounds)]))


def recorded_products(ours, packed):
    """The calls of products of a step, with arrays that stay."""
    calls = []

    def recording(*arguments, **keywords):
        calls.append((arguments, keywords))
        multiply(*arguments, **keywords)

    multiply = products.multiply
    with mock.patch.object(products, "multiply", recording):
        ours.forward_and_backward(packed)
    return calls


def our_times(settings, count, say):
    """Milliseconds by part."""
    found = {}
    ours = Ours(settings)

    def part(name, work, count=count):
        try:
            found[name] = median(work, count)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        say(f"  ours, {name}: {found[name]}")

    with on_stream():
        batches = BatchesAhead(ours.packing, 0, 10**6)
        run = Captured(ours.step)
        try:
            for _ in range(6):
                run(batches.receive())
        except Exception as error:
            say("".join(traceback.format_exception(error)))
            found["capture"], run = f"{type(error).__name__}: {error}", ours.step
        part("whole step, with its batches", lambda: run(batches.receive()), 4 * count)
        begun = time.perf_counter()
        for _ in range(4 * count):
            run(batches.receive())
        asked = time.perf_counter()
        xp.cuda.get_current_stream().synchronize()
        found["host time per step"] = 1e3 * (asked - begun) / (4 * count)
        found["wall time per step"] = 1e3 * (time.perf_counter() - begun) / (4 * count)
        packed = batches.receive()
        part("whole step, replayed on one batch", lambda: run(packed))
        part("whole step, one by one", lambda: ours.step(packed), max(3, count // 4))
        both = Captured(ours.forward_and_backward)
        both(packed), both(packed)
        part("forward and backward, replayed", lambda: both(packed))
        grad = ours.model.flat().grad
        part("gradient to zero", lambda: grad.fill(0))
        part("gradient norms", ours.optimizer.gradient_norms)
        finite, scale = xp.zeros((), bool) == 0, xp.zeros((), grad.dtype)
        part("optimizer", lambda: ours.optimizer.step(1e-9, finite, scale))
        part("frames", lambda: ours.packing.open(packed))
        calls = recorded_products(ours, packed)

        def all_products():
            for arguments, keywords in calls:
                products.multiply(*arguments, **keywords)

        alone = Captured(all_products)
        alone(), alone()
        part("its products alone, replayed", alone)
        found["products"] = len(calls)
        batches.stop()
        found["draw and pack a batch on the host"] = host_time(ours)
    return found


def host_time(ours):
    """Milliseconds that the host needs to draw a batch."""
    begun = time.perf_counter()
    for k in range(5):
        ours.packing.pack(k)
    return 1e3 * (time.perf_counter() - begun) / 5


# ---------------------------------------------------------------- PyTorch


def torch_times(size, precision, count, say):
    """PyTorch's composite: nn.LSTM by cuDNN, clipping, fused Adam; as used, and as a graph."""
    import torch

    hidden, layers, frame, _, B = size
    D, T, device = frame * frame, 10, "cuda"
    tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.manual_seed(0)
    nn = torch.nn
    encoder = nn.LSTM(D, hidden, layers)
    decoders = nn.ModuleList(nn.LSTM(1, hidden, layers) for _ in range(2))
    readouts = nn.ModuleList(nn.Linear(hidden, D) for _ in range(2))
    model = nn.ModuleList([encoder, decoders, readouts]).to(device)
    past, future = (torch.rand(T, B, D, device=device) for _ in range(2))
    nothing = torch.zeros(T, B, 1, device=device)

    def stepper(optimizer):
        def step():
            optimizer.zero_grad(set_to_none=True)
            _, code = encoder(past)
            loss = 0
            for decoder, readout, target in zip(
                decoders, readouts, (past.flip(0), future), strict=True
            ):
                z = readout(decoder(nothing, code)[0])
                loss = loss + nn.functional.binary_cross_entropy_with_logits(
                    z, target, reduction="sum"
                ) / (T * B)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

        return step

    def timed(work, count):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    def median_of(work):
        timed(work, 3)
        return float(np.median([timed(work, count) for _ in range(5)]))

    found = {}
    step = stepper(torch.optim.Adam(model.parameters(), lr=1e-6, fused=True))
    for _ in range(3):
        step()
    found["as used"] = median_of(step)
    say(f"  PyTorch, as used: {found['as used']}")
    try:
        step = stepper(torch.optim.Adam(model.parameters(), lr=1e-6, fused=True, capturable=True))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        found["captured"] = median_of(graph.replay)
    except Exception as error:
        found["captured"] = f"{type(error).__name__}: {error}"
    say(f"  PyTorch, captured: {found['captured']}")
    return found


# ---------------------------------------------------------------- sections


def on_cupy():
    """The module of tests, whose plain functions are called here; without pytest, too."""
    with contextlib.suppress(ImportError):
        import pytest  # noqa: F401
    sys.modules.setdefault("pytest", mock.MagicMock())
    import on_cupy

    return on_cupy


def doctor(options, say):
    done = subprocess.run(
        [sys.executable, "-m", "minilstm.doctor", "--backend", "cupy"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    say(done.stdout + done.stderr)
    return {"status": done.returncode, "lines": done.stdout.splitlines()}


def bits(options, say):
    tests, found = on_cupy(), {}
    cases = [*tests.CASES, *tests.SOURCES[1:]]
    cases = [(str(case), tests.settings_of(case)) for case in cases]
    pairs = tests.every_pair(tests.PAIRED)
    cases += [(" ".join(kinds), tests.settings_of_kinds(*kinds)) for kinds in pairs]
    for name, settings in cases[: 3 if options.size == "small" else None]:
        try:
            tests.same_with_and_without_a_graph(settings, steps=7)
            found[name] = "same"
        except Exception as error:
            traceback.print_exc()
            found[name] = f"{type(error).__name__}: {error}"[:300]
        say(f"  {found[name][:60]:20} {name}")
    return found


def streams(options, say):
    from minilstm.layers import linear, rnn
    from minilstm.models import composite

    found = {}
    for name, precision in (RUNS[0], RUNS[2], RUNS[3]):
        set_backend("cupy", precision)
        ours = Ours(settings_of((SMALL if options.size == "small" else SIZES)[name], precision))
        grad = ours.model.flat().grad
        with on_stream():
            batches = BatchesAhead(ours.packing, 0, 2)
            packed = batches.receive()

            def gradient(run, grad=grad, packed=packed):
                grad.fill(0)
                run(packed)
                return grad

            with contextlib.ExitStack() as stack:
                for module, function, in_one_stream in (
                    (linear, "aside", lambda f, *arguments: f(*arguments)),
                    (rnn, "aside", lambda f, *arguments: f(*arguments)),
                    (composite, "side_by_side", lambda fs: {k: f() for k, f in fs.items()}),
                ):
                    stack.enter_context(mock.patch.object(module, function, in_one_stream))
                expected = gradient(ours.forward_and_backward).copy()
            captured = Captured(ours.forward_and_backward)
            for how, run in (("one by one", ours.forward_and_backward), ("graph", captured)):
                wrong = [int((gradient(run) != expected).sum()) for _ in range(20)]
                found[f"{name} {precision}, {how}"] = wrong
                say(f"  {sum(wrong)} numbers differ in 20 steps: {name} {precision}, {how}")
            batches.stop()
        del ours, grad, expected, captured, packed
        free()
    return found


def kernels(options, say):
    tests, found = on_cupy(), {}
    for rule in (tests.SGD, tests.RMSProp, tests.Adam):
        for dtype, tolerance in (("float32", 3e-6), ("float64", 1e-14)):
            name = f"{rule.__name__} {dtype}"
            try:
                tests.compare_optimizers(rule, 1e-2, 2e-3, dtype, tolerance)
                found[name] = "ok"
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"[:300]
            say(f"  {found[name][:60]:20} {name}")
    return found


def frames(options, say):
    from minilstm.backend import to_numpy, use_backend
    from minilstm.training.batches import draw_batch

    tests, found = on_cupy(), {}
    for case in tests.SOURCES:
        for size in ((8, 5), (64, 28)):
            settings = tests.settings_of(case)
            data = {"frame_size": size[0], "digit_size": size[1]}
            overrides = {"data": case.get("data", {}) | data | {"past": 3, "future": 4}}
            settings = config.load(overrides=overrides | {"run": {"batch_size": 16}})
            with use_backend("cupy", "float32"):
                source = build.open_source(settings, "train")
                packing = packing_of(source, settings)
                batches, wrong = BatchesAhead(packing, 0, 2), 0
                for k in range(2):
                    there, here = batches.next(), draw_batch(source, settings, k)
                    for name in ("past", "future"):
                        wrong += int((to_numpy(getattr(there, name)) != getattr(here, name)).sum())
                batches.stop()
            found[f"{case} {size}"] = wrong
            say(f"  {wrong} pixels differ: {case} {size}")
    return found


def times(options, say):
    found = {}
    for name, precision in RUNS:
        size = (SMALL if options.size == "small" else SIZES)[name]
        count = 2 if options.size == "small" else {"paper": 10, "512": 40, "default": 100}[name]
        key = f"{name} {precision}"
        say(f"{key}: hidden, layers, frame, digit, sequences = {size}")
        found[key] = {}
        try:
            set_backend("cupy", precision)
            found[key]["ours"] = our_times(settings_of(size, precision), count, say)
        except Exception as error:
            traceback.print_exc()
            found[key]["ours"] = f"{type(error).__name__}: {error}"
        free()
        try:
            found[key]["PyTorch"] = torch_times(size, precision, count, say)
        except Exception as error:
            found[key]["PyTorch"] = f"{type(error).__name__}: {error}"
            say(f"  PyTorch: {found[key]['PyTorch']}")
        free()
        with contextlib.suppress(Exception):
            whole = found[key]["ours"]["whole step, with its batches"]
            for rival, ms in found[key]["PyTorch"].items():
                found[key][f"PyTorch {rival} / ours"] = ms / whole
            alone = found[key]["ours"]["its products alone, replayed"]
            found[key]["own products / ours"] = alone / whole
            say("  " + ", ".join(f"{k}: {v:.2f}" for k, v in found[key].items() if " / " in k))
    return found


def bench(options, say):
    words = [
        sys.executable,
        "-m",
        "minilstm.bench",
        "gpu",
        "--json",
        str(options.out / "bench.json"),
    ]
    words += ["--quick"] * (options.size == "small")
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    say(done.stdout + done.stderr[-3000:])
    return {"status": done.returncode}


def free():
    """Give memory back that nobody uses, so that the other library may have it."""
    gc.collect()
    xp.get_default_memory_pool().free_all_blocks()
    with contextlib.suppress(Exception):
        import torch

        torch.cuda.empty_cache()


def profile(options, say):
    import torch

    found = {}
    for name, precision in RUNS[:1] + RUNS[3:]:
        set_backend("cupy", precision)
        ours = Ours(settings_of((SMALL if options.size == "small" else SIZES)[name], precision))
        with on_stream():
            batches = BatchesAhead(ours.packing, 0, 100)
            run = Captured(ours.step)
            for _ in range(8):
                packed = batches.receive()
                run(packed)
            xp.cuda.get_current_stream().synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
                for _ in range(3):
                    run(packed)
                xp.cuda.get_current_stream().synchronize()
            batches.stop()
        by_name = {}
        for event in seen.events():
            count, us = by_name.get(event.name, (0, 0.0))
            by_name[event.name] = count + 1, us + event.time_range.elapsed_us()
        rows = sorted(by_name.items(), key=lambda row: -row[1][1])
        rows = [(kernel[:110], count / 3, us / 3) for kernel, (count, us) in rows]
        found[f"{name} {precision}"] = rows
        say(f"{name} {precision}: kernel, times per step, us per step")
        for kernel, count, us in rows[:40]:
            say(f"  {us:9.1f} us {count:6.1f}  {kernel}")
        us, launches = (sum(row[k] for row in rows) for k in (2, 1))
        say(f"  {us:9.1f} us in all, {launches:.0f} launches")
        free()
    return found


def tests(options, say):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=15"]
    done = subprocess.run(
        [*words, "-o", "addopts=", "-m", "not slow", "tests/on_cupy.py"],
        capture_output=True, text=True, cwd=ROOT, timeout=options.timeout,
    )  # fmt: skip
    say(done.stdout[-6000:] + done.stderr[-2000:])
    return {"status": done.returncode, "end": done.stdout[-6000:]}


SECTIONS = {
    f.__name__: f for f in (doctor, bits, streams, kernels, frames, times, bench, profile, tests)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("section", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for the section tests")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results, log = {}, open(options.out / "log.txt", "w", encoding="utf-8")

    def say(text):
        print(text, flush=True)
        print(text, file=log, flush=True)

    for name in options.section or SECTIONS:
        begun = time.perf_counter()
        say(f"=== {name}")
        try:
            results[name] = SECTIONS[name](options, say)
        except BaseException as error:
            text = "".join(traceback.format_exception(error))
            say(text)
            results[name] = {"error": text[-2000:]}
            if isinstance(error, KeyboardInterrupt):
                raise
        seconds = time.perf_counter() - begun
        say(f"=== {name}: {seconds:.1f} s")
        results[f"{name}, seconds"] = seconds
        text = json.dumps(results, indent=1, default=str)
        (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    log.close()


if __name__ == "__main__":
    main()
