"""The CuPy path on a device: every gradient, training steps, commands and checkpoints.

    python -m pytest tests/on_cupy.py            on a machine with a GPU
    python -m pytest tests/on_cupy.py -m slow    every gradient element by element, too

Its name hides it from a plain `pytest`: tests/test_cupy.py runs it where there is a device.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import strict_cupy
from covering import covering
from pytorch_step import expect_the_step_of_pytorch
from safetensors.numpy import load_file
from test_mobilenet import random_arrays

import minilstm
from minilstm import checker, config, evaluate, train
from minilstm.backend import asarray, current_backend, to_numpy, use_backend, xp
from minilstm.benchmark import device
from minilstm.command import run_command
from minilstm.data import Scale, as_vectors
from minilstm.data.mobilenet import network_of
from minilstm.errors import BackendError, DataError, RunError
from minilstm.evaluation import judging
from minilstm.gpu import cross_entropy, frames, kernels, products, wavefront
from minilstm.gpu.capture import Captured, on_stream
from minilstm.gpu.side_by_side import STREAMS, aside, joined, side_by_side
from minilstm.gpu.transfers import Readings
from minilstm.gpu.writer import Writer
from minilstm.layers import stack
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.layer import Flat
from minilstm.layers.linear import add_product
from minilstm.layers.losses import SquaredError
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.memory_order import matmul
from minilstm.layers.rnn import ElmanRNN, SlidesRNN
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.models import Decoder
from minilstm.optim import SGD, Adam, RMSProp
from minilstm.runs import build, checkpoint
from minilstm.training import classifier, pace, resources
from minilstm.training.batches import BatchesAhead, draw_batch
from minilstm.training.packing import MovingPacking, NumbersPacking, packing_of
from minilstm.training.progress import Progress
from minilstm.training.step import Batch, training_step

SMALL = "--frame-size 8 --digit-size 5 --past 3 --future 4 --hidden 6 --batch-size 4 --log-every 2"
TOLERANCE = {"float32": 1e-4, "float64": 1e-12}


@pytest.fixture(autouse=True)
def small_blocks(request, monkeypatch):
    """Under emulation a block has 32 threads, and there are few: they wait for each other slowly.

    A test with the fixture `whole_blocks` has the sizes of a real run, as every test on a GPU has.
    """
    if "fakegpu" in sys.modules and "whole_blocks" not in request.fixturenames:
        monkeypatch.setattr(kernels, "THREADS", 32)
        monkeypatch.setattr(cross_entropy, "BLOCKS", 2)


@pytest.fixture
def whole_blocks():
    """Blocks of threads as in a real run."""


@pytest.fixture
def sample(request):
    """A function that makes a layer with inputs in the library in use."""
    cls, variant = request.param
    return lambda: cls.samples(np.random.default_rng(0))[variant]


def named(sample):
    """The inputs of a sample by the names that `forward` gives them."""
    code = type(sample.layer).forward.__code__
    return dict(zip(code.co_varnames[1 : code.co_argcount], sample.inputs, strict=False))


def close(there, here, tolerance):
    """Return True if two arrays are equal to a share of the largest element."""
    there, here = to_numpy(there), to_numpy(here)
    assert there.shape == here.shape and there.dtype == here.dtype
    largest = max(np.abs(here).max(initial=0), np.finfo(here.dtype).tiny)
    return np.abs(there - here).max(initial=0) <= tolerance * largest


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    "dtype, fused",
    [
        ("float32", True),
        ("float64", False),
        pytest.param("float64", True, marks=pytest.mark.slow),
        pytest.param("float32", False, marks=pytest.mark.slow),
    ],
)
def test_every_gradient_is_that_of_numpy(sample, dtype, fused, whole_blocks):
    """NumPy's are proven by tests/test_gradients.py."""
    with use_backend("numpy", "float64"):
        made = sample()
        here, _ = checker.analytic_gradients(made.layer, named(made), "float64")
    with use_backend("cupy", dtype, fused):
        made = sample()
        there, _ = checker.analytic_gradients(made.layer, named(made), dtype)
    assert there.keys() == here.keys()
    for name, expected in here.items():
        zeros = made.zeros.get(name, ())
        assert checker.error(there[name], expected, zeros) < TOLERANCE[dtype], name


def test_one_frame_that_is_read_out_of_the_code_needs_no_step_and_has_its_gradient():
    found = []
    for backend in ("numpy", "cupy"):
        with use_backend(backend, "float64"):
            rng = np.random.default_rng(0)
            decoder = Decoder(5, 4, 2, rng, start="read")
            code = tuple(tuple(asarray(rng.normal(size=(2, 3, 4)), "float64")) for _ in range(2))
            logits, cache = decoder.forward(code, 1)
            dcode = decoder.backward(logits, cache)[0]
            grads = (param.grad for param in decoder.params().values())
            found.append([to_numpy(x) for x in (logits, *dcode[0], *dcode[1], *grads)])
    assert all(map(lambda a, b: close(a, b, 1e-12), *found[::-1]))


def differences(made):
    """The worst error of each gradient on the device against differences on the device."""
    layer, inputs = made.layer, named(made)
    analytic, doutputs = checker.analytic_gradients(layer, inputs, "float64")
    for name, a in analytic.items():
        numeric = checker.numeric_gradient(layer, inputs, name, doutputs, 1e-4)
        yield name, checker.error(a, numeric, made.zeros.get(name, ()))


def test_gradients_agree_with_differences_computed_on_the_device():
    with use_backend("cupy", "float64"):
        made = PeepholeLSTM.sample(np.random.default_rng(0))
        for name, error in differences(made):
            assert error < 1e-6, name


@pytest.mark.slow
def test_every_gradient_agrees_with_differences_computed_on_the_device(sample):
    with use_backend("cupy", "float64"):
        for name, error in differences(sample()):
            assert error < 1e-6, name


# ---------------------------------------------------------------- training steps

OWN = Path(__file__).parent.parent / "tutorials" / "own_cells.py"  # cells in a user's file
FED = {"model": {"conditional": "both"}}
KINDS = [  # each value of the settings in PAIRED below, for itself
    *({"model": {"cell": name, "layers": 2}} for name in build.CELLS),
    {"model": {"kind": "autoencoder", "conditional": "reconstruction"}},
    {"model": {"kind": "predictor", "conditional": "future"}},
    *({"feeding": {"inputs": inputs}, **FED} for inputs in ("truth", "own")),
    {"feeding": {"inputs": "scheduled", "truth_start": 0.5, "truth_end": 0.5}, **FED},
    *({"optimizer": {"rule": rule, "l2": 1e-3}} for rule in ("adam", "rmsprop", "sgd")),
]
OTHERS = [
    *({"model": {"cell": f"{OWN}:{name}", "layers": 2}} for name in ("GRU", "CoupledLSTM")),
    {"model": {"conditional": "both", "start": "read"}},
    {"model": {"layers": 2, "dropout": 0.3, "conditional": "future"}},
    {"run": {"memory": "recompute=2"}, **FED},
    {"run": {"tbptt": 2}, **FED},
    {"run": {"fused": False}, **FED},
    {"optimizer": {"clip_norm": 0.01}},
    {"optimizer": {"clip_norm": 0.0, "clamp_update": 1e-3}},
    {"loss": {"gradient_scale": "sum"}, "init": {"weights": "weak-recurrence"}},
]
CASES = [*KINDS, *OTHERS]


def settings_of(case, precision="float32"):
    small = {
        "data": {"frame_size": 8, "digit_size": 5, "past": 3, "future": 4},
        "model": {"hidden": 6, "layers": 1},
        "run": {"batch_size": 4, "precision": precision},
    }
    for section, values in case.items():
        small[section] = small.get(section, {}) | values
    return config.load(overrides=small)


def trained(backend, settings, steps=3):
    """The model, its optimizer and the numbers of each step, from weights drawn on the host."""
    with use_backend(backend, settings.run.precision, settings.run.fused):
        source = build.open_source(settings, "train")
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        batches = BatchesAhead(packing_of(source, settings), 0, steps)
        numbers = []
        for _ in range(steps):
            now = training_step(model, optimizer, batches.next(), settings, 3e-3)
            numbers.append({name: float(value) for name, value in now.items()})
        batches.stop()
        assert optimizer.steps == steps
        return model, optimizer, numbers


@pytest.mark.parametrize("case", CASES, ids=str)
def test_three_training_steps_are_those_of_numpy(case):
    settings = settings_of(case)
    here, optimizer_here, numbers_here = trained("numpy", settings)
    there, optimizer_there, numbers_there = trained("cupy", settings)
    for name, param in here.params().items():
        assert close(there.params()[name].value, param.value, 1e-4), name
    for name, state in optimizer_here.state.items():
        assert close(optimizer_there.state[name], state, 1e-3), name
    for now, expected in zip(numbers_there, numbers_here, strict=True):
        assert now == pytest.approx(expected, rel=1e-4)


def test_in_float64_they_are_equal_to_twelve_digits(whole_blocks):
    settings = settings_of({"model": {"conditional": "both", "layers": 2}}, "float64")
    (here, _, _), (there, _, _) = (trained(name, settings) for name in ("numpy", "cupy"))
    assert close(there.flat().value, here.flat().value, 1e-12)


def test_a_step_that_is_not_finite_changes_nothing_on_the_device():
    settings = settings_of({})
    with use_backend("cupy", "float32"):
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        before = to_numpy(model.flat().value)
        batch = draw_batch(build.open_source(settings, "train"), settings, 0)
        past, future = asarray(batch.past), asarray(batch.future)
        past[0, 0, 0] = float("nan")
        now = training_step(model, optimizer, Batch(past, future, False, None), settings, 1e-3)
        assert np.isnan(float(now["gradient_norm"])) and int(optimizer.steps) == 0
        assert to_numpy(model.flat().value).tobytes() == before.tobytes()


def test_a_step_makes_no_traffic_and_takes_no_memory_from_the_driver():
    """Apart from the batch, masks and choices with it: one copy. Only the emulation counts."""
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    model = {"conditional": "both", "layers": 2, "dropout": 0.3}
    feeding = {"inputs": "scheduled", "truth_start": 0.5, "truth_end": 0.5}
    settings = settings_of({"model": model, "feeding": feeding})
    with use_backend("cupy", "float32"):
        source = build.open_source(settings, "train")
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        packing = packing_of(source, settings)
        fakegpu.reset()
        batches = BatchesAhead(packing, 0, 6)
        mallocs = []
        with xp.cuda.using_allocator(xp.cuda.MemoryPool().malloc):  # CuPy's default, but empty
            for _ in range(6):
                training_step(model, optimizer, batches.next(), settings, 1e-3)
                mallocs.append(fakegpu.counts().get("malloc", 0))
        found = fakegpu.counts()
        batches.stop()
    assert found["h2d"] == 6
    assert not {"d2h", "stream_sync", "dev_sync", "event_sync"} & found.keys()
    assert mallocs[0] > 0 and mallocs[2:] == mallocs[2:3] * 4


# ---------------------------------------------------------------- frames made on the device

SOURCES = [
    {},
    {"data": {"speed": "random", "num_digits": 3}},
    {"data": {"source": "actions"}},
    {"data": {"source": "action-changes"}},
]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("case", SOURCES, ids=str)
def test_frames_made_on_the_device_are_those_of_the_host_to_the_bit(case, precision):
    settings = settings_of(case, precision)
    with use_backend("cupy", precision):
        source = build.open_source(settings, "train")
        packing = packing_of(source, settings)
        batches = BatchesAhead(packing, 0, 3)
        for k in range(3):
            there, here = batches.next(), draw_batch(source, settings, k)
            for name in ("past", "future"):
                found, expected = to_numpy(getattr(there, name)), getattr(here, name)
                assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
        batches.stop()
    assert type(packing) is not NumbersPacking


@pytest.mark.parametrize("colours", [0, 3])
def test_bytes_are_normalised_on_the_device_as_on_the_host(colours):
    rng = np.random.default_rng(0)
    bytes_ = rng.integers(0, 256, (3, 4, 5, 6, *([colours] if colours else [])), np.uint8)
    mean, std = (rng.random(max(colours, 1), np.float32) for _ in range(2))
    expected = as_vectors(bytes_, Scale(mean, std))
    with use_backend("cupy", "float32"):
        arrays = asarray(bytes_, np.uint8), asarray(mean), asarray(std)
        assert to_numpy(frames.from_bytes(*arrays, "float32")).tobytes() == expected.tobytes()


# ---------------------------------------------------------------- the optimizers


@pytest.mark.parametrize("dtype, tolerance", [("float32", 3e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("l2, clamp_update", [(0.0, 0.0), (1e-2, 2e-3)])
@pytest.mark.parametrize("rule", [SGD, RMSProp, Adam])
def test_an_optimizers_kernel_updates_as_optim_py(
    rule, l2, clamp_update, dtype, tolerance, whole_blocks
):
    compare_optimizers(rule, l2, clamp_update, dtype, tolerance)


def compare_optimizers(rule, l2, clamp_update, dtype, tolerance):
    """Six scaled steps, one of them not finite: weights, state, counts; norms to 10 roundings."""
    rng = np.random.default_rng(0)
    size, cuts = 40_001, (0, 3, 3, 20_000, 40_001)
    parts = tuple(zip(cuts[:-1], cuts[1:], strict=True))
    start = rng.standard_normal(size)
    gradients = rng.standard_normal((6, size)) * rng.uniform(0, 2, (6, 1))
    gradients[3, 7] = np.inf
    found, scales = {}, rng.uniform(0.1, 1, 6)
    for backend in ("numpy", "cupy"):
        with use_backend(backend, dtype), np.errstate(all="ignore"):
            flat = Flat(asarray(start.copy()), xp.zeros(size, dtype), 20_000, parts)
            optimizer = rule(flat, l2=l2, clamp_update=clamp_update)
            norms = []
            for k, gradient in enumerate(gradients):
                flat.grad[...] = asarray(gradient)
                norm, each = optimizer.gradient_norms()
                optimizer.step(1e-2 / (k + 1), xp.isfinite(norm), asarray(scales)[k])
                norms.append(to_numpy(each))
            counts = int(optimizer.steps), int(optimizer.unusable)
            arrays = [flat.value, *optimizer.state.values()]
            found[backend] = [to_numpy(x).copy() for x in arrays], np.array(norms), counts
    (here, norms_here, counts), (there, norms_there, counts_there) = found.values()
    assert counts == counts_there == (5, 0)
    for a, b in zip(there, here, strict=True):
        assert close(a, b, tolerance)
    np.testing.assert_allclose(norms_there, norms_here, rtol=10 * tolerance)


# ---------------------------------------------------------------- the captured step


def same_with_and_without_a_graph(settings, steps=4):
    """Train by graphs and step by step, and compare every bit. Returns the launched graphs."""
    ends, launched = [], 0
    for graph in (True, False):
        with use_backend("cupy", settings.run.precision, settings.run.fused):
            source = build.open_source(settings, "train")
            model = build.build_model(settings, 64)
            optimizer = build.build_optimizer(model, settings)
            packing, readings = packing_of(source, settings), Readings(100)

            def step(packed, model=model, optimizer=optimizer, packing=packing, readings=readings):
                batch = packing.open(packed)
                readings.write(training_step(model, optimizer, batch, settings, batch.rate))

            with on_stream():
                run = Captured(step) if graph else step
                batches = BatchesAhead(packing, 0, steps)
                for k in range(steps):
                    run(batches.receive())
                    readings.add(k)
                batches.stop()
                rows = [list(numbers.values()) for _, numbers in readings.take(wait=True)]
                arrays = [model.flat().value, *optimizer.state.values()]
                ends.append([to_numpy(x).tobytes() for x in arrays] + [np.array(rows).tobytes()])
            launched += graph and run.launched
    assert len(rows) == steps and np.isfinite(rows).all()
    assert ends[0] == ends[1]
    return launched


@pytest.mark.parametrize("case", [*OTHERS, *SOURCES[1:]], ids=str)
def test_a_captured_step_is_the_step_to_the_bit(case):
    assert same_with_and_without_a_graph(settings_of(case)) == 2


def test_a_row_of_the_log_may_have_more_numbers_than_one_kernel_writes():
    with use_backend("cupy", "float32"):
        values = xp.arange(450, dtype="float32").reshape(3, 150)
        readings = Readings(2)
        for step, row in enumerate(values):
            readings.write({str(k): x for k, x in enumerate(row)})
            readings.add(step)
        rows = readings.take(wait=True)
    assert [step for step, _ in rows] == [0, 1, 2]
    assert np.array_equal([list(numbers.values()) for _, numbers in rows], to_numpy(values))
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    with use_backend("cupy", "float32"):
        fakegpu.reset()
        readings.write({str(k): x for k, x in enumerate(values[0])})
        assert fakegpu.counts() == {"launch": 3}


def test_functions_side_by_side_have_a_stream_each_and_are_waited_for():
    def stream():
        return xp.cuda.get_current_stream().ptr

    def broken():
        raise ZeroDivisionError

    def add_one():
        xp.add(x, 1, out=x)
        return stream()

    with use_backend("cupy", "float32"):
        x = xp.zeros(1000)
        for _ in range(20):
            found = side_by_side({"one": stream, "two": add_one})
            xp.multiply(x, 2, out=x)
        assert list(found) == ["one", "two"] and found["one"] == stream() != found["two"]
        assert (to_numpy(x) == 2**21 - 2).all()
        with pytest.raises(ZeroDivisionError):
            side_by_side({"one": stream, "two": broken})
        assert found["one"] == stream()
    with use_backend("numpy"):
        assert side_by_side({"one": lambda: 1, "two": lambda: 2}) == {"one": 1, "two": 2}


def test_what_is_put_aside_is_done_when_the_block_ends_and_at_once_outside_of_one():
    streams = []

    def double(x):
        streams.append(xp.cuda.get_current_stream().ptr)
        xp.multiply(x, 2, out=x)

    with use_backend("cupy", "float32"):
        here, x = xp.cuda.get_current_stream().ptr, xp.ones(1_000_000)
        for _ in range(20):
            with joined():
                xp.add(x, 1, out=x)
                aside(double, x)
            xp.subtract(x, 1, out=x)
        aside(double, x)
    assert streams[-1] == here not in streams[:-1] and len(set(streams)) == 2
    assert (to_numpy(x) == 2**22 - 2).all()


class AddedProjection(ElmanRNN):
    """A cell whose projection adds to what `begin` wrote."""

    def begin(self, x, state):
        run = super().begin(x, state)
        run.a.fill(1)
        return run

    def project(self, run, steps):
        for t in range(steps.start, steps.stop):
            add_product(run.x[t], self.Wx.value, out=run.a[t])


CELLS = (AddedProjection, SlidesRNN, PeepholeLSTM, SlidesLSTM)


def results_of_a_stack(cell, layers, B=3, dropout=0.0):
    """Run a stack forward and back four times -> all results, number of streams of its loops."""
    rng, streams = np.random.default_rng(0), set()

    class Seen(cell, abstract=True):
        def step(self, run, t):
            streams.add(stream_in_use())
            super().step(run, t)

        def step_backward(self, run, t, dy):
            streams.add(stream_in_use())
            super().step_backward(run, t, dy)

    layer = Stack(4, 7, layers, rng, Seen, dropout=dropout)
    for param in layer.params().values():
        param.value[...] = asarray(rng.normal(size=param.value.shape), param.value.dtype)
    masks = tuple(asarray(rng.random((6, B, 7)) > 0.5, bool) for _ in range(layers - 1))
    results = []
    for k in range(4):
        x, dy = (asarray(rng.normal(size=(6, B, D)), layer.dtype) for D in (4, 7))
        with joined() if k % 2 else contextlib.nullcontext():
            (y, final), cache = layer.forward(x, None, masks if dropout else None)
            results += [to_numpy(y), *(to_numpy(h) for state in final for h in state)]
            del y, final  # they would keep arrays that the layers may free
            results.append(to_numpy(layer.backward((dy, None), cache)[0]))
    return [*results, *(to_numpy(p.grad) for p in layer.params().values())], len(streams)


def test_a_stack_in_which_a_cell_has_a_loop_of_its_own_is_computed_in_one_stream():
    class Scaled(PeepholeLSTM, abstract=True):
        def forward(self, x, state=None):
            return super().forward(2 * x, state)

        def backward(self, doutputs, cache, want_dx=True):
            dx, dstate = super().backward(doutputs, cache, want_dx)
            return 2 * dx, dstate

    with use_backend("numpy", "float64"):
        expected, _ = results_of_a_stack(Scaled, 3)
    with use_backend("cupy", "float64"):
        found, streams = results_of_a_stack(Scaled, 3)
    assert streams == 1 and all(map(lambda a, b: close(a, b, 1e-12), found, expected))


def test_a_layer_inside_the_step_of_a_cell_takes_no_part_in_its_wavefront():
    class Nested(ElmanRNN, abstract=True):
        def __init__(self, D, H, rng, init=PAPER_INIT):
            super().__init__(D, H, rng, init)
            self.inner = ElmanRNN(H, H, rng, init)

        def step(self, run, t):
            super().step(run, t)
            (y, _), _ = self.inner.forward(run.h[t + 1][None])
            run.h[t + 1][...] = y[0]

    found = []
    for backend in ("numpy", "cupy"):
        with use_backend(backend, "float64"):
            rng = np.random.default_rng(0)
            layer = Stack(4, 7, 3, rng, Nested)
            (y, _), _ = layer.forward(asarray(rng.normal(size=(6, 3, 4)), "float64"))
            found.append(to_numpy(y))
    assert close(found[1], found[0], 1e-12)


def stream_in_use():
    return current_backend().name == "cupy" and xp.cuda.get_current_stream().ptr


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_two_layers_at_the_same_time_use_two_streams_and_equal_numpy(cell, layers):
    with use_backend("numpy", "float64"):
        expected, streams = results_of_a_stack(cell, layers)
        assert streams == 1
    with use_backend("cupy", "float64"):
        found, streams = results_of_a_stack(cell, layers)
        assert streams == 2
    assert all(map(lambda a, b: close(a, b, 1e-12), found, expected))


def test_layers_that_fill_a_gpu_or_have_dropout_between_them_come_one_after_another():
    with use_backend("numpy", "float32"):
        assert not wavefront.has_room(1, 4)
    with use_backend("cupy", "float64"):
        fits = wavefront.TILE * (wavefront._multiprocessors(0) // wavefront.AT_ONCE)
        assert wavefront.has_room(wavefront.TILE, fits)
        assert not wavefront.has_room(wavefront.TILE + 1, fits)
        assert not wavefront.has_room(wavefront.TILE, fits + 1)
        assert results_of_a_stack(PeepholeLSTM, 2, dropout=0.5)[1] == 1
        with mock.patch.object(stack, "has_room", lambda B, width: False):
            assert results_of_a_stack(PeepholeLSTM, 2)[1] == 1


PAIRED = {
    "model": ("composite", "autoencoder", "predictor"),
    "cell": tuple(build.CELLS),
    "inputs": ("truth", "own", "scheduled"),
    "rule": ("adam", "rmsprop", "sgd"),
}
CONDITIONAL = {"composite": "both", "autoencoder": "reconstruction", "predictor": "future"}


def settings_of_kinds(model, cell, inputs, rule):
    kind = {"kind": model, "cell": cell, "conditional": CONDITIONAL[model], "layers": 2}
    return settings_of({
        "model": kind | {"dropout": 0.3},
        "feeding": {"inputs": inputs, "truth_start": 0.6, "truth_end": 0.4},
        "optimizer": {"rule": rule, "l2": 1e-3},
    })  # fmt: skip


@pytest.mark.parametrize("kinds", covering(itertools.product(*PAIRED.values()), 2), ids=str)
def test_every_pair_of_model_cell_feeding_and_rule_is_captured_to_the_bit(kinds):
    assert same_with_and_without_a_graph(settings_of_kinds(*kinds)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [*itertools.product(*PAIRED.values())], ids=str)
def test_every_model_cell_feeding_and_rule_is_captured_to_the_bit(kinds):
    assert same_with_and_without_a_graph(settings_of_kinds(*kinds)) == 2


def test_a_captured_step_is_one_launch_and_one_copy_and_takes_no_memory():
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    settings = settings_of_kinds("composite", "peephole", "scheduled", "adam")
    with use_backend("cupy", "float32"), on_stream():
        source = build.open_source(settings, "train")
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        packing, readings = packing_of(source, settings), Readings(1000)

        def step(packed):
            batch = packing.open(packed)
            readings.write(training_step(model, optimizer, batch, settings, batch.rate))

        run, batches, counts = Captured(step), BatchesAhead(packing, 0, 8), []
        for _ in range(8):
            packed = batches.receive()
            time.sleep(0.05)  # the thread has sent the batch after this one
            fakegpu.reset()
            run(packed)
            counts.append(fakegpu.counts())
        batches.stop()
    assert "malloc" in counts[0] and not any("malloc" in found for found in counts[2:])
    assert counts[4:] == [{"graph_launch": 1}] * 4


def test_graphs_are_recorded_again_after_the_pool_gave_up_the_memory_that_they_use():
    """The pool does so by itself if the GPU has no more memory."""
    lost = []

    def function(x, out):
        xp.multiply(x + 1, 2, out=out)
        if lost:
            captured._pool.free_all_blocks()

    with use_backend("cupy", "float32"), on_stream():
        captured, out = Captured(function), xp.zeros(4, "float32")
        one, other = xp.ones(4, "float32"), xp.zeros(4, "float32")
        for _ in range(3):
            captured(one, out)
        assert captured.launched == 2 and out.tolist() == [4] * 4
        lost.append(True)
        captured(other, out)  # another kind, without room
        lost.clear()
        captured(one, out)
        assert captured.launched == 2 and out.tolist() == [4] * 4  # made step by step
        captured(one, out)
        assert captured.launched == 3


# ---------------------------------------------------------------- commands and checkpoints


@pytest.fixture
def undrawn(tmp_path, monkeypatch):
    """A folder of its own, and no pictures: they take longer than a tiny run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Progress, "draw", lambda run: None)


def call(module, words):
    with use_backend("numpy", "float32"):  # what a command chooses ends with it
        return run_command(lambda: module.main(words.split()))


def numbers_of(run):
    """The log of a run, without its times."""
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in row.items() if name != "seconds"} for row in rows]


def test_a_checkpoint_after_an_error_has_the_weights_of_its_step(undrawn, monkeypatch):
    """The host may see the error while the GPU still computes the steps before."""
    words = f"{SMALL} --quiet --validate-every 0 --checkpoint-every 0 --schedule-steps 9 "
    words += "--backend cupy"
    assert call(train, f"{words} --steps 5 --out whole") == 0
    pack = MovingPacking.pack

    def broken(self, k):
        if k == 5:
            raise DataError("expected a batch, got none: a test")
        return pack(self, k)

    monkeypatch.setattr(MovingPacking, "pack", broken)
    assert call(train, f"{words} --steps 9 --out run") == 2
    found, expected = (
        checkpoint.read(Path(run, "checkpoint.safetensors")) for run in ("run", "whole")
    )
    assert found[1]["step"] == expected[1]["step"] == 5
    assert all(found[0][name].tobytes() == x.tobytes() for name, x in expected[0].items())


def test_a_run_is_resumed_to_the_bit_and_judged_as_by_numpy(undrawn, capsys):
    """With validation, mean image, dropout, scheduled feeding and checkpoints on the way."""
    words = f"{SMALL} --quiet --layers 2 --dropout 0.3 --conditional both --feeding scheduled "
    words += "--validate-every 2 --checkpoint-every 2 --keep 2 --steps"
    assert call(train, f"{words} 4 --backend cupy --out whole") == 0
    assert call(train, f"{words} 2 --backend cupy --out parts") == 0
    assert call(train, "--resume parts --extend-to 4 --quiet") == 0
    assert call(train, f"{words} 4 --backend numpy --out host") == 0
    _, about = checkpoint.read("parts/checkpoint.safetensors")
    assert {"cupy", "driver", "device", "cublas"} <= about["environment"].keys()
    whole, parts = (load_file(f"{run}/checkpoint.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)
    assert numbers_of("whole") == numbers_of("parts")
    for row, expected in zip(numbers_of("whole"), numbers_of("host"), strict=True):
        assert row == pytest.approx(expected, rel=1e-3)

    judged = {}
    for backend in ("numpy", "cupy"):
        capsys.readouterr()
        assert call(evaluate, f"whole --sequences 20 --json --backend {backend}") == 0
        judged[backend] = json.loads(capsys.readouterr().out)
    for name in ("future", "reconstruction"):
        for mode in ("free_running", "teacher_forced"):
            there, here = (judged[backend][name][mode] for backend in ("cupy", "numpy"))
            assert there["per_step"] == pytest.approx(here["per_step"], rel=1e-4)


def held_back(monkeypatch, until):
    """Hold back the checkpoint of step 2 in the thread until `until` is set; returns its file."""
    write, done = checkpoint.write, []

    def late(path, arrays, metadata):
        if json.loads(metadata["minilstm"])["step"] == 2 and path.name.startswith("checkpoint"):
            assert until.wait(timeout=60)
        write(path, arrays, metadata)
        done.append(path.name)

    monkeypatch.setattr(checkpoint, "write", late)
    return done


def test_training_goes_on_while_a_checkpoint_is_written(undrawn, monkeypatch):
    """The files are those of a run that waits for each of them."""
    words = f"{SMALL} --quiet --validate-every 2 --checkpoint-every 2 --keep 9 --steps 6"
    start, finish_step, go_on = Writer.start, Progress.finish_step, threading.Event()

    def start_and_wait(self, write, arrays):
        start(self, write, arrays)
        self.wait()

    def two_steps_later(run, *arguments):
        if run.step == 3:
            go_on.set()
        return finish_step(run, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Writer, "start", start_and_wait)
        assert call(train, f"{words} --backend cupy --out waited") == 0
    monkeypatch.setattr(Progress, "finish_step", two_steps_later)
    held_back(monkeypatch, go_on)
    assert call(train, f"{words} --backend cupy --out run") == 0
    names = sorted(path.name for path in Path("run").glob("*.safetensors"))
    assert len(names) == 5
    for name in names:
        found, expected = (load_file(f"{run}/{name}") for run in ("run", "waited"))
        assert found.keys() == expected.keys()
        assert all(found[key].tobytes() == expected[key].tobytes() for key in found), name


def test_a_signal_waits_for_a_checkpoint_that_is_being_written(undrawn, monkeypatch, capsys):
    def stop(run, *arguments):
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.3, go_on.set).start()
        return finish_step(run, *arguments)

    finish_step, go_on = Progress.finish_step, threading.Event()
    monkeypatch.setattr(Progress, "finish_step", stop)
    done = held_back(monkeypatch, go_on)
    words = f"{SMALL} --quiet --validate-every 0 --checkpoint-every 2 --keep 9 --steps 6"
    assert call(train, f"{words} --backend cupy --out run") == 128 + signal.SIGTERM
    assert done == ["checkpoint.safetensors"] * 3  # of steps 0, 2 and 3
    names = [path.name for path in Path("run").iterdir() if "checkpoint-" in path.name]
    assert sorted(names) == [f"checkpoint-000000000{step}.safetensors" for step in (2, 3)]


@pytest.mark.parametrize("name", ["checkpoint", "best"])
def test_a_full_disk_in_the_writing_thread_is_a_warning(undrawn, monkeypatch, capsys, name):
    """A full disk loses one checkpoint, or the best weights of one validation."""
    write, threads = checkpoint.write, []

    def full(path, arrays, metadata):
        if path.name.startswith(name) and json.loads(metadata["minilstm"])["step"] == 2:
            threads.append(threading.current_thread())
            raise RunError(f"{path}: expected a file that can be written, got no room")
        write(path, arrays, metadata)

    monkeypatch.setattr(checkpoint, "write", full)
    words = f"{SMALL} --quiet --validate-every 2 --checkpoint-every 2 --keep 9 --steps 6"
    status = call(train, f"{words} --backend cupy --out run")
    assert threads and threads[0] is not threading.main_thread()
    printed, step = (
        capsys.readouterr().err.splitlines(),
        checkpoint.read("run/checkpoint.safetensors")[1]["step"],
    )
    assert len(printed) == 1 and "no room" in printed[0]
    assert (status, step) == (0, 6) and printed[0].startswith("warning: ")


def test_the_copies_of_a_checkpoint_are_counted_as_memory():
    settings = settings_of({"optimizer": {"rule": "adam"}})
    with use_backend("cupy", "float32"):
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        flat, (copies, _) = model.flat(), checkpoint.contents(model, optimizer, {})
        expected = sum(x.nbytes for x in (flat.value, flat.grad, *optimizer.state.values()))
        expected += sum(x.nbytes for x in copies.values())
        assert resources.weights_memory(settings, 64) == expected


def test_the_workspace_of_every_stream_is_counted_as_memory(monkeypatch):
    settings = settings_of({"model": {"kind": "composite", "layers": 2}})
    streams, handle = [], products._handle

    def noting():
        streams.append(xp.cuda.get_current_stream().ptr)
        return handle()

    monkeypatch.setattr(products, "_handle", noting)
    fixed, used = [], []
    with use_backend("cupy", "float32"), on_stream():
        for has_room in (lambda B, width: False, wavefront.has_room):
            monkeypatch.setattr(stack, "has_room", has_room)
            model = build.build_model(settings, 64)
            fixed.append(resources.memory_of(model, settings).fixed)
            streams.clear()
            batch = draw_batch(build.open_source(settings, "train"), settings, 0)
            batch = Batch(asarray(batch.past), asarray(batch.future), False, None)
            training_step(model, build.build_optimizer(model, settings), batch, settings, 0.01)
            used.append(len(set(streams)))
    assert used == [STREAMS, STREAMS + wavefront.MORE_STREAMS]
    assert fixed[1] - fixed[0] == wavefront.MORE_STREAMS * (products.WORKSPACE + products.OF_HANDLE)


@pytest.mark.parametrize("loss", ["cross-entropy", "squared error"])
def test_losses_of_an_evaluation_are_computed_on_the_device(loss, monkeypatch):
    """Five chunks: one copy each way for a chunk and, of its losses alone, for a decoder."""
    data = {"data": {"source": "moving-mnist"}, "model": {"conditional": "future", "layers": 2}}
    settings = settings_of(data)
    source = build.open_source(settings, "test")
    frames = judging.sequences(source, 40)
    monkeypatch.setattr(judging, "CHUNK_SEQUENCES", 8)

    def judged(backend):
        with use_backend(backend, "float32"):
            model = build.build_model(settings, 64)
            model.loss = SquaredError() if loss == "squared error" else model.loss
            return judging.losses_and_means(model, frames, 3, with_means=False)

    expected, found = judged("numpy"), judged("cupy")
    for name, (per_step, _) in expected.items():
        assert found[name][0].dtype == np.float64 == per_step.dtype
        np.testing.assert_allclose(found[name][0], per_step, rtol=1e-6)
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    with use_backend("cupy", "float32"):
        model = build.build_model(settings, 64)
        fakegpu.reset()
        judging.losses_and_means(model, frames, 3, with_means=False)
        counts = fakegpu.counts()
    assert counts["h2d"] == 5 and counts["h2d_bytes"] == frames.nbytes
    assert counts["d2h"] == 10 and counts["d2h_bytes"] == 5 * 8 * len(frames)
    assert counts["launch"] < 5 * 250


@pytest.mark.parametrize("on_nan", ["stop", "skip", "rewind"])
def test_what_is_not_finite_ends_a_run_in_words_and_leaves_a_good_checkpoint(
    undrawn, capsys, on_nan
):
    words = f"{SMALL} --quiet --optimizer sgd --clip-norm 0 --learning-rate 1e38 --steps 40"
    words += f" --warmup-steps 0 --checkpoint-every 1 --on-nan {on_nan} --backend cupy --out run"
    assert call(train, words) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and printed[0].startswith("error: expected finite")
    arrays, _ = checkpoint.read("run/checkpoint.safetensors")
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_loaded_run_predicts_as_on_the_host(undrawn):
    assert call(train, f"{SMALL} --quiet --steps 1 --out run") == 0
    past = np.random.default_rng(0).random((3, 2, 64), np.float32)
    drawn = {}
    for backend in ("numpy", "cupy"):
        with use_backend(backend, "float32"):
            model = minilstm.load("run")
            drawn[backend] = model.rollout(past, 5), model.reconstruction(past)
    for there, here in zip(drawn["cupy"], drawn["numpy"], strict=True):
        assert isinstance(there, np.ndarray) and close(there, here, 1e-5)


def classified(backend, encoder):
    """Return a classifier's probabilities of the test clips, and its validation losses."""
    settings = config.ClassifySettings(
        frame_size=8, length=6, labels=2, validation=1, test=1, hidden=4, window=4, stride=2,
        layers=2, steps=3, validate_every=1, batch_size=7, encoder=encoder, backend=backend,
        graph=False,  # which strict_cupy.py lacks
    )  # fmt: skip
    train_clips, validation, test = build.open_clips(settings)
    fitted = classifier.fit(settings, train_clips, validation, "run")
    return fitted.predict(test), np.array([row["loss"] for row in fitted.history])


@pytest.mark.parametrize("encoder", ["frozen", "finetuned", "scratch"])
def test_a_classifier_learns_from_a_run_and_judges_as_on_the_host(undrawn, encoder):
    words = f"actions {SMALL.replace('--digit-size 5', '')} --future 3 --layers 2 --quiet"
    words += " --validate-every 0 --steps 2"
    assert call(train, f"{words} --backend cupy --out run") == 0
    for there, here in zip(*(classified(name, encoder) for name in ("cupy", "numpy")), strict=True):
        assert close(there, here, 1e-3)  # L-BFGS, for the readout, ends where float32 sees no fall


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_classifiers_captured_step_is_the_step_to_the_bit(dropout, monkeypatch):
    settings = config.ClassifySettings(
        frame_size=8, length=6, labels=2, validation=1, test=1, hidden=4, window=4, stride=2,
        layers=2, steps=7, validate_every=3, batch_size=7, encoder="scratch", backend="cupy",
        dropout=dropout,
    )  # fmt: skip
    train_clips, validation, _ = build.open_clips(settings)
    launched, found = [], {}
    launch = Captured.__call__

    def counted(self, *arguments):
        launch(self, *arguments)
        launched.append(self.launched)

    monkeypatch.setattr(Captured, "__call__", counted)
    for graph in (True, False):
        chosen = dataclasses.replace(settings, graph=graph)
        fitted = classifier.fit(chosen, train_clips, validation)
        weights = to_numpy(fitted.classifier.flat().value)
        found[graph] = weights.tobytes(), fitted.history
    assert found[True] == found[False] and len(found[True][1]) == 3
    assert launched == [0, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "first, second, precision", [("numpy", "cupy", "float32"), ("cupy", "numpy", "float64")]
)
def test_a_checkpoint_goes_to_the_other_library_and_back_to_the_bit(
    tmp_path, first, second, precision
):
    settings = settings_of({"model": {"conditional": "both"}}, precision)
    model, optimizer, _ = trained(first, settings, steps=2)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    with use_backend(first, precision):
        checkpoint.save(one, model, optimizer, {"step": 2})
    with use_backend(second, precision):
        other = randomize(build.build_model(settings, 64), np.random.default_rng(1))
        other_optimizer = build.build_optimizer(other, settings)
        arrays, about = checkpoint.read(one)
        checkpoint.fill(other, arrays, one)
        checkpoint.fill_optimizer(other_optimizer, arrays, about, one)
        checkpoint.save(two, other, other_optimizer, {"step": 2})
    assert one.read_bytes() == two.read_bytes()


def test_products_are_what_the_precision_says():
    """TF32 is asked of cuBLAS by `tf32` alone. Only the emulation tells."""
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    kinds = {"float32": 68, "tf32": 77, "float64": 70}  # CUBLAS_COMPUTE_32F, ..._FAST_TF32, 64F
    for precision in ("float32", "tf32", "float32", "float64"):
        with use_backend("cupy", precision):
            a = asarray(np.ones((2, 2)))
            fakegpu.logging(True)
            fakegpu.reset()
            matmul(a, a)
            fakegpu.logging(False)
        assert f"GemmEx computeType={kinds[precision]}" in fakegpu.log()


# ---------------------------------------------------------------- percepts

PICTURES = [(1, 32, 32), (3, 7, 45), (2, 1, 1)]
PERCEPT_COSTS = (452, 35)  # launches and products, however many pictures of whatever size


def percepts_and_costs(counted, shape):
    """The percepts of random pictures (N, height, width) by NumPy and CuPy, with CuPy's counts."""
    pictures = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    here = network_of(random_arrays()).percepts(pictures)
    with use_backend("cupy", "float32"):
        network = network_of(random_arrays())
        there, *counts = counted(lambda: network.percepts(pictures))
    return here, there, *counts


@pytest.mark.parametrize("shape", PICTURES, ids=str)
def test_percepts_are_those_of_numpy_and_cost_two_copies(shape):
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")

    def counted(work):
        fakegpu.reset()
        result, found = work(), fakegpu.counts()
        launches = sum(found.get(kind, 0) for kind in ("launch", "memset", "d2d"))
        return result, (launches, found["gemm"]), (found["h2d"], found["d2h"])

    here, there, costs, copies = percepts_and_costs(counted, shape)
    assert close(there, here, 1e-5)
    assert costs == PERCEPT_COSTS and copies == (1, 1)


# ---------------------------------------------------------------- launches

# What one more time step costs: launches and products of the forward pass, and of the backward.
FUSED = ((1, 1), (1, 1))
STEP_COSTS = {
    (PeepholeLSTM, True): FUSED,
    (LSTM, True): FUSED,
    (SlidesLSTM, True): FUSED,
    (PeepholeLSTM, False): ((20, 1), (8, 1)),
    (LSTM, False): ((14, 1), (8, 1)),
    (SlidesLSTM, False): ((14, 1), (8, 1)),
}
# The same of a decoder of one layer that feeds on its own frames: its inputs' product, its readout
# and the mean of the loss are made step by step, too.
DECODER_COSTS = {True: ((8, 3), (5, 3)), False: ((27, 3), (12, 3))}


def step_costs(counted, cell, fused):
    """By the difference of T = 6 and T = 5; counted(work) -> what work returns, its counts."""

    def of_steps(T):
        rng = np.random.default_rng(0)
        with use_backend("cupy", "float32", fused):
            layer = cell(3, 4, rng)
            x, dy = (asarray(rng.random((T, 2, width))) for width in (3, 4))
            (_, cache), forward = counted(lambda: layer.forward(x))
            _, backward = counted(lambda: layer.backward((dy, None), cache))
        return np.array([forward, backward])

    return tuple(map(tuple, (of_steps(6) - of_steps(5)).tolist()))


def decoder_costs(counted, fused):
    """Return `step_costs` of a conditional decoder that is fed its own frames."""

    def of_steps(T):
        rng = np.random.default_rng(0)
        with use_backend("cupy", "float32", fused):
            decoder = Decoder(3, 4, 1, rng, conditional=True)
            code = ((asarray(rng.random((2, 4))), asarray(rng.random((2, 4)))),)
            dlogits = asarray(rng.random((T, 2, 3)))
            (_, cache), forward = counted(lambda: decoder.forward(code, T))
            _, backward = counted(lambda: decoder.backward(dlogits, cache))
        return np.array([forward, backward])

    return tuple(map(tuple, (of_steps(6) - of_steps(5)).tolist()))


def counted_by_the_driver(work):
    """Return the result of `work`, and its launches and products. No traffic is allowed."""
    fakegpu = pytest.importorskip("fakegpu", reason="only the emulation counts launches")
    fakegpu.reset()
    result, found = work(), fakegpu.counts()
    assert not {"h2d", "d2h", "stream_sync", "dev_sync", "event_sync"} & found.keys()
    launches = sum(found.get(kind, 0) for kind in ("launch", "memset", "d2d"))
    return result, (launches, found["gemm"])


@pytest.mark.parametrize("cell, fused", STEP_COSTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_launches_of_a_time_step_are_known(cell, fused):
    assert step_costs(counted_by_the_driver, cell, fused) == STEP_COSTS[cell, fused]


@pytest.mark.parametrize("fused", DECODER_COSTS)
def test_the_launches_of_a_free_running_decoder_are_known(fused):
    assert decoder_costs(counted_by_the_driver, fused) == DECODER_COSTS[fused]


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in KINDS[2:]]


@pytest.mark.parametrize("case", [*KINDS[:2], *SLOW, *OTHERS], ids=str)
def test_the_stand_in_counts_what_the_driver_counts(case, monkeypatch):
    """Audit strict_cupy.py, which says what a step costs where there is no CuPy."""
    settings = settings_of(case)

    def cost(counted):
        strict_cupy.forget_kernels()
        with use_backend("cupy", "float32", settings.run.fused):
            source = build.open_source(settings, "train")
            model = build.build_model(settings, 64)
            optimizer = build.build_optimizer(model, settings)
            batches = BatchesAhead(packing_of(source, settings), 0, 3)
            try:
                for _ in range(2):  # what is on the device from the second on: `steps`
                    training_step(model, optimizer, batches.next(), settings, 1e-3)
                batch = batches.next()
                step = (model, optimizer, batch, settings, 1e-3)
                return counted(lambda: training_step(*step))[1]
            finally:
                batches.stop()

    def counted_by_the_stand_in(work):
        with strict_cupy.counting() as counts:
            result = work()
        return result, (counts["launch"] + counts["copy"], counts["gemm"])

    there = cost(counted_by_the_driver)
    with monkeypatch.context() as context:
        strict_cupy.install(context)
        here = cost(counted_by_the_stand_in)
    strict_cupy.forget_kernels()
    if settings.run.fused:
        assert here == there
    else:
        assert here == pytest.approx(there, rel=0.01)


def test_the_stand_in_is_a_part_of_this_cupy():
    assert strict_cupy.audit(sys.modules["cupy"]) == []


# ---------------------------------------------------------------- doctor and bench gpu


def test_the_doctor_records_a_step_and_says_if_it_cannot(monkeypatch):
    assert "change no bit" in device.check_graphs()
    made = device.training_step

    def not_recorded(*arguments):
        if xp.cuda.get_current_stream().is_capturing():
            raise ZeroDivisionError
        return made(*arguments)

    monkeypatch.setattr(device, "training_step", not_recorded)
    with pytest.raises(BackendError, match="train with --no-graph"):
        device.check_graphs()


@pytest.mark.skipif(
    "fakegpu" in sys.modules,
    reason="the emulation need not import PyTorch: test_strict_cupy.py does the same",
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # PyTorch's own
def test_a_training_step_of_pytorch_finds_the_same_losses_and_gradient(monkeypatch):
    expect_the_step_of_pytorch(monkeypatch)


# ---------------------------------------------------------------- before a run


def test_steps_are_timed_on_the_device_and_tf32_is_advised_where_it_is_offered(tmp_path, capsys):
    words = ["large", *SMALL.split(), "--steps", "2", "--schedule-steps", "2", "--backend", "cupy"]
    words += ["--out", str(tmp_path / "run")]
    assert train.main(words) == 0
    with use_backend("cupy"):
        offered = int(xp.cuda.Device().compute_capability) >= 80
    assert ("advice    --precision tf32" in capsys.readouterr().out) == offered
    assert pace.seconds_per_step(build.read_config(tmp_path / "run"), timed=2) > 0
