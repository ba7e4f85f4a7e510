"""Training: what a run writes, what it repeats, what it costs, and how it ends when it must."""

import dataclasses
import hashlib
import json
import math
import shutil
import signal
import threading
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from covering import covering
from PIL import Image
from small import small

import minilstm
from minilstm import config, train
from minilstm.command import run_command
from minilstm.config import from_toml
from minilstm.data import digits
from minilstm.errors import DataError, NonFiniteError, RunError
from minilstm.evaluation import judging
from minilstm.layers.losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from minilstm.layers.workspace import Reused, use_workspace
from minilstm.runs import build, checkpoint, run_folder
from minilstm.training import batches, loop, progress, resources
from minilstm.training.batches import BatchesAhead, draw_batch, draw_feeding, draw_masks
from minilstm.training.packing import packing_of
from minilstm.training.progress import Progress
from minilstm.training.step import Batch, training_step

TINY = small(model={"layers": 1, "hidden": 8})
FLAGS = "--frame-size 8 --digit-size 5 --past 3 --future 3 --hidden 8 --batch-size 4 --quiet"


def names(folder):
    """The visible files of a folder."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def tiny(**changes):
    """A small configuration with changes by section: tiny(model={"layers": 2})."""
    tables = {name: TINY.get(name, {}) | changes.get(name, {}) for name in config.SECTIONS}
    return config.load(overrides=tables)


def set_up(settings):
    """The model, the optimizer and the source of a configuration."""
    source = build.open_source(settings, "train")
    model = build.build_model(settings, math.prod(source.frame_shape))
    return model, build.build_optimizer(model, settings), source


def gradients(model, settings, batch):
    """The gradients of one step by name, before any clipping; the weights stay as they are."""
    before = model.flat().value.copy()
    training_step(model, build.build_optimizer(model, settings), batch, settings, 1e-3)
    model.flat().value[...] = before
    return {name: param.grad.copy() for name, param in model.params().items()}


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all the steps of a tiny run."""
    monkeypatch.setattr(Progress, "draw", lambda run: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A configuration and the folder of its finished run."""
    settings = tiny(
        model={"kind": "composite", "conditional": "future", "layers": 2, "dropout": 0.2},
        feeding={"inputs": "scheduled", "truth_steps": 10},
        run={"steps": 7, "log_every": 2, "validate_every": 3, "checkpoint_every": 4},
    )
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    loop.train(settings, out, quiet=True)
    return settings, out


# --------------------------------------------------------------------------- what a run leaves


def test_a_run_writes_every_promised_file_and_nothing_else(finished):
    _, out = finished
    assert names(out) == set(run_folder.NAMES)
    assert all((out / name).stat().st_size > 0 for name in run_folder.NAMES)


def test_the_pictures_of_a_run_open_and_the_animation_moves(finished):
    _, out = finished
    for name, form in (("curves.png", "PNG"), ("prediction.png", "PNG"), ("prediction.gif", "GIF")):
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.format == form and min(picture.size) > 20
            assert form == "PNG" or picture.n_frames > 1


def test_the_configuration_of_a_run_reads_back_equal(finished):
    settings, out = finished
    assert from_toml(out / "config.toml") == settings
    assert build.read_config(out) == settings


def test_the_log_has_a_row_for_every_interval_and_for_the_last_step(finished):
    _, out = finished
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "learning_rate" in row]
    validation = [row for row in rows if "validation future" in row]
    assert len(training) + len(validation) == len(rows)
    assert [row["step"] for row in training] == [2, 4, 6, 7]
    assert [row["step"] for row in validation] == [3, 6, 7]
    names = {"step", "learning_rate", "seconds", "reconstruction", "future", "gradient_norm"}
    names |= {f"gradient_norm {name}" for name in minilstm.load(out).params()}
    assert all(set(row) == names for row in training)
    names = {"step", "validation reconstruction", "validation future"}
    assert all(set(row) == names for row in validation)
    assert all(math.isfinite(x) for row in rows for x in row.values())
    assert np.all(np.diff([row["seconds"] for row in training]) >= 0)


def test_a_log_row_is_the_mean_since_the_row_before(tmp_path, no_pictures):
    def rows(log_every):
        out = tmp_path / str(log_every)
        settings = tiny(run={"steps": 6, "log_every": log_every, "validate_every": 0})
        loop.train(settings, out, quiet=True)
        found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [row["future"] for row in found if "future" in row]

    every = rows(1)
    pairs = [(a + b) / 2 for a, b in zip(every[::2], every[1::2], strict=True)]
    np.testing.assert_allclose(rows(2), pairs, rtol=1e-6)


def test_a_loaded_run_has_the_weights_that_training_returned(tmp_path, no_pictures):
    model = loop.train(tiny(), tmp_path / "run", quiet=True)
    loaded = minilstm.load(tmp_path / "run")
    assert type(loaded) is type(model)
    for name, param in model.params().items():
        np.testing.assert_array_equal(loaded.params()[name].value, param.value)
    arrays, about = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 2 and about["optimizer_steps"] == 2
    assert {"optimizer.mean", "optimizer.mean_square"} < arrays.keys()


def test_an_optimizer_goes_on_from_a_checkpoint_to_the_bit(tmp_path):
    settings = tiny()
    model, optimizer, source = set_up(settings)
    batches = [draw_batch(source, settings, k) for k in range(4)]
    for batch in batches[:2]:
        training_step(model, optimizer, batch, settings, 1e-3)
    checkpoint.save(tmp_path / "two", model, optimizer, {"step": 2})
    resumed, its_optimizer, _ = set_up(tiny(run={"seed": 9}))
    arrays, about = checkpoint.read(tmp_path / "two")
    checkpoint.fill(resumed, arrays, "two")
    checkpoint.fill_optimizer(its_optimizer, arrays, about, "two")
    for batch in batches[2:]:
        training_step(model, optimizer, batch, settings, 1e-3)
        training_step(resumed, its_optimizer, batch, settings, 1e-3)
    np.testing.assert_array_equal(resumed.flat().value, model.flat().value)


def test_a_double_precision_run_trains_and_loads_in_double_precision(tmp_path):
    model = loop.train(tiny(run={"precision": "float64"}), tmp_path / "run", quiet=True)
    assert model.dtype == np.float64 == minilstm.load(tmp_path / "run").dtype
    arrays, _ = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert all(array.dtype == np.float64 for array in arrays.values())


@pytest.mark.parametrize("start", ["step", "read"])
def test_a_run_of_nothing_but_ones_works(tmp_path, start):
    ones = {"frame_size": 1, "digit_size": 1, "num_digits": 1, "past": 1, "future": 1}
    settings = tiny(
        data=ones,
        model={"hidden": 1, "start": start, "conditional": "both"},
        run={"batch_size": 1, "steps": 1},
    )
    loop.train(settings, tmp_path / "run", quiet=True)
    assert minilstm.load(tmp_path / "run").rollout(np.ones((1, 1, 1), "float32"), 1).size == 1


def test_a_past_and_a_future_of_different_lengths_train_and_draw(tmp_path):
    settings = tiny(data={"past": 2, "future": 5}, model={"conditional": "both"})
    loop.train(settings, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "prediction.gif").stat().st_size > 0


# ---------------------------------------------------------------------------- what is repeated


def test_the_same_seed_gives_the_same_weights_to_the_bit(tmp_path, no_pictures):
    settings = tiny(
        model={"layers": 2, "dropout": 0.3, "conditional": "both"},
        feeding={"inputs": "scheduled", "truth_steps": 6},
        run={"steps": 5},
    )
    one, two = (loop.train(settings, tmp_path / n, quiet=True).flat().value for n in "ab")
    np.testing.assert_array_equal(one, two)
    run = dataclasses.replace(settings.run, seed=1)
    other = dataclasses.replace(settings, run=run)
    assert np.any(loop.train(other, tmp_path / "c", quiet=True).flat().value != one)


def test_the_seed_moves_the_start_the_data_the_masks_and_the_feeding_each():
    model = {"layers": 2, "dropout": 0.5, "conditional": "both"}
    feeding = {"inputs": "scheduled", "truth_start": 0.5, "truth_end": 0.5}
    one, two = (tiny(model=model, feeding=feeding, run={"seed": seed}) for seed in (0, 1))
    (model_1, _, source_1), (model_2, _, source_2) = set_up(one), set_up(two)
    for a, b in (
        (model_1.flat().value, model_2.flat().value),
        (source_1.batch(0, 4), source_2.batch(0, 4)),
        (draw_masks(one, 0)[0][0], draw_masks(two, 0)[0][0]),
        (draw_feeding(one, 0)[0], draw_feeding(two, 0)[0]),
    ):
        assert np.any(a != b)


def test_a_batch_is_a_function_of_its_number_and_not_of_what_was_drawn_before():
    settings = tiny(
        model={"layers": 3, "dropout": 0.4, "conditional": "both"},
        feeding={"inputs": "scheduled", "truth_start": 0.6, "truth_steps": 100},
    )
    source = build.open_source(settings, "train")
    in_order = [draw_batch(source, settings, k) for k in range(6)]
    again = build.open_source(settings, "train")
    backwards = [draw_batch(again, settings, k) for k in reversed(range(6))][::-1]
    for one, two in zip(in_order, backwards, strict=True):
        same_batch(one, two)
    assert np.any(in_order[1].past != in_order[2].past)
    assert np.any(in_order[1].masks[0][0] != in_order[2].masks[0][0])
    assert np.any(in_order[4].feed_truth[0] != in_order[5].feed_truth[0])


def same_batch(one, two):
    np.testing.assert_array_equal(one.past, two.past)
    np.testing.assert_array_equal(one.future, two.future)
    assert type(one.feed_truth) is type(two.feed_truth)
    np.testing.assert_equal(one.feed_truth, two.feed_truth)
    np.testing.assert_equal(one.masks, two.masks)


def test_the_thread_hands_over_the_very_batches_in_order():
    settings = tiny(model={"layers": 2, "dropout": 0.4})
    source = build.open_source(settings, "train")
    ahead = BatchesAhead(packing_of(source, settings), 3, 9)
    try:
        for k in range(3, 9):
            same_batch(ahead.next(), draw_batch(source, settings, k))
    finally:
        ahead.stop()


def test_the_horizon_of_schedules_is_their_own_and_not_the_length_of_the_run():
    short, long = tiny(run={"steps": 5}), tiny(run={"steps": 5_000})
    rate_1, rate_2 = build.build_schedule(short), build.build_schedule(long)
    assert [rate_1(k) for k in range(5)] == [rate_2(k) for k in range(5)]
    scheduled = {"inputs": "scheduled", "truth_steps": 10}
    one, two = (
        tiny(model={"conditional": "both"}, feeding=scheduled, run={"steps": steps})
        for steps in (5, 5_000)
    )
    for k in range(12):
        np.testing.assert_equal(draw_feeding(one, k), draw_feeding(two, k))


def test_scheduled_feeding_goes_from_the_truth_to_its_own_frames():
    settings = tiny(
        model={"conditional": "both"},
        feeding={"inputs": "scheduled", "truth_steps": 100},
        run={"batch_size": 400},
    )
    assert draw_feeding(settings, 0) is True
    assert draw_feeding(settings, 100) is False
    assert draw_feeding(settings, 100_000) is False
    for k, share in ((25, 0.75), (50, 0.5), (90, 0.1)):
        drawn = draw_feeding(settings, k)
        assert [choice.shape for choice in drawn] == [(3, 400), (3, 400)]
        assert all(choice.dtype == bool for choice in drawn)
        assert abs(np.mean(drawn) - share) < 0.04


# --------------------------------------------------------------------------- what every kind learns

KINDS = {
    "composite": ("none", "reconstruction", "future", "both"),
    "autoencoder": ("none", "reconstruction"),
    "predictor": ("none", "future"),
}
EVERY_KIND = [
    (kind, conditional, feeding, start, cell)
    for kind, conditionals in KINDS.items()
    for conditional, feeding, start, cell in product(
        conditionals, ("truth", "own", "scheduled"), ("step", "read"), build.CELLS
    )
    if conditional != "none" or feeding == "truth"
]


def no_gradient(name, cell):
    """Parameters that nothing depends on. The slides' RNN forgets its input: its state stays 0."""
    return cell == "slides-rnn" and (name.startswith("encoder.") or name.endswith(".W"))


TRIPLES = covering(EVERY_KIND, 3)
SLOW = [pytest.param(*kind, marks=pytest.mark.slow) for kind in EVERY_KIND if kind not in TRIPLES]


@pytest.mark.parametrize(("kind", "conditional", "feeding", "start", "cell"), [*TRIPLES, *SLOW])
def test_two_steps_move_every_parameter(kind, conditional, feeding, start, cell):
    settings = tiny(
        model={
            "kind": kind,
            "conditional": conditional,
            "start": start,
            "cell": cell,
            "layers": 2,
            "dropout": 0.2,
        },
        feeding={"inputs": feeding, "truth_start": 0.6, "truth_end": 0.6},
    )
    model, optimizer, source = set_up(settings)
    before = {name: param.value.copy() for name, param in model.params().items()}
    for k in range(2):
        batch = draw_batch(source, settings, k)
        found = training_step(model, optimizer, batch, settings, 1e-3)
        assert all(np.isfinite(x) for x in found.values())
        for name, param in model.params().items():
            if param.value.size == 0:  # an unconditional decoder has inputs of width 0
                assert name.rpartition(".")[2] in ("Wx", "Wi")
            elif no_gradient(name, cell) and not name.startswith(("reconstruct.r", "predict.r")):
                assert not param.grad.any(), name
            else:
                assert param.grad.any(), f"{name} has no gradient"
    for name, param in model.params().items():
        if param.grad.any():
            assert np.any(param.value != before[name]), f"{name} has not moved"


def learns(settings, batch, steps=60):
    """The sum of the losses on one batch, before and after a few steps on it."""
    model, optimizer, _ = set_up(settings)
    losses = []
    for _ in range(steps):
        found = training_step(model, optimizer, batch, settings, 0.02)
        losses.append(sum(float(x) for name, x in found.items() if "norm" not in name))
    return losses[0], losses[-1]


@pytest.mark.parametrize("cell", ["peephole", "standard", "slides-lstm", "elman"])
@pytest.mark.parametrize("feeding", ["none", "truth", "own", "scheduled"])
def test_the_loss_falls_on_a_small_problem(cell, feeding):
    conditional = "none" if feeding == "none" else "both"
    inputs = "truth" if feeding == "none" else feeding
    settings = tiny(
        model={"cell": cell, "conditional": conditional},
        feeding={"inputs": inputs, "truth_start": 0.5, "truth_end": 0.5},
    )
    batch = draw_batch(build.open_source(settings, "train"), settings, 0)
    first, last = learns(settings, batch)
    assert last < 0.5 * first


@pytest.mark.parametrize("rule", ["adam", "rmsprop", "sgd"])
def test_every_update_rule_lowers_the_loss(rule):
    settings = tiny(optimizer={"rule": rule})
    batch = draw_batch(build.open_source(settings, "train"), settings, 0)
    first, last = learns(settings, batch)
    assert last < 0.8 * first


def test_squared_error_trains_on_data_of_any_range_through_the_library():
    settings = tiny(model={"conditional": "both"}, feeding={"inputs": "own"})
    patches = dataclasses.replace(
        settings, data=dataclasses.replace(settings.data, source="patches")
    )
    model = build.build_model(patches, 6)
    assert isinstance(model.loss, SquaredError)
    optimizer = build.build_optimizer(model, patches)
    rng = np.random.default_rng(0)
    frames = 2 * rng.standard_normal((6, 4, 6)).astype("float32")
    batch = Batch(frames[:3], frames[3:], False, None)
    found = [training_step(model, optimizer, batch, patches, 0.02) for _ in range(80)]
    # before it has learned anything it says about 0: half the squares, summed over a frame
    np.testing.assert_allclose(
        found[0]["future"], 0.5 * (frames[3:] ** 2).sum(axis=-1).mean(), rtol=0.3
    )
    assert found[-1]["future"] < 0.5 * found[0]["future"]
    assert found[-1]["reconstruction"] < 0.5 * found[0]["reconstruction"]


def test_a_loss_weight_of_zero_switches_its_decoder_off():
    settings = tiny(loss={"reconstruction_weight": 0.0})
    model, _, source = set_up(settings)
    found = gradients(model, settings, draw_batch(source, settings, 0))
    for name, grad in found.items():
        assert grad.any() == (grad.size > 0 and not name.startswith("reconstruct.")), name


# ------------------------------------------------------------------------------------ the gradient


@pytest.mark.parametrize(("past", "future", "B"), [(3, 3, 5), (2, 5, 3)])
def test_the_three_scales_of_the_gradient_stand_in_their_exact_ratio(past, future, B):
    scales = {}
    for scale in ("mean", "batch_mean", "sum"):
        settings = tiny(
            data={"past": past, "future": future},
            loss={"gradient_scale": scale},
            optimizer={"clip_norm": 0.0},
            run={"batch_size": B, "precision": "float64"},
        )
        model, _, source = set_up(settings)
        scales[scale] = gradients(model, settings, draw_batch(source, settings, 0))
    for decoder, T in (("reconstruct", past), ("predict", future)):
        for name in (f"{decoder}.readout.W", f"{decoder}.stack.0.Wh"):
            mean, batch_mean, total = (scales[s][name] for s in ("mean", "batch_mean", "sum"))
            close = {"rtol": 1e-12, "atol": 1e-12 * np.abs(total).max()}
            np.testing.assert_allclose(batch_mean, T * mean, **close)
            np.testing.assert_allclose(total, T * B * mean, **close)


def test_the_summed_gradient_of_the_output_bias_is_the_sum_of_what_is_too_bright():
    settings = tiny(
        loss={"gradient_scale": "sum", "future_weight": 0.25},
        optimizer={"clip_norm": 0.0},
        run={"precision": "float64"},
    )
    model, _, source = set_up(settings)
    batch = draw_batch(source, settings, 0)
    found = gradients(model, settings, batch)
    (z, _), _ = model.forward(batch.past, batch.future)
    too_bright = (1 / (1 + np.exp(-z)) - batch.past[::-1]).sum(axis=(0, 1))
    np.testing.assert_allclose(found["reconstruct.readout.b"], too_bright, rtol=1e-10)
    (_, z), _ = model.forward(batch.past, batch.future)
    too_bright = 0.25 * (1 / (1 + np.exp(-z)) - batch.future).sum(axis=(0, 1))
    np.testing.assert_allclose(found["predict.readout.b"], too_bright, rtol=1e-10)


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_reported():
    settings = tiny(optimizer={"clip_norm": 0.5})
    model, optimizer, source = set_up(settings)
    batch = draw_batch(source, settings, 0)
    found = training_step(model, optimizer, batch, settings, 1e-3)
    assert found["gradient_norm"] > 1
    np.testing.assert_allclose(np.linalg.norm(model.flat().grad), 0.5, rtol=1e-5)


def test_gradients_of_one_step_do_not_leak_into_the_next():
    settings = tiny(optimizer={"clip_norm": 0.0})
    model, optimizer, source = set_up(settings)
    batch = draw_batch(source, settings, 0)
    once = gradients(model, settings, batch)
    twice = gradients(model, settings, batch)
    np.testing.assert_equal(once, twice)


def test_dropout_masks_are_drawn_used_and_left_out_where_there_is_no_gap():
    settings = tiny(model={"layers": 3, "dropout": 0.25}, run={"batch_size": 50})
    masks = draw_masks(settings, 0)
    assert [[mask.shape for mask in part] for part in masks] == [[(3, 50, 8)] * 2] * 3
    kept = np.mean([mask for part in masks for mask in part])
    assert abs(kept - 0.75) < 0.02
    model, _, source = set_up(settings)
    batch = draw_batch(source, settings, 0)
    np.testing.assert_equal(batch.masks, masks)
    with_masks = gradients(model, settings, batch)
    without = gradients(model, settings, dataclasses.replace(batch, masks=None))
    for name in ("encoder.1.Wx", "reconstruct.stack.1.Wx", "predict.stack.2.Wx"):
        assert np.any(with_masks[name] != without[name]), f"{name} has seen no mask"
    assert draw_masks(tiny(model={"dropout": 0.5}), 0) is None
    assert draw_masks(tiny(model={"layers": 2}), 0) is None


# ------------------------------------------------------------------------------------ what it costs


def test_the_work_of_a_step_is_counted_as_by_hand():
    T_past, T, D, H, B = 4, 6, 64, 8, 5

    def counted(**changes):
        settings = tiny(data={"past": T_past, "future": T}, run={"batch_size": B}, **changes)
        return resources.gflop_per_step(build.build_model(settings, D), settings)

    # a matrix product forward, and two of the same size backward: for the weights, for the input;
    # the data needs no gradient
    encoder = T_past * (2 * D * 4 * H + 3 * H * 4 * H)
    decoders = (T_past + T) * 3 * (H * 4 * H + H * D)
    plain = 2 * B * (encoder + decoders) / 1e9
    assert counted() == pytest.approx(plain, rel=1e-12)
    fed = 2 * B * T * D * 4 * H / 1e9  # one product with the frames that are fed
    model = {"conditional": "future"}
    assert counted(model=model) == pytest.approx(plain + 2 * fed, rel=1e-12)
    own = {"inputs": "own"}
    assert counted(model=model, feeding=own) == pytest.approx(plain + 3 * fed, rel=1e-12)
    two = 2 * B * (T_past + T_past + T) * 3 * (H * 4 * H + H * 4 * H) / 1e9
    assert counted(model={"layers": 2}) == pytest.approx(plain + two, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "feeding", "rule"),
    [
        ({}, "truth", "adam"),
        ({"kind": "predictor", "layers": 2, "conditional": "future"}, "truth", "sgd"),
        ({"layers": 2, "conditional": "both"}, "own", "rmsprop"),
        ({"layers": 2, "conditional": "both", "dropout": 0.3}, "scheduled", "adam"),
        ({"kind": "autoencoder", "cell": "elman", "start": "read"}, "truth", "adam"),
    ],
)
def test_the_memory_announced_is_what_training_takes(model, feeding, rule):
    settings = tiny(
        data={"frame_size": 16, "past": 5, "future": 6},
        model={"hidden": 48} | model,
        feeding={"inputs": feeding, "truth_start": 0.5, "truth_end": 0.5},
        optimizer={"rule": rule},
        run={"batch_size": 24},
    )
    model, optimizer, source = set_up(settings)
    with use_workspace(Reused()) as workspace:
        for k in range(3):
            batch = draw_batch(source, settings, k)
            training_step(model, optimizer, batch, settings, 1e-3)
    states = optimizer.state.values()
    taken = 2 * model.flat().value.nbytes + sum(state.nbytes for state in states)
    taken += workspace.nbytes + 4 * (batch.past.nbytes + batch.future.nbytes)
    assert resources.memory_of(model, settings).needed(settings.run.batch_size) == pytest.approx(
        taken, rel=0.15
    )


def test_asking_for_the_cost_leaves_no_trace_in_the_model():
    settings = tiny(model={"conditional": "both"}, feeding={"inputs": "own"})
    model, _, _ = set_up(settings)
    before = model.flat().value.copy()
    resources.memory_of(model, settings).needed(settings.run.batch_size)
    assert not model.flat().grad.any()
    np.testing.assert_array_equal(model.flat().value, before)


def test_the_announcement_says_what_where_how_long_and_how_much(tmp_path, capsys, no_pictures):
    settings = tiny(model={"conditional": "future"}, run={"minutes": 2.5, "seed": 3})
    loop.train(settings, tmp_path / "run")
    text = capsys.readouterr().out
    size = build.build_model(settings, 64).flat().value.size
    for words in (
        "composite, future conditional: 1 layer of 8 units",
        f"{size:,} parameters",
        "3 frames in, 3 to predict",
        "2 steps or 2.5 minutes of 4 sequences",
        "seed 3",
        "MB of memory",
        "GFLOP per step",
        str(tmp_path / "run"),
    ):
        assert words in text, words


def test_the_progress_bar_shows_losses_speed_and_time_left(tmp_path, capsys, no_pictures):
    loop.train(tiny(run={"log_every": 1}), tmp_path / "run")
    bar = capsys.readouterr().err
    for words in ("2/2", "step/s", "reconstruction=", "future=", "<"):
        assert words in bar, words


def test_a_quiet_run_prints_nothing(tmp_path, capsys, no_pictures):
    loop.train(tiny(), tmp_path / "run", quiet=True)
    assert capsys.readouterr() == ("", "")


# -------------------------------------------------------------------------------------- how it ends


def test_a_run_stops_when_its_minutes_are_over_and_is_complete(tmp_path, monkeypatch):
    """By a clock on which a step takes a second."""
    seconds, step = [0], training_step

    def one_second_later(*arguments):
        seconds[0] += 1
        return step(*arguments)

    monkeypatch.setattr(loop, "training_step", one_second_later)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    settings = tiny(run={"steps": 1_000_000, "minutes": 0.2})
    loop.train(settings, tmp_path / "run", quiet=True)
    assert names(tmp_path / "run") == set(run_folder.NAMES)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == rows[-2]["step"] == 13 and "validation future" in rows[-1]


def test_a_run_without_time_for_anything_still_makes_one_step(tmp_path):
    loop.train(tiny(run={"steps": 100, "minutes": 1e-9}), tmp_path / "run", quiet=True)
    _, about = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 1


def broken_batch(monkeypatch, number, what):
    """Let batch `number` be what the function `what` makes of it."""

    def draw(source, settings, k, *ranks):
        batch = draw_batch(source, settings, k, *ranks)
        return what(batch) if k == number else batch

    monkeypatch.setattr(batches, "draw_batch", draw)


def raising(error):
    def what(*_):
        raise error

    return what


def test_an_error_of_the_source_reaches_the_caller_and_the_thread_ends(
    tmp_path, monkeypatch, no_pictures
):
    before = threading.enumerate()
    error = DataError("expected a disk, got none: buy one")
    broken_batch(monkeypatch, 3, raising(error))
    with pytest.raises(DataError) as caught:
        loop.train(tiny(run={"steps": 100}), tmp_path / "run", quiet=True)
    assert caught.value is error
    assert threading.enumerate() == before
    _, about = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 3  # what was learned before is kept


@pytest.mark.parametrize("steps", [1, 50])
def test_the_thread_ends_with_the_run(tmp_path, no_pictures, steps):
    before = threading.enumerate()
    loop.train(tiny(run={"steps": steps}), tmp_path / "run", quiet=True)
    assert threading.enumerate() == before


def test_a_thread_nobody_waits_for_ends_when_told():
    settings = tiny()
    before = threading.enumerate()
    ahead = BatchesAhead(packing_of(build.open_source(settings, "train"), settings), 0, 10**9)
    ahead.next()
    ahead.stop()
    assert threading.enumerate() == before


def test_an_interrupt_leaves_a_readable_checkpoint_and_status_130(
    tmp_path, monkeypatch, capsys, no_pictures
):
    before = threading.enumerate()
    step, made = training_step, []

    def interrupted(*arguments):
        made.append(step(*arguments))
        if len(made) == 4:
            signal.raise_signal(signal.SIGINT)
        return made[-1]

    monkeypatch.setattr(loop, "training_step", interrupted)
    arguments = [*FLAGS.split(), "--steps", "100", "--out", str(tmp_path / "run")]
    assert run_command(lambda: train.main(arguments)) == 130
    assert threading.enumerate() == before
    assert capsys.readouterr().err == "interrupted\n"
    _, about = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 4
    minilstm.load(tmp_path / "run")


def refused(capsys, *arguments):
    """The one line that a run which can't go on says; nothing else may be printed."""
    status = run_command(lambda: train.main([*FLAGS.split(), *map(str, arguments)]))
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_nan_in_the_data_ends_the_run_naming_step_and_number(
    tmp_path, monkeypatch, capsys, no_pictures
):
    before = threading.enumerate()

    def spoil(batch):
        batch.past[1, 2, 3] = np.nan
        return batch

    broken_batch(monkeypatch, 2, spoil)
    message = refused(
        capsys, "--steps", 9, "--log-every", 1, "--checkpoint-every", 1, "--out", tmp_path / "run"
    )
    assert "reconstruction = nan" in message and "step 3" in message
    assert threading.enumerate() == before
    arrays, about = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert about["step"] == 2, "the last good checkpoint was overwritten"
    assert all(np.isfinite(array).all() for array in arrays.values())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=raising(AssertionError("no JSON")))


@pytest.mark.parametrize("every", ["--log-every", "--validate-every", "--checkpoint-every"])
def test_a_learning_rate_that_explodes_ends_the_run_in_one_line(
    tmp_path, capsys, no_pictures, every
):
    others = {"--log-every", "--validate-every", "--checkpoint-every"} - {every}
    silent = [word for flag in others for word in (flag, "0")]
    flags = "--optimizer sgd --clip-norm 0 --learning-rate 1e37 --steps 40".split()
    message = refused(capsys, *flags, *silent, every, "1", "--out", tmp_path / "run")
    assert "expected finite" in message and "step" in message and "--learning-rate" in message
    saved = tmp_path / "run" / "checkpoint.safetensors"
    if saved.exists():
        arrays, _ = checkpoint.read(saved)
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_validation_that_is_not_finite_leaves_the_checkpoint_before_it(
    tmp_path, monkeypatch, capsys, no_pictures
):
    judge, judged = judging.losses_and_means, []

    def spoiled(*arguments, **keywords):  # the first number of the third validation, which has two
        judged.append(judge(*arguments, **keywords))
        if len(judged) == 3:
            losses, means = judged[-1]["reconstruction"]
            judged[-1]["reconstruction"] = losses * math.nan, means
        return judged[-1]

    monkeypatch.setattr(judging, "losses_and_means", spoiled)
    saved = tmp_path / "run" / "checkpoint.safetensors"
    flags = "--steps 9 --validate-every 1 --checkpoint-every 1".split()
    message = refused(capsys, *flags, "--out", tmp_path / "run")
    assert "validation reconstruction = nan" in message
    assert f"after step 3; {saved} of step 2 is older" in message
    _, about = checkpoint.read(saved)
    assert about["step"] == 2, "the last good checkpoint was overwritten"
    rows = run_folder.read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation future" in row] == [1, 2]


def test_numbers_that_are_not_finite_raise_an_error_of_their_own(
    tmp_path, monkeypatch, no_pictures
):
    infinite = np.full((3, 4, 64), np.inf, "float32")
    broken_batch(monkeypatch, 0, lambda batch: dataclasses.replace(batch, past=infinite))
    with pytest.raises(NonFiniteError):
        loop.train(tiny(), tmp_path / "run", quiet=True)


def test_a_run_folder_that_vanishes_is_an_error_in_words(tmp_path, monkeypatch, no_pictures):
    out = tmp_path / "run"

    def vanish(batch):
        shutil.rmtree(out)
        return batch

    broken_batch(monkeypatch, 1, vanish)
    with pytest.raises(RunError):
        loop.train(tiny(run={"steps": 5, "log_every": 5}), out, quiet=True)


# --------------------------------------------------------------------------- where readouts start


def test_a_fresh_run_starts_both_decoders_at_the_mean_image(tmp_path, monkeypatch, no_pictures):
    settings = tiny()
    mean = judging.mean_image(settings).clip(1e-4, 1 - 1e-4)
    monkeypatch.setattr(loop, "make_steps", lambda progress, stop: None)
    model = loop.train(settings, tmp_path / "run", quiet=True)
    for decoder in (model.reconstruct, model.predict):
        start = model.loss.mean(decoder.readout.b.value[None, None], np.empty((1, 1, 64), "f"))
        np.testing.assert_allclose(start[0, 0], mean, rtol=1e-3)


def test_readouts_start_at_zero_where_the_settings_say_so(tmp_path, monkeypatch, no_pictures):
    monkeypatch.setattr(loop, "make_steps", lambda progress, stop: None)
    settings = tiny(init={"readout_bias": "zero"}, model={"kind": "predictor"})
    model = loop.train(settings, tmp_path / "run", quiet=True)
    assert not model.predict.readout.b.value.any()


@pytest.mark.parametrize("preset", ["paper", "toronto2015", "github2016"])
def test_the_presets_of_the_time_start_their_readouts_at_zero(preset):
    assert config.load([preset]).init.readout_bias == "zero"


@pytest.mark.parametrize("loss", [BernoulliCrossEntropy(), SquaredError(), SoftmaxCrossEntropy()])
def test_the_logits_of_a_mean_stand_for_that_mean(loss):
    mean = np.random.default_rng(0).random((3, 2, 5))
    mean /= mean.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(loss.mean(loss.logits(mean), np.empty_like(mean)), mean, rtol=1e-12)


def test_a_mean_image_lowers_the_first_loss_below_a_blind_guess(tmp_path, no_pictures):
    firsts = []
    for bias in ("zero", "mean-image"):
        settings = tiny(init={"readout_bias": bias}, run={"steps": 1, "log_every": 1})
        loop.train(settings, tmp_path / bias, quiet=True)
        firsts.append(run_folder.read_log(tmp_path / bias / "metrics.jsonl")[0]["future"])
    assert firsts[1] < 0.7 * firsts[0]


# ---------------------------------------------------------------- data that will be needed


@pytest.mark.parametrize("missing", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_test_digits_that_are_missing_are_refused_before_the_first_step(
    tmp_path, monkeypatch, missing
):
    """The pictures at the end, and every evaluation, need them."""
    rng = np.random.default_rng(0)
    sums = {}
    for (split, part), (name, _) in digits.MD5.items():
        shape = (30, 28, 28) if part == "images" else (30,)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        data = header + rng.integers(0, 255, shape, np.uint8).tobytes()
        (tmp_path / name).write_bytes(data)
        sums[split, part] = name, hashlib.md5(data).hexdigest()
    monkeypatch.setattr(digits, "MD5", sums)
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    settings = tiny(data={"digits": str(tmp_path)})
    loop.train(settings, tmp_path / "good", quiet=True)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=missing):
        loop.train(settings, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_patches_without_a_test_group_are_refused_before_the_first_step(tmp_path):
    patches = np.random.default_rng(0).integers(0, 256, (20, 6, 4, 4), np.uint8)
    np.savez(tmp_path / "patches.npz", patches=patches, groups=np.arange(20) % 2 * 9)
    settings = tiny(data={"source": "patches", "path": str(tmp_path / "patches.npz")})
    with pytest.raises(DataError, match="expected patches for test, got none"):
        loop.train(settings, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
