"""Runs that are interrupted, resumed, extended, fought over, or fed numbers that are not finite."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors import safe_open
from small import small

import minilstm
from minilstm import config, evaluate, train
from minilstm.command import Interrupted, run_command
from minilstm.data import fingerprint
from minilstm.errors import NonFiniteError, RunError
from minilstm.evaluation import judging
from minilstm.runs import build, checkpoint, run_folder
from minilstm.training import batches, loop, progress
from minilstm.training.batches import draw_batch
from minilstm.training.step import training_step

TINY = small(run={"steps": 12, "log_every": 3, "validate_every": 4})
FLAGS = (
    "--frame-size 8 --digit-size 5 --num-digits 1 --past 3 --future 3 --hidden 6 --batch-size 4 "
    "--log-every 3 --validate-every 4"
).split()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes a second and is not what these tests are about."""
    monkeypatch.setattr(progress.Progress, "draw", lambda self: None)


def tiny(**changes):
    tree = {name: dict(values) for name, values in TINY.items()}
    for name, values in changes.items():
        tree[name] = tree.get(name, {}) | values
    return config.load(overrides=tree)


def weights(run):
    arrays, about = checkpoint.read(run / "checkpoint.safetensors")
    return arrays, about


def same(one, two):
    """Assert that two runs ended in the same state, to the bit, and logged the same."""
    (a, about_a), (b, about_b) = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
    for name in ("step", "optimizer_steps", "best", "usual", "interval"):
        assert about_a[name] == about_b[name], name
    logs = []
    for run in (one, two):
        rows = run_folder.read_log(run / "metrics.jsonl")
        logs.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert logs[0] == logs[1]
    return True


def stop_after(monkeypatch, steps, error=None):
    """Make the run end, as if by a signal or an error, when `steps` steps are done."""
    real, made = training_step, []

    def step(*arguments):
        if len(made) == steps:
            if error:
                raise error
            os.kill(os.getpid(), signal.SIGTERM)
        made.append(None)
        return real(*arguments)

    monkeypatch.setattr(loop, "training_step", step)
    return lambda: monkeypatch.setattr(loop, "training_step", real)


def interrupted_then_resumed(settings, out, monkeypatch, steps):
    again = stop_after(monkeypatch, steps)
    with pytest.raises(Interrupted):
        loop.train(settings, out, quiet=True)
    again()
    loop.train(settings, out, quiet=True, resume=True)


# ------------------------------------------------------------------------- to the same last bit


MODES = [
    {"model": {"kind": kind, "conditional": conditional}, "feeding": {"inputs": inputs}}
    for kind, conditional, inputs in (
        ("composite", "none", "truth"),
        ("composite", "both", "truth"),
        ("composite", "both", "own"),
        ("composite", "both", "scheduled"),
        ("composite", "future", "scheduled"),
        ("composite", "reconstruction", "own"),
        ("autoencoder", "none", "truth"),
        ("autoencoder", "reconstruction", "scheduled"),
        ("predictor", "future", "own"),
    )
]
RULES = [
    {"optimizer": {"rule": rule, "schedule": schedule, "warmup_steps": 5, "decay_every": 4}}
    for rule, schedule in (("adam", "cosine"), ("rmsprop", "constant"), ("sgd", "exponential"))
]
OTHERS = [
    {"model": {"layers": 2, "dropout": 0.3}},
    {"model": {"cell": "elman", "start": "read"}},
    {"model": {"cell": "slides-lstm"}},
    {"run": {"precision": "float64"}},
    {"data": {"speed": "random", "num_digits": 2}},
    {"optimizer": {"rule": "sgd", "clamp_update": 1e-3, "l2": 1e-3}},
]


@pytest.mark.parametrize("changes", MODES + RULES + OTHERS, ids=str)
def test_an_interrupted_run_ends_in_the_same_bits_as_one_that_was_not(
    tmp_path, monkeypatch, changes
):
    settings = tiny(**changes)
    loop.train(settings, tmp_path / "straight", quiet=True)
    # after 7 of 12 steps: within an interval of the log, between validations
    interrupted_then_resumed(settings, tmp_path / "resumed", monkeypatch, 6)
    assert same(tmp_path / "straight", tmp_path / "resumed")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, train_undrawn):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train_undrawn(TINY, run)
    return run


@pytest.mark.parametrize("steps", range(12))
def test_a_run_may_be_interrupted_after_any_step(tmp_path, monkeypatch, straight, steps):
    interrupted_then_resumed(tiny(), tmp_path / "resumed", monkeypatch, steps)
    assert same(straight, tmp_path / "resumed")


def test_a_crash_between_checkpoints_repeats_the_lost_steps_exactly(tmp_path, monkeypatch):
    """The process dies at once: what was logged after the checkpoint is logged anew."""
    settings = tiny(run={"checkpoint_every": 4})
    loop.train(settings, tmp_path / "straight", quiet=True)
    again = stop_after(monkeypatch, 11, SystemExit("dead"))
    save = progress.Progress.save
    monkeypatch.setattr(progress.Progress, "save", lambda run: run.step % 4 == 0 and save(run))
    with pytest.raises(SystemExit):
        loop.train(settings, tmp_path / "crashed", quiet=True)
    assert weights(tmp_path / "crashed")[1]["step"] == 8
    assert run_folder.read_log(tmp_path / "crashed" / "metrics.jsonl")[-1]["step"] == 9
    with open(tmp_path / "crashed" / "metrics.jsonl", "a") as log:
        log.write('{"step": 11, "fut')  # torn
    again()
    monkeypatch.setattr(progress.Progress, "save", save)
    loop.train(settings, tmp_path / "crashed", quiet=True, resume=True)
    assert same(tmp_path / "straight", tmp_path / "crashed")


def test_a_run_killed_in_its_first_steps_starts_again(tmp_path, monkeypatch, capsys, straight):
    again = stop_after(monkeypatch, 5, SystemExit("dead"))
    save, saves = progress.Progress.save, []
    monkeypatch.setattr(  # the one before the first step, and none when it dies
        progress.Progress, "save", lambda run: saves or (saves.append(1), save(run))
    )
    with pytest.raises(SystemExit):
        loop.train(tiny(), tmp_path / "crashed", quiet=True)
    monkeypatch.setattr(progress.Progress, "save", save)
    again()
    assert weights(tmp_path / "crashed")[1]["step"] == 0
    assert log(tmp_path / "crashed")[-1]["step"] == 4
    train.main(["--resume", str(tmp_path / "crashed")])
    assert "resumed   before the first step: none was made" in capsys.readouterr().out
    assert same(straight, tmp_path / "crashed")


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, capsys, straight):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.toml").write_text(tiny().to_toml())
    train.main(["--resume", str(tmp_path / "begun")])
    assert "resumed   before the first step: none was made" in capsys.readouterr().out
    assert same(straight, tmp_path / "begun")


def test_a_run_whose_checkpoint_is_lost_is_refused_and_left_as_it_is(tmp_path, capsys):
    """Such as a copy that was made without the large files."""
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 12, "--checkpoint-every", 3, "--keep", 2, "--out", run)
    (run / "checkpoint.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    for force in ([], ["--force"]):
        message = refused(capsys, "--resume", run, *force)
        newest = run / "checkpoint-0000000012.safetensors"
        assert f"cp {newest} {run / 'checkpoint.safetensors'}" in message
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    for path in run.glob("checkpoint-*"):
        path.unlink()
    message = refused(capsys, "--resume", run)
    assert "copy it from where the run was made, or train anew by --force --config" in message
    for name in ("metrics.jsonl", "best.safetensors"):
        assert (run / name).read_bytes() == before[name]


def test_the_remedy_for_a_lost_checkpoint_works(tmp_path, capsys):
    for name in ("run", "straight"):
        main(*FLAGS, "--steps", 6, "--checkpoint-every", 3, "--keep", 2, "--out", tmp_path / name)
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    command = re.search(r"cp (\S+ \S+)", refused(capsys, "--resume", tmp_path / "run"))[1]
    shutil.copy(*command.split())
    for name in ("run", "straight"):
        main("--resume", tmp_path / name, "--extend-to", 9)
    assert same(tmp_path / "run", tmp_path / "straight")


def test_n_steps_extended_to_2n_equal_2n_steps(tmp_path):
    main(*FLAGS, "--steps", 24, "--out", tmp_path / "straight")
    main(*FLAGS, "--steps", 12, "--out", tmp_path / "extended")
    main("--resume", tmp_path / "extended", "--extend-to", 24)
    assert same(tmp_path / "straight", tmp_path / "extended")
    assert config.from_toml(tmp_path / "extended" / "config.toml").run.steps == 24


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    main(*FLAGS, "--steps", 6, "--out", tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    main("--resume", tmp_path / "run")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}


def test_what_resume_did_not_restore_would_show(tmp_path, monkeypatch, straight):
    """The comparison itself can fail: forget the optimizer, and the bits differ."""
    again = stop_after(monkeypatch, 6)
    with pytest.raises(Interrupted):
        loop.train(tiny(), tmp_path / "resumed", quiet=True)
    again()
    monkeypatch.setattr(checkpoint, "fill_optimizer", lambda *arguments: None)
    loop.train(tiny(), tmp_path / "resumed", quiet=True, resume=True)
    with pytest.raises(AssertionError):
        same(straight, tmp_path / "resumed")


# ------------------------------------------------------------------------- what resume refuses


def main(*arguments):
    return train.main([*map(str, arguments), "--quiet"])


def refused(capsys, *arguments):
    status = run_command(lambda: main(*arguments))
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and ": expected" in f": {printed.err[7:]}"
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    "others", [["paper"], ["--hidden", "7"], ["--out", "x"], ["--config", "x.toml"]], ids=str
)
def test_a_resumed_run_keeps_its_own_settings(tmp_path, capsys, others):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    assert "no settings beside --resume" in refused(capsys, "--resume", tmp_path / "run", *others)


def test_settings_that_do_not_touch_the_numbers_may_change(tmp_path, capsys):
    main(*FLAGS, "--steps", 6, "--out", tmp_path / "whole")
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    main("--resume", tmp_path / "run", "--extend-to", 6, "--minutes", 5, "--keep", 2)
    (whole, _), (resumed, _) = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all((whole[name] == resumed[name]).all() for name in whole)
    settings = build.read_config(tmp_path / "run").run
    assert (settings.minutes, settings.keep) == (5, 2)
    assert "--backend cupy" in refused(capsys, "--resume", tmp_path / "run", "--no-graph")


def test_extending_needs_a_run_and_more_steps_than_it_has(tmp_path, capsys):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    assert "--extend-to >= 3" in refused(capsys, "--resume", tmp_path / "run", "--extend-to", 2)
    assert "--resume RUN" in refused(capsys, *FLAGS, "--extend-to", 9)


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path, capsys):
    assert "no config.toml" in refused(capsys, "--resume", tmp_path)
    assert "which does not exist" in refused(capsys, "--resume", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_another_environment_is_named_and_needs_force(tmp_path, monkeypatch, capsys):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    now = run_folder.environment()
    monkeypatch.setattr(progress, "environment", lambda ranks: now | {"numpy": "9.9"})
    message = refused(capsys, "--resume", tmp_path / "run", "--extend-to", 6)
    assert f"numpy 9.9, not {np.__version__}" in message and "--force" in message
    assert weights(tmp_path / "run")[1]["step"] == 3
    main("--resume", tmp_path / "run", "--extend-to", 6, "--force")
    assert weights(tmp_path / "run")[1]["step"] == 6


def test_the_environment_names_library_blas_threads_and_machine():
    found = run_folder.environment()
    assert found["numpy"] == np.__version__ and found["machine"]
    assert any(name.endswith("num_threads") for name in found)


def test_the_environment_is_the_same_where_scipy_has_brought_a_blas_of_its_own():
    code = "from minilstm.runs import run_folder; print(run_folder.environment())"
    found = {
        subprocess.check_output([sys.executable, "-c", before + code])
        for before in ("", "import scipy.linalg; ")
    }
    assert len(found) == 1


STATE = ("config", "step", "seconds", "best", "usual", "unusable", "interval", "environment")


def write_film(path, seed):
    """A file of 30 sequences of 20 frames, of 8x8 pixels."""
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(seed).integers(0, 256, (20, 30, 8, 8), np.uint8))
    return path


def test_data_that_were_moved_are_known_by_their_content(tmp_path, capsys):
    film = write_film(tmp_path / "here" / "film.npy", 0)
    flags = "--past 3 --future 3 --hidden 6 --batch-size 4 --log-every 3 --validate-every 4".split()
    for name, steps in (("straight", 6), ("run", 3)):
        main("--data", film, *flags, "--steps", steps, "--out", tmp_path / name)
    moved = film.rename(tmp_path / "there.npy")
    assert "check the path" in refused(capsys, "--resume", tmp_path / "run", "--extend-to", 6)
    main("--resume", tmp_path / "run", "--extend-to", 6, "--data", moved)  # needs no --force
    (a, _), (b, _) = weights(tmp_path / "run"), weights(tmp_path / "straight")
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_data_that_were_replaced_are_named_and_need_force(tmp_path, capsys):
    film = write_film(tmp_path / "film.npy", 0)
    flags = "--past 3 --future 3 --hidden 6 --batch-size 4".split()
    main("--data", film, *flags, "--steps", 3, "--out", tmp_path / "run")
    write_film(film, 1)
    message = refused(capsys, "--resume", tmp_path / "run", "--extend-to", 6)
    assert "got other sequences (38528 bytes, sha256 " in message and "--force" in message
    other = write_film(tmp_path / "other.npy", 2)
    assert "other sequences" in refused(
        capsys, "--resume", tmp_path / "run", "--extend-to", 6, "--data", other
    )
    assert weights(tmp_path / "run")[1]["step"] == 3
    main("--resume", tmp_path / "run", "--extend-to", 6, "--force")
    assert weights(tmp_path / "run")[1]["step"] == 6


def test_a_fingerprint_tells_any_change_of_a_small_file_and_the_ends_of_a_large_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fingerprint, "BLOCK", 10)
    path, found = tmp_path / "file", set()
    data = np.random.default_rng(0).bytes(161)  # of which a byte is not read
    for change in (None, 0, 80, 160):
        changed = bytearray(data)
        if change is not None:
            changed[change] ^= 1
        path.write_bytes(changed)
        found.add(fingerprint.fingerprint(path))
    path.write_bytes(data + b"x")
    assert len(found | {fingerprint.fingerprint(path)}) == 5
    for size in (0, 9, 160):
        path.write_bytes(data[:size])
        digest = hashlib.sha256(data[:size]).hexdigest()
        assert fingerprint.fingerprint(path) == f"{size} bytes, sha256 {digest}"


def test_settings_edited_by_hand_are_named_and_need_force(tmp_path, capsys):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("seed = 0", "seed = 1"))
    message = refused(capsys, "--resume", tmp_path / "run", "--extend-to", 6)
    assert "run.seed = 1, not 0" in message
    main("--resume", tmp_path / "run", "--extend-to", 6, "--force")
    assert weights(tmp_path / "run")[1]["step"] == 6


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config", "x", "TOML text, got"),
        ("step", "x", "got ValueError(\"'x' is no count\")"),
        ("step", -1, "got ValueError('-1 is no count')"),
        ("seconds", "x", "got ValueError(\"'x' is no finite number\")"),
        ("best", [], "got ValueError('[] is no finite number')"),
        ("unusable", 1.5, "got ValueError('1.5 is no count')"),
        ("interval", 3, "got TypeError("),
        ("interval", {"sums": {"future": 1}}, "got ValueError('sums over no steps')"),
        ("environment", 3, "got TypeError("),
        *((name, ..., f"got KeyError('{name}')") for name in STATE),
    ],
)
def test_a_checkpoint_without_the_state_of_a_run_is_refused(tmp_path, capsys, name, value, message):
    """All is as it was written, but for one part that is another one, or is missing (...)."""
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    about = weights(tmp_path / "run")[1]
    about = {k: v for k, v in (about | {name: value}).items() if v is not ...}
    model = minilstm.load(tmp_path / "run")
    checkpoint.save(tmp_path / "run" / "checkpoint.safetensors", model, None, about)
    assert message in refused(capsys, "--resume", tmp_path / "run")


def test_a_checkpoint_of_another_model_lists_every_array_that_is_amiss(tmp_path, capsys):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "deep", "--layers", 3)
    (tmp_path / "deep" / "checkpoint.safetensors").replace(
        tmp_path / "run" / "checkpoint.safetensors"
    )
    message = refused(capsys, "--resume", tmp_path / "run", "--force")
    for name in ("encoder.2.Wx", "reconstruct.stack.2.Wh", "predict.stack.2.b"):
        assert f"{name} is unknown" in message


# ------------------------------------------------------------------------- checkpoints on disk


def test_checkpoints_have_readable_names_and_one_text_and_any_reader_can_read_them(tmp_path):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", framework="numpy") as file:
        names = set(file.keys())
        metadata = file.metadata()
    assert {"encoder.0.Wx", "predict.readout.b", "optimizer.mean"} <= names
    assert list(metadata) == ["minilstm"] and json.loads(metadata["minilstm"])["step"] == 3


def test_writing_a_checkpoint_makes_no_second_copy_of_the_model(tmp_path):
    import tracemalloc

    model = minilstm.Composite(300, 200, 2, np.random.default_rng(0))
    size = model.flat().value.nbytes
    tracemalloc.start()
    checkpoint.save(tmp_path / "x.safetensors", model, None, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "x.safetensors").stat().st_size > size
    assert peak < size / 10


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_of_either_byte_order_keep_their_values_in_a_file(tmp_path, dtype):
    numbers = np.linspace(-2, 3, 6).astype(dtype).reshape(2, 3)
    arrays = {order: numbers.astype(numbers.dtype.newbyteorder(order)) for order in "<>"}
    checkpoint.write(tmp_path / "x.safetensors", arrays, {"minilstm": "{}"})
    found, _ = checkpoint.read(tmp_path / "x.safetensors")
    for array in found.values():
        np.testing.assert_array_equal(array, numbers)


@pytest.mark.parametrize("dtype", ["complex128", "int64", "bool"])
def test_an_array_that_is_not_of_floats_is_refused_by_its_name(tmp_path, dtype):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RunError, match=f"float16, float32, float64, got {dtype} in encoder.Wx"):
        checkpoint.write(path, {"encoder.Wx": np.ones(2, dtype)}, {"minilstm": "{}"})
    assert not path.exists()


@pytest.mark.parametrize("value", [np.int64(3), np.zeros(2), {1, 2}])
def test_a_description_that_json_cannot_hold_is_refused(tmp_path, value):
    path = tmp_path / "x.safetensors"
    model = minilstm.Linear(2, 3, np.random.default_rng(0))
    with pytest.raises(RunError, match="in `about`, got TypeError.*: use int"):
        checkpoint.save(path, model, None, {"step": value})
    assert not path.exists()


def test_checkpoints_are_as_readable_to_others_as_any_new_file(tmp_path):
    main(*FLAGS, "--steps", 1, "--out", tmp_path / "run")
    (tmp_path / "file").touch()
    mode = (tmp_path / "file").stat().st_mode
    for name in ("checkpoint.safetensors", "best.safetensors", "config.toml"):
        assert (tmp_path / "run" / name).stat().st_mode == mode


def test_the_last_checkpoints_are_kept_under_their_steps(tmp_path):
    main(*FLAGS, "--steps", 9, "--checkpoint-every", 2, "--keep", 3, "--out", tmp_path / "run")
    kept = run_folder.RunFolder(tmp_path / "run").numbered()
    assert [checkpoint.read(path)[1]["step"] for path in kept] == [6, 8, 9]
    assert [int(path.stem.partition("-")[2]) for path in kept] == [6, 8, 9]
    main(*FLAGS, "--steps", 2, "--force", "--out", tmp_path / "run")
    assert run_folder.RunFolder(tmp_path / "run").numbered() == []


def test_the_best_weights_are_those_of_the_lowest_validation_loss(tmp_path, monkeypatch):
    losses = iter([(5.0, 4.0), (3.0, 3.0), (3.5, 1.0), (1.0, 4.0), (4.0, 4.0)])

    names = ("reconstruction", "future")

    def found(*_, **keywords):
        return {
            name: (np.array(half), None) for name, half in zip(names, next(losses), strict=True)
        }

    monkeypatch.setattr(judging, "losses_and_means", found)
    often = ["--validate-every", 1, "--checkpoint-every", 1, "--keep", 9]
    main(*FLAGS, *often, "--steps", 5, "--out", tmp_path / "run")
    about = checkpoint.read(tmp_path / "run" / "best.safetensors")[1]
    assert (about["step"], about["validation loss"]) == (3, 4.5)
    best, last = minilstm.load(tmp_path / "run", best=True), minilstm.load(tmp_path / "run")
    third, _ = checkpoint.read(run_folder.RunFolder(tmp_path / "run").numbered()[2])
    for name, param in best.params().items():
        np.testing.assert_array_equal(param.value, third[name], err_msg=name)
    assert not np.array_equal(best.flat().value, last.flat().value)


# ------------------------------------------------------------------------- two at one folder


def test_a_second_process_on_one_run_folder_is_refused(tmp_path, capsys):
    main(*FLAGS, "--steps", 3, "--out", tmp_path / "run")
    hold = (
        "import sys, time; from minilstm.runs.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).claim(): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        assert "another process" in refused(capsys, "--resume", tmp_path / "run")
        assert "another process" in refused(
            capsys, *FLAGS, "--steps", 3, "--force", "--out", tmp_path / "run"
        )
        minilstm.load(tmp_path / "run")  # reading is free
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    main("--resume", tmp_path / "run")  # the lock died with its owner


# ------------------------------------------------------------------------- signals


def started(tmp_path, *arguments):
    """A real process that trains for a long time, after its first checkpoint."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "minilstm.train", *FLAGS, "--steps", "1000000", "--out", str(run)]
        + ["--checkpoint-every", "5", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not (run / "checkpoint.safetensors").exists() or weights(run)[1]["step"] < 5:
        if process.poll() is not None or time.monotonic() > until:
            process.kill()  # or it would train on, and communicate() wait for it
            pytest.fail(f"no checkpoint: {process.communicate()}")
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_finishes_the_step_writes_a_checkpoint_and_gives_its_status(tmp_path, number):
    process = started(tmp_path, "--quiet")
    try:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert errors == "interrupted\n"
    assert weights(tmp_path / "run")[1]["step"] >= 5
    minilstm.load(tmp_path / "run")


def test_a_second_signal_ends_the_process_at_once(tmp_path, monkeypatch):
    hang = (
        "import os, signal, sys, time\n"
        "from minilstm.command import stop_signals\n"
        "with stop_signals() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.received: time.sleep(0.01)\n"
        "    print('first', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", hang], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_training_in_a_thread_other_than_the_main_one_works(tmp_path):
    thread = threading.Thread(
        target=loop.train, args=(tiny(), tmp_path / "run"), kwargs={"quiet": True}
    )
    thread.start()
    thread.join()
    assert weights(tmp_path / "run")[1]["step"] == 12


def test_training_leaves_the_signal_handlers_as_it_found_them(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    loop.train(tiny(), tmp_path / "run", quiet=True)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# ------------------------------------------------------------------------- numbers not finite


def spoil(monkeypatch, steps, value=np.nan):
    """Put a number that is not finite into the batches of these steps, counted from 1."""
    draw = draw_batch

    def drawn(source, settings, k, *ranks):
        batch = draw(source, settings, k, *ranks)
        if k + 1 in steps:
            batch.past[1, 2, 3] = value
        return batch

    monkeypatch.setattr(batches, "draw_batch", drawn)


def log(run):
    return run_folder.read_log(run / "metrics.jsonl")


def test_weights_whose_losses_are_not_finite_do_not_replace_good_ones(tmp_path):
    rule = {"rule": "sgd", "learning_rate": 1e38, "clip_norm": 0.0, "schedule": "constant"}
    settings = tiny(optimizer=rule | {"warmup_steps": 0}, run={"validate_every": 0})
    with pytest.raises(
        NonFiniteError, match="newest checkpoint is .*checkpoint.safetensors of step 0"
    ):
        loop.train(settings, tmp_path / "run", quiet=True)
    assert weights(tmp_path / "run")[1]["step"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stop_names_step_number_arrays_and_the_last_good_checkpoint(tmp_path, monkeypatch, value):
    spoil(monkeypatch, {8}, value)
    settings = tiny(run={"checkpoint_every": 5})
    with pytest.raises(NonFiniteError) as caught:
        loop.train(settings, tmp_path / "run", quiet=True)
    message = str(caught.value)
    assert "in step 8" in message and "encoder.0.Wx" in message
    assert (
        f"newest checkpoint is {tmp_path / 'run' / 'checkpoint.safetensors'} of step 7" in message
    )
    assert weights(tmp_path / "run")[1]["step"] == 7
    minilstm.load(tmp_path / "run")


def test_skip_leaves_the_update_out_and_nothing_else(tmp_path, monkeypatch):
    spoil(monkeypatch, {5})
    settings = tiny(run={"on_nan": "skip", "log_every": 1})
    model = loop.train(settings, tmp_path / "run", quiet=True)
    assert np.isfinite(model.flat().value).all()
    rows = {row["step"]: row for row in log(tmp_path / "run") if "learning_rate" in row}
    assert rows[5]["skipped"] == 1 and "future" not in rows[5]
    assert "skipped" not in rows[4] and "future" in rows[6]
    assert weights(tmp_path / "run")[1]["optimizer_steps"] == 11


def test_skip_leaves_weights_and_optimizer_untouched(monkeypatch):
    from minilstm.runs import build

    settings = tiny()
    source = build.open_source(settings, "train")
    model = build.build_model(settings, 64)
    optimizer = build.build_optimizer(model, settings)
    good, bad = (draw_batch(source, settings, k) for k in range(2))
    training_step(model, optimizer, good, settings, 1e-3)
    before = [a.copy() for a in (model.flat().value, *optimizer.state.values())]
    bad.future[0, 0, 0] = np.nan
    with np.errstate(all="ignore"):
        found = training_step(model, optimizer, bad, settings, 1e-3)
    assert np.isnan(found["future"])
    after = [model.flat().value, *optimizer.state.values()]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
    assert optimizer.steps == 1


def test_rewind_goes_back_to_the_checkpoint_and_on_with_other_data(tmp_path, monkeypatch):
    spoil(monkeypatch, {8})
    settings = tiny(run={"on_nan": "rewind", "checkpoint_every": 5, "log_every": 1, "steps": 8})
    loop.train(settings, tmp_path / "rewound", quiet=True)
    assert [row.get("rewound") for row in log(tmp_path / "rewound")][-2:] == [1, None]
    straight = tiny(run={"steps": 5})
    loop.train(straight, tmp_path / "straight", quiet=True)
    a, b = weights(tmp_path / "rewound")[0], weights(tmp_path / "straight")[0]
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_rewind_before_the_first_saved_step_goes_back_to_the_start(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, {3})
    loop.train(tiny(run={"on_nan": "rewind", "steps": 4}), tmp_path / "run")
    said = f"step 3: not finite, back to {tmp_path / 'run/checkpoint.safetensors'} of step 0"
    assert said in capsys.readouterr().err
    assert weights(tmp_path / "run")[1]["optimizer_steps"] == 1  # that of step 4


@pytest.mark.parametrize("on_nan", ["skip", "rewind"])
def test_a_run_that_never_becomes_finite_again_stops(tmp_path, monkeypatch, on_nan):
    spoil(monkeypatch, range(4, 1000))
    settings = tiny(run={"on_nan": on_nan, "steps": 1000})
    with pytest.raises(NonFiniteError, match="11 steps in a row"):
        loop.train(settings, tmp_path / "run", quiet=True)
    assert np.isfinite(minilstm.load(tmp_path / "run").flat().value).all()


@pytest.mark.parametrize("on_nan", ["skip", "rewind"])
def test_a_run_with_skipped_steps_resumes_to_the_bit(tmp_path, monkeypatch, on_nan):
    spoil(monkeypatch, {5, 8})
    settings = tiny(run={"on_nan": on_nan, "checkpoint_every": 2})
    loop.train(settings, tmp_path / "straight", quiet=True)
    interrupted_then_resumed(settings, tmp_path / "resumed", monkeypatch, 5)
    assert same(tmp_path / "straight", tmp_path / "resumed")


def test_a_loss_spike_is_reported_once_per_interval_and_logged(tmp_path, monkeypatch, capsys):
    draw = draw_batch

    def drawn(source, settings, k, *ranks):
        batch = draw(source, settings, k, *ranks)
        if k in (7, 8):
            batch.past[...] = 1
            batch.future[...] = 1
        return batch

    monkeypatch.setattr(batches, "draw_batch", drawn)
    loop.train(tiny(), tmp_path / "run")
    reports = [line for line in capsys.readouterr().err.splitlines() if "rose" in line]
    assert len(reports) == 1 and "step 8: the loss rose to" in reports[0]
    assert [row.get("spikes") for row in log(tmp_path / "run") if row["step"] == 9] == [2]


def test_an_error_in_the_middle_of_an_update_does_not_overwrite_the_checkpoint(
    tmp_path, monkeypatch, straight
):
    update, calls = minilstm.Adam._update, []

    def half(self, w, *rest):
        calls.append(None)
        if len(calls) == 14:  # two chunks an update: weights, then biases
            raise MemoryError
        update(self, w, *rest)

    monkeypatch.setattr(minilstm.Adam, "_update", half)
    with pytest.raises(MemoryError):
        loop.train(tiny(run={"checkpoint_every": 5}), tmp_path / "run", quiet=True)
    assert weights(tmp_path / "run")[1]["step"] == 5
    monkeypatch.setattr(minilstm.Adam, "_update", update)
    loop.train(tiny(run={"checkpoint_every": 5}), tmp_path / "run", quiet=True, resume=True)
    assert same(straight, tmp_path / "run")


# ------------------------------------------------------------------------- a full disk


def test_a_disk_that_is_full_for_a_while_costs_one_checkpoint(tmp_path, monkeypatch, capsys):
    write, calls = checkpoint.write, []

    def full_once(path, *arguments):
        calls.append(path.name)
        if calls.count("checkpoint.safetensors") == 2 and path.name.startswith("checkpoint"):
            raise RunError(f"{path}: expected a file that can be written, got 'No space left'")
        write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write", full_once)
    loop.train(tiny(run={"checkpoint_every": 2}), tmp_path / "run", quiet=True)
    assert "warning: " in (message := capsys.readouterr().err) and "No space left" in message
    assert weights(tmp_path / "run")[1]["step"] == 12


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    write = checkpoint.write

    def full(path, arrays, metadata):
        if json.loads(metadata["minilstm"])["step"] == 12:
            raise RunError("full")
        write(path, arrays, metadata)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(RunError, match="full"):
        loop.train(tiny(run={"checkpoint_every": 5}), tmp_path / "run", quiet=True)
    assert weights(tmp_path / "run")[1]["step"] == 10


def test_best_weights_that_cannot_be_written_are_a_warning(tmp_path, monkeypatch, capsys):
    write = checkpoint.write

    def full(path, *arguments):
        if path.name.startswith("best"):
            raise RunError(f"{path}: expected a file that can be written, got 'No space left'")
        write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write", full)
    loop.train(tiny(run={"validate_every": 5}), tmp_path / "run", quiet=True)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and "best.safetensors" in said
    assert weights(tmp_path / "run")[1]["step"] == 12
    monkeypatch.undo()
    main("--resume", tmp_path / "run", "--extend-to", 20)
    said = capsys.readouterr().err
    assert "best.safetensors is lost: the next validation makes it anew" not in said
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_row_that_a_full_disk_refuses_is_in_the_log_later(tmp_path, monkeypatch, capsys):
    written, write_waiting = [], run_folder.RunFolder._write_waiting

    def full_twice(folder):
        written.append(1)
        if len(written) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_waiting(folder)

    monkeypatch.setattr(run_folder.RunFolder, "_write_waiting", full_twice)
    main(*FLAGS, "--steps", 12, "--out", tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and "metrics.jsonl" in said
    rows = run_folder.read_log(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "learning_rate" in row] == [3, 6, 9, 12]


# ------------------------------------------------------------------------- what is told


def test_what_force_accepts_is_printed_and_recorded(tmp_path, capsys):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 4, "--out", run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("seed = 0", "seed = 7"))
    main("--resume", run, "--extend-to", 8, "--force")
    assert "note: --force accepts run.seed = 7, not 0" in capsys.readouterr().err
    main("--resume", run, "--extend-to", 9)
    assert capsys.readouterr().err == ""
    about = checkpoint.read(run / "checkpoint.safetensors")[1]
    assert about["forced"] == ["after step 4: run.seed = 7, not 0"]


def test_a_finished_run_that_force_changes_records_it_at_once(tmp_path, capsys):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 4, "--out", run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("learning_rate = 0.003", "learning_rate = 0.002"))
    main("--resume", run, "--force")
    about = checkpoint.read(run / "checkpoint.safetensors")[1]
    assert about["step"] == 4 and "learning_rate = 0.002" in about["forced"][0]
    minilstm.load(run)


def test_an_unreadable_source_file_ends_no_run(tmp_path, monkeypatch):
    package = tmp_path / "minilstm"
    (package / "runs").mkdir(parents=True)
    (package / "x.py").mkdir()
    (package / ".#lstm.py").symlink_to("user@host.123")  # an editor's lock
    before = run_folder.source_hash()
    monkeypatch.setattr(run_folder, "__file__", str(package / "runs" / "run_folder.py"))
    run_folder.source_hash.cache_clear()
    assert run_folder.source_hash() != before
    run_folder.source_hash.cache_clear()


def test_a_copy_of_the_users_own_is_no_kept_checkpoint(tmp_path):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 2, "--checkpoint-every", 1, "--keep", 2, "--out", run)
    for name in ("checkpoint-good.safetensors", "checkpoint-0000000001-mine.safetensors"):
        shutil.copyfile(run / "checkpoint.safetensors", run / name)
    main("--resume", run, "--extend-to", 6)
    names = sorted(path.name for path in run.glob("checkpoint-*"))
    steps = [f"checkpoint-000000000{step}.safetensors" for step in (5, 6)]
    assert names == sorted(["checkpoint-good.safetensors", *steps,
                            "checkpoint-0000000001-mine.safetensors"])  # fmt: skip


def test_other_code_of_the_package_is_told(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 4, "--out", run)
    monkeypatch.setattr(progress, "source_hash", lambda: "another")
    main("--resume", run, "--extend-to", 6)
    assert "note: minilstm's source files have changed" in capsys.readouterr().err


def test_rows_that_a_log_has_lost_are_told(tmp_path, capsys):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 8, "--out", run)
    (run / "metrics.jsonl").unlink()
    main("--resume", run, "--extend-to", 9)
    assert "metrics.jsonl has lost its rows after step 0" in capsys.readouterr().err
    main("--resume", run, "--extend-to", 10)
    assert capsys.readouterr().err == ""


def test_kept_checkpoints_of_an_earlier_continuation_are_told_and_stay(tmp_path, capsys):
    run = tmp_path / "run"
    main(*FLAGS, "--steps", 8, "--checkpoint-every", 2, "--keep", 2, "--out", run)
    shutil.copyfile(run / "checkpoint-0000000006.safetensors", run / "checkpoint.safetensors")
    about = checkpoint.read(run / "checkpoint.safetensors")[1]
    main("--resume", run, "--minutes", 1e-9)  # one step
    assert "note: checkpoint-0000000008.safetensors and later ones" in capsys.readouterr().err
    kept = run_folder.RunFolder(run).numbered()
    assert about["step"] == 6
    assert [checkpoint.read(path)[1]["step"] for path in kept] == [6, 7, 8]


def test_a_schedule_that_ends_before_the_run_is_told(tmp_path, capsys):
    train.main([*FLAGS, "--steps", "4", "--schedule-steps", "3", "--out", str(tmp_path / "run")])
    assert "schedule  the learning rate is 3e-05 from step 3 on" in capsys.readouterr().out


def test_a_folder_with_settings_of_another_program_is_no_run(tmp_path, capsys):
    (tmp_path / "config.toml").write_text("[tool]\n")
    assert "with other files in it" in refused(capsys, *FLAGS, "--force", "--out", tmp_path)
    assert (tmp_path / "config.toml").read_text() == "[tool]\n"


# ------------------------------------------------------------------------- the log


@pytest.mark.parametrize(
    "line", ["[]", "{}", "null", '{"step": true}', '{"step": 1.5}', '{"step": -1}', "{", "\xff",
             '{"step": 1, "x": "y"}', "[" * 100_000], ids=lambda line: line[:20]
)  # fmt: skip
def test_a_log_line_that_is_no_row_is_refused_by_its_number(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n", encoding="latin-1")
    with pytest.raises(RunError, match="in line 2"):
        run_folder.read_log(path)


def test_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "fu')
    assert run_folder.read_log(path) == [{"step": 1}]


def test_the_pictures_of_a_resumed_run_show_all_of_it(tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = tiny()
    again = stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        loop.train(settings, tmp_path / "run", quiet=True)
    names = ("curves.png", "prediction.png", "prediction.gif")
    half = [(tmp_path / "run" / name).read_bytes() for name in names]  # a stopped run draws, too
    again()
    loop.train(settings, tmp_path / "run", quiet=True, resume=True)
    whole = [(tmp_path / "run" / name).read_bytes() for name in names]
    assert all(before != after for before, after in zip(half, whole, strict=True))
    assert evaluate.main([str(tmp_path / "run"), "--json"]) == 0


def test_a_run_says_what_it_wrote_and_what_to_type_next(tmp_path, monkeypatch, capsys):
    run = tmp_path / "my run"
    again = stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        loop.train(tiny(), run)
    said = capsys.readouterr().out
    assert "made      6 of" in said
    assert (
        "wrote     metrics.jsonl, checkpoint.safetensors, best.safetensors, config.toml in" in said
    )
    assert f"python -m minilstm.train --resume '{run}'  " in said
    again()
    loop.train(tiny(), run, resume=True)
    said = capsys.readouterr().out
    assert "--resume" not in said
    assert f"python -m minilstm.evaluate '{run}'  judge it" in said
    assert f"python -m minilstm.report '{run}'" in said
    loop.train(tiny(), run, force=True, quiet=True)
    assert capsys.readouterr().out == ""


def test_what_a_run_says_to_type_next_works_in_a_folder_with_a_dash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main([*map(str, FLAGS), "--steps", "2", "--out=-dash"])
    assert "python -m minilstm.evaluate ./-dash " in capsys.readouterr().out
    train.main(["--resume", "./-dash", "--extend-to", "3"])
    assert "python -m minilstm.evaluate ./-dash " in capsys.readouterr().out
    os.unlink("./-dash/checkpoint.safetensors")
    assert "--config ./-dash/config.toml --out ./-dash" in refused(capsys, "--resume", "./-dash")


def test_resume_without_a_run_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit) as exit:
        main("--resume")
    assert exit.value.code == 2
    assert "argument --resume: expected a value after it" in capsys.readouterr().err
