"""The memory that is announced before a run starts, and the runs that are refused."""

import dataclasses
import itertools
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from minilstm import config, train
from minilstm.backend import use_backend
from minilstm.command import run_command
from minilstm.errors import ConfigError
from minilstm.layers import linear
from minilstm.layers.workspace import Reused
from minilstm.runs import build
from minilstm.training import loop, pace, resources
from minilstm.training.progress import Progress


def small(**run):
    return config.load(
        overrides={
            "data": {"frame_size": 8, "digit_size": 5},
            "model": {"hidden": 16},
            "run": {"batch_size": 64, "steps": 1} | run,
        }
    )


@pytest.mark.parametrize("rule, copies", [("adam", 4), ("rmsprop", 4), ("sgd", 3)])
def test_the_memory_of_weights_is_counted_without_making_them(rule, copies):
    settings = small()
    settings = dataclasses.replace(
        settings, optimizer=dataclasses.replace(settings.optimizer, rule=rule)
    )
    model = build.build_model(settings, 64)
    assert resources.weights_memory(settings, 64) == copies * model.flat().value.nbytes


def test_a_blank_model_has_the_shapes_of_the_real_one():
    settings = small()
    blank = build.build_model(settings, 64, resources.Blank()).params()
    real = build.build_model(settings, 64).params()
    assert {k: p.value.shape for k, p in blank.items()} == {
        k: p.value.shape for k, p in real.items()
    }
    assert {p.value.dtype for p in blank.values()} == {np.dtype("float32")}


def test_asking_for_the_size_of_a_huge_model_takes_neither_memory_nor_time():
    ask = (
        "import resource; from minilstm import config\nfrom minilstm.training import resources\n"
        "settings = config.load(['table2-composite'], None, {'model': {'hidden': 8192}})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(resources.weights_memory(settings, 4096))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    size, grown = map(int, found.stdout.split())
    assert size > 40e9 and 1024 * grown < 50e6


@pytest.mark.parametrize("memory, block", [("full", 5000), ("recompute=3", 1 << 22)])
@pytest.mark.parametrize("cell", ["peephole", "slides-lstm", "elman"])
@pytest.mark.parametrize("conditional", ["none", "both"])
def test_small_models_of_the_same_proportions_tell_the_memory_of_a_large_one(
    monkeypatch, conditional, cell, memory, block
):
    settings = config.load(
        overrides={
            "data": {"past": 3, "future": 4},
            "model": {"hidden": 94, "cell": cell, "conditional": conditional},
            "run": {"memory": memory},
        }
    )
    model = build.build_model(settings, 188)
    monkeypatch.setattr(linear, "BLOCK", block)
    told = resources.memory_of(model, settings)
    monkeypatch.setattr(resources, "SCALES", (94,))  # none is smaller
    assert told == resources.memory_of(model, settings)


@pytest.mark.parametrize("model", [{}, {"layers": 3, "dropout": 0.5}, {"conditional": "both"}])
def test_training_and_validation_take_no_more_buffers_than_was_told(tmp_path, monkeypatch, model):
    """Validation has 200 sequences. Unless they are cheap, it decodes a batch at a time."""
    monkeypatch.setattr(resources, "VALIDATION_BYTES", 0)
    settings = config.load(
        overrides={
            "data": {"frame_size": 12, "digit_size": 6, "past": 6, "future": 6},
            "model": {"hidden": 48} | model,
            "run": {"batch_size": 3, "steps": 2, "validate_every": 1},
        }
    )
    D = 144
    memory = resources.memory_of(build.build_model(settings, D), settings)
    waiting = 5 * 3 * 12 * D * 4
    told = memory.needed(3) - waiting - resources.weights_memory(settings, D)
    pools = []

    class Watched(Reused):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            pools.append(self)

    with mock.patch.object(loop, "Reused", Watched), mock.patch.object(Progress, "draw"):
        loop.train(settings, tmp_path / "run", quiet=True)
    assert pools and sum(pool.nbytes for pool in pools) <= 1.01 * told


def test_validation_decodes_many_sequences_at_a_time_if_they_are_cheap():
    assert resources.Memory(0, 10_000).validation_chunk(3) == 200
    assert resources.Memory(0, 1_000_000).validation_chunk(3) == 100
    assert resources.Memory(0, 50_000_000).validation_chunk(3) == 3
    assert resources.Memory(0, 50_000_000).validation_chunk(256) == 256


def test_a_users_cell_is_not_measured_at_smaller_sizes(tmp_path):
    file = tmp_path / "four.py"
    file.write_text(
        "from minilstm.layers.lstm import LSTM\n"
        "class Fours(LSTM):\n"
        "    def __init__(self, D, H, rng, init=None):\n"
        "        assert H % 4 == 0\n"
        "        super().__init__(D, H, rng, *([init] if init else []))\n"
    )
    settings = config.load(overrides={"model": {"hidden": 128, "cell": f"{file}:Fours"}})
    resources.memory_of(build.build_model(settings, 64), settings)


def test_the_memory_of_the_slides_size_is_told_without_a_step_of_it(monkeypatch):
    measured = []
    step = resources._buffers_of_a_step
    monkeypatch.setattr(
        resources,
        "_buffers_of_a_step",
        lambda model, *rest: measured.append(model.D) or step(model, *rest),
    )
    settings = config.load(["table2-composite", "large"])
    with use_backend("numpy", "float32"):
        model = build.build_model(settings, 4096, resources.Blank())
        needed = resources.memory_of(model, settings).needed(256)
    assert max(measured) < 100
    assert 4e9 < needed < 6e9


def test_weights_beyond_memory_are_refused_before_they_are_drawn(monkeypatch):
    monkeypatch.setattr(resources, "free_memory", lambda: 10**4)
    with pytest.raises(ConfigError, match="lower --hidden or --layers"):
        resources.refuse_weights(small(), 64)


def test_a_step_beyond_memory_is_refused_with_what_would_fit(monkeypatch):
    settings = small()
    memory = resources.memory_of(build.build_model(settings, 64), settings)
    monkeypatch.setattr(resources, "free_memory", lambda: memory.needed(64) - 1)
    with pytest.raises(ConfigError) as caught:
        resources.refuse_memory(memory, settings)
    assert "--batch-size 63 would fit" in str(caught.value)
    assert "--memory recompute=3" in str(caught.value)
    monkeypatch.setattr(resources, "free_memory", lambda: memory.needed(64))
    resources.refuse_memory(memory, settings)


def test_recomputation_is_not_advised_to_those_who_use_it(monkeypatch):
    settings = small(memory="recompute=2")
    memory = resources.memory_of(build.build_model(settings, 64), settings)
    monkeypatch.setattr(resources, "free_memory", lambda: memory.needed(0))
    with pytest.raises(ConfigError) as caught:
        resources.refuse_memory(memory, settings)
    assert "recompute" not in str(caught.value) and "--batch-size" not in str(caught.value)


def test_a_run_too_large_for_this_machine_ends_in_one_line_and_leaves_no_folder(tmp_path, capsys):
    out = tmp_path / "run"
    status = run_command(lambda: train.main(["--hidden", "200000", "--out", str(out)]))
    printed = capsys.readouterr()
    assert status == 2 and printed.err.count("\n") == 1 and "memory" in printed.err
    assert not out.exists()


def test_free_memory_is_a_sensible_number():
    assert 2**20 < resources.free_memory() < 2**50


# ---------------------------------------------------------------- the pace of training


def test_the_pace_is_that_of_the_training_step(monkeypatch):
    """The first steps, which take longer, do not count."""
    clock, steps = [0.0], itertools.count()

    def step(*_):
        clock[0] += 0.02 if next(steps) >= pace.WARM else 1

    monkeypatch.setattr(pace, "training_step", step)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
    assert pace.seconds_per_step(small(), timed=4) == pytest.approx(0.02)


def test_steps_are_timed_with_batches_of_the_run_and_leave_its_settings_alone(monkeypatch):
    seen = []
    step = pace.training_step
    monkeypatch.setattr(pace, "training_step", lambda *args: (seen.append(args[2]), step(*args)))
    assert pace.seconds_per_step(small(), timed=2) > 0
    assert len(seen) == pace.WARM + 2 and {x.past.shape for x in seen} == {(10, 64, 64)}


def test_a_run_of_another_length_ends_with_its_schedule():
    settings = config.load(
        ["table2-conditional-composite", "large"],
        overrides={"feeding": {"inputs": "scheduled", "truth_steps": 11_133}},
    )
    shorter = pace.with_steps(settings, 4_000)
    assert shorter.run.steps == shorter.optimizer.schedule_steps == 4_000
    assert shorter.feeding.truth_steps == 3_000, "three quarters of the run, as before"
    assert build.build_schedule(shorter)(4_000) == pytest.approx(0.02 * 8e-4)
    plain = config.load(["table2-composite", "large"])
    assert pace.with_steps(plain, plain.run.steps) == plain
