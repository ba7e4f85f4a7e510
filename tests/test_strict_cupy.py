"""No copy and no wait in a training step, nor in any layer or model: counted by a strict CuPy."""

import contextlib
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from on_cupy import (
    CASES,
    DECODER_COSTS,
    PERCEPT_COSTS,
    PICTURES,
    STEP_COSTS,
    TOLERANCE,
    classified,
    close,
    decoder_costs,
    named,
    numbers_of,
    percepts_and_costs,
    settings_of,
    step_costs,
    trained,
)  # fmt: skip
from pytorch_step import expect_the_step_of_pytorch
from strict_cupy import counting, forbidding
from test_resume import same, stop_after

from minilstm import checker, evaluate, train
from minilstm.backend import asarray, use_backend, xp
from minilstm.command import run_command
from minilstm.layers.workspace import Reused, use_workspace
from minilstm.models import Classifier
from minilstm.optim import Adam
from minilstm.runs import build, checkpoint
from minilstm.training import batches, packing, progress
from minilstm.training.batches import BatchesAhead, draw_batch
from minilstm.training.classifier import classify_step
from minilstm.training.packing import packing_of
from minilstm.training.step import Batch, training_step

BACKENDS = ("numpy", "cupy")
TRAFFIC = ("upload", "download", "sync")


@pytest.fixture
def strict(monkeypatch):
    strict_cupy.install(monkeypatch)
    monkeypatch.setattr(strict_cupy.Event, "LATE", 0)


@pytest.fixture
def there(strict):
    with use_backend("cupy", "float32"):
        yield


# ---------------------------------------------------------------- the stand-in itself


def test_it_refuses_what_cupy_refuses(there):
    a, host = xp.zeros((2, 3), "float32"), np.zeros((2, 3), "float32")
    for wrong in (
        lambda: np.asarray(a),
        lambda: a + host,
        lambda: host + a,
        lambda: xp.add(a, host),
        lambda: xp.multiply(a, 2.0, where=a > 0),
        lambda: xp.multiply(a, np.float64(2), out=xp.zeros((2, 3), "int32")),
        lambda: xp.matmul(a, host.T),
        lambda: xp.concatenate([host, host]),
        lambda: a.__setitem__(0, host[0]),
        lambda: a[np.zeros(2, int)],
        lambda: xp.einsum,
        lambda: xp.random,
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            wrong()
    assert (a * np.float64(2)).dtype == "float64"  # as in CuPy: hidden float64 would show


def test_it_counts_every_way_of_waiting(there):
    a = xp.zeros(3, "float32")
    for read in (
        lambda: float(a[0]),
        lambda: bool(a[0] > 1),
        lambda: a.get(),
        lambda: a.sum().item(),
        lambda: f"{a[0]:.1f}",
        lambda: a.tolist(),
        lambda: max(a[0], a[1]),
        lambda: xp.cuda.get_current_stream().synchronize(),
    ):
        with counting() as counts:
            read()
        assert counts["sync"] > 0
        with pytest.raises(AssertionError, match="no sync here"), forbidding("sync"):
            read()


def test_it_is_a_part_of_the_installed_cupy():
    real = pytest.importorskip("cupy", reason="cupy is not installed: nothing to compare with")
    assert strict_cupy.audit(real) == []


def test_the_audit_finds_what_cupy_lacks(monkeypatch):
    real = SimpleNamespace(**vars(strict_cupy.cupy))  # a copy
    assert strict_cupy.audit(real) == []
    monkeypatch.setattr(strict_cupy.cupy, "einsum", lambda x: x, raising=False)
    monkeypatch.setattr(strict_cupy.cupy, "where", lambda condition, x, y, out: x)
    wrong = ["cupy has no einsum", "cupy.where has no parameter out"]
    assert sorted(strict_cupy.audit(real)) == wrong


# ---------------------------------------------------------------- layers and models


@pytest.fixture
def sample(request):
    """Return a function that makes a layer with inputs in the library in use."""
    cls, variant = request.param
    return lambda: cls.samples(np.random.default_rng(0))[variant]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_gradient_is_that_of_numpy(strict, sample, dtype):
    with use_backend("numpy", "float64"):
        made = sample()
        here, _ = checker.analytic_gradients(made.layer, named(made), "float64")
    with use_backend("cupy", dtype):
        made = sample()
        there, _ = checker.analytic_gradients(made.layer, named(made), dtype)
    assert there.keys() == here.keys()
    for name, expected in here.items():
        zeros = made.zeros.get(name, ())
        assert checker.error(there[name], expected, zeros) < TOLERANCE[dtype], name


def test_forward_and_backward_make_no_traffic(there, sample):
    made = sample()
    made.layer.astype("float32")
    inputs = checker.cast_arrays(made.inputs, "float32")
    with use_workspace(Reused()):
        outputs, _ = made.layer.forward(*inputs)
        doutputs = checker.map_arrays(lambda y: asarray(np.ones(y.shape)), outputs)
        with forbidding(*TRAFFIC):
            _, cache = made.layer.forward(*inputs)
            made.layer.backward(doutputs, cache)


def counted(work):
    with counting() as counts, forbidding(*TRAFFIC):
        result = work()
    return result, (counts["launch"] + counts["copy"], counts["gemm"])


@pytest.mark.parametrize("cell, fused", STEP_COSTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_launches_of_a_time_step_are_known(there, cell, fused):
    assert step_costs(counted, cell, fused) == STEP_COSTS[cell, fused]


@pytest.mark.parametrize("fused", DECODER_COSTS)
def test_the_launches_of_a_free_running_decoder_are_known(there, fused):
    assert decoder_costs(counted, fused) == DECODER_COSTS[fused]


@pytest.mark.parametrize("shape", PICTURES, ids=str)
def test_percepts_are_those_of_numpy_and_cost_two_copies(strict, shape):
    def counted(work):
        with counting() as counts:
            result = work()
        costs = counts["launch"] + counts["copy"], counts["gemm"]
        return result, costs, [counts[kind] for kind in TRAFFIC]

    here, there, costs, traffic = percepts_and_costs(counted, shape)
    assert close(there, here, 1e-5)
    assert costs == PERCEPT_COSTS and traffic == [1, 1, 1]


# ---------------------------------------------------------------- the training step


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_steps_are_those_of_numpy(strict, case):
    here, optimizer_here, numbers_here = trained("numpy", settings_of(case))
    there, optimizer_there, numbers_there = trained("cupy", settings_of(case))
    for name, param in here.params().items():
        found = there.params()[name].value._a
        np.testing.assert_allclose(found, param.value, rtol=1e-3, atol=1e-5, err_msg=name)
    for name, state in optimizer_here.state.items():
        np.testing.assert_allclose(optimizer_there.state[name]._a, state, rtol=1e-2, atol=1e-5)
    for now, expected in zip(numbers_there, numbers_here, strict=True):
        assert now == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_makes_no_traffic_and_its_batch_is_one_copy(there, case):
    settings = settings_of(case)
    source = build.open_source(settings, "train")
    model = build.build_model(settings, 64)
    optimizer = build.build_optimizer(model, settings)
    packing = packing_of(source, settings)
    with counting() as counts:
        batches = BatchesAhead(packing, 0, 4)
        try:
            for _ in range(4):
                with forbidding(*TRAFFIC):
                    batch = batches.next()
                    training_step(model, optimizer, batch, settings, 1e-3)
        finally:
            batches.stop()  # waits once, for unfinished copies
    assert {kind: counts[kind] for kind in TRAFFIC} == {"upload": 4, "download": 0, "sync": 1}


def test_a_step_that_is_not_finite_is_taken_back_by_the_device(there):
    for rule in ("adam", "rmsprop", "sgd"):
        settings = settings_of({"optimizer": {"rule": rule}})
        model = build.build_model(settings, 64)
        optimizer = build.build_optimizer(model, settings)
        source = build.open_source(settings, "train")
        good, bad = (draw_batch(source, settings, k) for k in range(2))
        bad.future[0, 0, 0] = np.nan
        good, bad = (Batch(asarray(b.past), asarray(b.future), True, None) for b in (good, bad))
        training_step(model, optimizer, good, settings, 1e-3)
        before = [x._a.copy() for x in (model.flat().value, *optimizer.state.values())]
        with forbidding(*TRAFFIC):
            training_step(model, optimizer, bad, settings, 1e-3)
        after = [x._a for x in (model.flat().value, *optimizer.state.values())]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
        assert (int(optimizer.steps), int(optimizer.unusable)) == (1, 1)
        training_step(model, optimizer, good, settings, 1e-3)
        assert (int(optimizer.steps), int(optimizer.unusable)) == (2, 0)


def test_a_classifiers_step_makes_no_traffic(there):
    rng = np.random.default_rng(0)
    classifier = Classifier(3, 4, 2, 5, rng, dropout=0.5)
    optimizer = Adam(classifier.flat())
    x, labels = asarray(rng.random((6, 2, 3))), asarray([1, 4], int)
    masks = tuple(asarray(rng.random((6, 2, 4)) < 0.5, bool) for _ in range(2))
    for _ in range(2):
        with forbidding(*TRAFFIC):
            loss = classify_step(classifier, optimizer, x, labels, masks, 1e-3, 5.0)
    assert np.isfinite(float(loss)) and int(optimizer.steps) == 2


def test_a_training_step_of_pytorch_finds_the_same_losses_and_gradient(there, monkeypatch):
    expect_the_step_of_pytorch(monkeypatch)


# ---------------------------------------------------------------- runs

SMALL = "--frame-size 8 --past 3 --future 4 --hidden 6 --batch-size 4 --quiet"


@pytest.fixture
def called(strict, tmp_path, monkeypatch):
    """Return a function that trains with the given words and returns the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress.Progress, "draw", lambda run: None)
    monkeypatch.setattr(progress, "VALIDATION_SEQUENCES", 10)
    with use_backend("cupy"):  # the first choice looks for the pieces, which would be counted
        pass

    def call(words):
        own = [SMALL]  # and flags that have an effect: the stand-in has no graphs
        own += ["--digit-size 5"] * ("--data actions" not in words)
        own += ["--no-graph"] * ("--backend cupy" in words)
        return run_command(lambda: train.main(" ".join([*own, words]).split()))

    return call


def test_more_steps_cost_one_copy_each_and_one_for_each_row_of_the_log(called):
    words = "--log-every 4 --validate-every 0 --checkpoint-every 0 --backend cupy"
    words += " --conditional both --layers 2 --dropout 0.2 --feeding scheduled"
    words += " --truth-start 0.6 --truth-end 0.5"
    found = []
    for steps in (8, 24):
        with counting() as counts:
            assert called(f"{words} --steps {steps} --out run{steps}") == 0
        found.append(np.array([counts[kind] for kind in TRAFFIC]))
    assert (found[1] - found[0]).tolist() == [16, 4, 0]


def test_the_log_is_never_far_behind_however_rarely_a_row_is_written(called, monkeypatch):
    monkeypatch.setattr(progress, "MAX_STEPS_AHEAD", 3)
    words = "--log-every 1000000000 --validate-every 0 --checkpoint-every 0 --backend cupy"
    downloads = []
    for steps in (9, 18):
        with counting() as counts:
            assert called(f"{words} --steps {steps} --out run{steps}") == 0
        downloads.append(counts["download"])
    assert downloads[1] - downloads[0] == 3


@pytest.mark.parametrize("encoder", ["frozen", "finetuned", "scratch"])
def test_a_classifier_learns_from_a_run_and_judges_as_on_the_host(called, encoder):
    words = "--data actions --future 3 --layers 2 --validate-every 0 --steps 2 --backend cupy"
    assert called(f"{words} --out run") == 0
    for there, here in zip(*(classified(name, encoder) for name in ("cupy", "numpy")), strict=True):
        assert close(there, here, 1e-3)  # L-BFGS stops where float32 sees no further decrease


def spoil(monkeypatch, steps):
    draw = draw_batch

    def drawn(source, settings, k, *ranks):
        batch = draw(source, settings, k, *ranks)
        if k + 1 in steps:
            batch.past[1, 2, 3] = np.nan
        return batch

    monkeypatch.setattr(batches, "draw_batch", drawn)
    monkeypatch.setattr(packing, "MovingPacking", packing.NumbersPacking)  # bytes can't be NaN


@pytest.mark.parametrize("bad", [{7}, {7, 8, 13}, set(range(7, 99)), {1}, {16}], ids=len)
@pytest.mark.parametrize("on_nan", ["stop", "skip", "rewind"])
def test_news_that_come_late_change_nothing(called, monkeypatch, capsys, on_nan, bad):
    """The log, the checkpoint and the error equal those of NumPy, which sees numbers at once."""
    spoil(monkeypatch, bad)
    words = "--layers 1 --steps 21 --log-every 3 --validate-every 8 --checkpoint-every 5"
    words += f" --on-nan {on_nan}"

    def trained(backend, out):
        status = called(f"{words} --backend {backend} --out {out}")
        _, about = checkpoint.read(f"{out}/checkpoint.safetensors")
        end = (
            status,
            capsys.readouterr().err.replace(f"{out}/", "run/"),
            *(about[name] for name in ("step", "optimizer_steps", "unusable")),
            {name: x for name, x in about["interval"].items() if name != "sums"},
        )
        return end, numbers_of(out) if Path(out, "metrics.jsonl").exists() else []

    expected_end, expected = trained("numpy", "at-once")
    for late in (1, 1000):
        monkeypatch.setattr(strict_cupy.Event, "LATE", late)
        end, rows = trained("cupy", f"late-{late}")
        assert end == expected_end, late
        assert len(rows) == len(expected)
        for row, there in zip(rows, expected, strict=True):
            assert row == pytest.approx(there, rel=1e-5, abs=1e-6), late


def test_a_run_in_tf32_trains_resumes_and_is_judged_on_a_cpu(called, capsys):
    words = "--steps 4 --precision tf32 --out run"
    assert called(f"{words} --backend cupy") == 0
    with use_backend("numpy", "float32"):
        assert train.main("--resume run --extend-to 6 --quiet".split()) == 0
        for backend in BACKENDS:
            assert evaluate.main(f"run --sequences 5 --backend {backend}".split()) == 0
    arrays, _ = checkpoint.read("run/checkpoint.safetensors")
    assert {array.dtype.name for array in arrays.values()} == {"float32"}
    capsys.readouterr()
    assert called(f"{words}2 --backend numpy") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected run.backend cupy for run.precision tf32" in said


@pytest.mark.parametrize("end", ["signal", "error"])
def test_a_run_is_resumed_to_the_bit_although_its_log_is_behind(called, monkeypatch, end):
    monkeypatch.setattr(strict_cupy.Event, "LATE", 1000)
    words = "--steps 12 --log-every 5 --validate-every 4 --backend cupy"
    assert called(f"{words} --out whole") == 0
    with monkeypatch.context() as context:
        if end == "signal":
            stop_after(context, 6)
        else:  # the source fails, and the loop gets the error in place of a batch
            draw = draw_batch
            context.setattr(batches, "draw_batch", lambda *a: draw(*a) if a[2] != 7 else 1 / 0)
            context.setattr(packing, "MovingPacking", packing.NumbersPacking)
        with contextlib.suppress(ZeroDivisionError):
            assert called(f"{words} --out parts") == 128 + signal.SIGTERM
    assert checkpoint.read("parts/checkpoint.safetensors")[1]["step"] == 7
    with use_backend("numpy", "float32"):
        assert train.main("--resume parts --quiet".split()) == 0
    assert same(Path("whole"), Path("parts"))
