"""Evaluation: the numbers of a run, computed a second time, slowly; and what a loaded run does."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import small

import minilstm
from minilstm import config, evaluate, report, train, visualize
from minilstm.command import run_command
from minilstm.data import as_vectors
from minilstm.errors import ConfigError, MinilstmError, RunError, ShapeError
from minilstm.evaluation import judging, metrics
from minilstm.experiments import run_figures
from minilstm.layers.workspace import Reused, use_workspace
from minilstm.runs import build, checkpoint
from minilstm.runs.run_folder import RunFolder
from minilstm.training import loop
from minilstm.training.progress import Progress

DATA = os.environ.get("MINILSTM_DATA")
TINY = small(
    data={"future": 4},
    model={"hidden": 8},
    run={"batch_size": 8, "steps": 40},
    optimizer={"learning_rate": 0.02},
)
KINDS = {
    "unconditional": {"conditional": "none"},
    "conditional": {"conditional": "both", "layers": 2},
    "autoencoder": {"kind": "autoencoder", "conditional": "reconstruction"},
    "predictor": {"kind": "predictor", "start": "read"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a trained run of every kind."""
    top, draw = tmp_path_factory.mktemp("runs"), Progress.draw
    Progress.draw = lambda run: None  # pictures take longer than the training
    try:
        for name, model in KINDS.items():
            tables = TINY | {"model": TINY["model"] | model}
            loop.train(config.load(overrides=tables), top / name, quiet=True)
    finally:
        Progress.draw = draw
    return top


@pytest.fixture(scope="module")
def test_file(tmp_path_factory):
    """A .npy file of 13 sequences in the layout (T, N, H, W), and the array in it."""
    frames = np.random.default_rng(5).integers(0, 256, (20, 13, 8, 8), np.uint8)
    path = tmp_path_factory.mktemp("data") / "time_first.npy"
    np.save(path, frames)
    return path, frames


def judged(capsys, *arguments):
    """The dictionary that `evaluate --json` prints."""
    assert run_command(lambda: evaluate.main([*map(str, arguments), "--json"])) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def printed_table(capsys, *arguments):
    """The rows that `evaluate` prints: {label: [numbers]}, and the whole text."""
    assert run_command(lambda: evaluate.main([*map(str, arguments)])) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = {}
    table, _, _ = printed.out.partition("the predicted frames, ")
    for line in table.splitlines():
        label, numbers = line[:36].strip(), line[36:].split()
        if label and numbers and numbers[0][0].isdigit():
            rows[label] = [float(x) for x in numbers]
    return rows, printed.out


def parts(result):
    """(label, numbers) of everything a table shows."""
    for name in ("future", "reconstruction"):
        for mode, numbers in result.get(name, {}).items():
            yield f"{name}, {mode.replace('_', '-')}", numbers
    yield from result["baselines"].items()


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_and_the_json_say_the_same(runs, capsys, kind):
    result = judged(capsys, runs / kind, "--sequences", 50)
    rows, text = printed_table(capsys, runs / kind, "--sequences", 50)
    expected = dict(parts(result))
    assert rows.keys() == expected.keys()
    for label, numbers in expected.items():
        steps = numbers["per_step"]
        shown = [numbers["mean"], steps[0], steps[(len(steps) - 1) // 2], steps[-1]]
        np.testing.assert_allclose(rows[label][:4], shown, atol=0.0501)
        if "sharpness" in numbers:
            assert rows[label][4] == pytest.approx(numbers["sharpness"], abs=0.00501)
    assert "50 sequences, nats per frame" in text


def test_several_runs_are_judged_one_after_the_other_and_compared(runs, tmp_path, capsys):
    names = [str(runs / kind) for kind in ("unconditional", "autoencoder", "predictor")]
    alone = [printed_table(capsys, name, "--sequences", 5)[1] for name in names]
    words = (*names, names[0], "--sequences", 5)
    _, text = printed_table(capsys, *words)
    for name, table in zip(names, alone, strict=True):
        assert text.count(f"{name}\n\n{table}\n") == 1
    found = judged(capsys, *words)
    assert found == {name: judged(capsys, name, "--sequences", 5) for name in names}
    *_, about, empty, head, composite, autoencoder, predictor = text.splitlines()
    assert about == "3 runs on the same frames, nats per frame" and empty == ""
    assert head.split() == ["free-running", "future", "reconstruction", "sharpness"]
    future, rebuilt = (
        found[names[0]][part]["free_running"] for part in ("future", "reconstruction")
    )
    assert composite.split() == [
        names[0], f"{future['mean']:.1f}", f"{rebuilt['mean']:.1f}", f"{future['sharpness']:.2f}"
    ]  # fmt: skip
    assert autoencoder.split()[1::2] == ["-", "-"] and predictor.split()[2] == "-"
    with pytest.raises(ConfigError, match="expected --keep with one RUN, got 3"):
        evaluate.main([*names, "--keep", str(tmp_path / "kept.npz")])


def test_runs_on_other_frames_get_no_common_table(runs, tmp_path, capsys, train_undrawn):
    other = small(data={"future": 3}, model={"hidden": 8}, run={"steps": 1})
    train_undrawn(other, tmp_path / "other")
    words = (runs / "predictor", tmp_path / "other", "--sequences", 5)
    text = printed_table(capsys, *words)[1]
    assert text.splitlines()[-1].startswith("no common table: ") and "same frames" not in text
    assert judged(capsys, *words).keys() == {str(runs / "predictor"), str(tmp_path / "other")}


def test_the_step_of_the_weights_is_said_while_a_run_still_trains(runs, capsys):
    with RunFolder(runs / "predictor").claim():
        evaluate.main([str(runs / "predictor"), "--sequences", "2", "--json"])
    printed = capsys.readouterr()
    assert printed.err == f"weights   of step 40: {runs / 'predictor'} still trains\n"
    assert json.loads(printed.out)["sequences"] == 2


def test_best_takes_the_weights_of_the_other_file(runs, tmp_path, capsys, monkeypatch):
    run, same = tmp_path / "run", tmp_path / "same"
    shutil.copytree(runs / "predictor", run)
    other = minilstm.load(run)
    other.flat().value[:] += 0.1
    checkpoint.save(run / "best.safetensors", other, None, {"step": 1, "D": other.D})
    shutil.copytree(run, same)
    shutil.copy(same / "best.safetensors", same / "checkpoint.safetensors")
    words = ("--sequences", 5)
    best = judged(capsys, run, *words, "--best")
    assert best == judged(capsys, same, *words) != judged(capsys, run, *words)

    opened = []
    monkeypatch.setattr(visualize, "draw", lambda runs, *_: opened.extend(runs))
    assert visualize.main([str(run), "--best"]) == visualize.main([str(run)]) == 0
    opened += run_figures.open_runs([run], best=True) + run_figures.open_runs([run])
    found = [minilstm.load(run, best=True), minilstm.load(run), *(r.trained for r in opened)]
    for k, model in enumerate(found):
        is_best = np.array_equal(model.flat().value, other.flat().value)
        assert is_best == (k % 2 == 0), k


@pytest.mark.skipif(DATA is None, reason="needs the real MNIST files: set MINILSTM_DATA")
def test_other_digits_are_other_test_sequences(runs, capsys):
    words = (runs / "predictor", "--sequences", 5)
    assert judged(capsys, *words, "--digits", Path(DATA, "mnist")) != judged(capsys, *words)


def nats(truth, p):
    """Cross-entropy per step, one pixel at a time in float64: what the slides' Table 2 counts."""
    T, N, D = truth.shape
    total = np.zeros(T)
    for t in range(T):
        for n in range(N):
            for y, q in zip(truth[t, n].tolist(), p[t, n].tolist(), strict=True):
                total[t] -= y * np.log(q) if y > 0 else 0
                total[t] -= (1 - y) * np.log(1 - q) if y < 1 else 0
    return total / N


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_a_slow_computation(runs, capsys, kind):
    N, past = 5, 3
    result = judged(capsys, runs / kind, "--sequences", N)
    settings, model = build.read_config(runs / kind), minilstm.load(runs / kind)
    frames = as_vectors(build.open_source(settings, "test").batch(0, 200))[:, :N]
    for mode, feed_truth in (("free_running", False), ("teacher_forced", True)):
        means = ([], [])
        for n in range(N):  # one sequence at a time
            x = frames[:, n : n + 1]
            outputs, _ = model.forward(x[:past], x[past:], 4, feed_truth)
            for mean, z in zip(means, outputs, strict=True):
                mean.append(None if z is None else 1 / (1 + np.exp(-z.astype(np.float64))))
        rebuilt, predicted = means
        for name, found, truth in (
            ("reconstruction", rebuilt, frames[:past][::-1]),
            ("future", predicted, frames[past:]),
        ):
            if found[0] is None or mode not in result.get(name, {}):
                continue
            per_step = nats(truth, np.concatenate(found, axis=1))
            per_step = per_step[::-1] if name == "reconstruction" else per_step
            np.testing.assert_allclose(result[name][mode]["per_step"], per_step, rtol=1e-4)
            assert result[name][mode]["mean"] == pytest.approx(per_step.mean(), rel=1e-4)


def test_the_baselines_are_those_of_the_test_sequences_and_the_training_mean(runs, capsys):
    result = judged(capsys, runs / "conditional", "--sequences", 9)["baselines"]
    settings = build.read_config(runs / "conditional")
    frames = as_vectors(build.open_source(settings, "test").batch(0, 200))[:, :9]
    source = build.open_source(settings, "train")
    batches = [as_vectors(source.batch(k, 200)).reshape(-1, 64) for k in range(10)]
    mean = np.concatenate(batches).astype(np.float64).mean(axis=0)
    expected = metrics.baselines(frames[:3], frames[3:], mean.astype("float32"))
    assert result.keys() == expected.keys()
    for name, per_step in expected.items():
        np.testing.assert_allclose(result[name]["per_step"], per_step, rtol=1e-4)
    assert result["p = 0.5"]["mean"] == pytest.approx(64 * np.log(2))
    assert result["entropy bound"]["mean"] < result["mean image"]["mean"]


def test_free_running_and_teacher_forced_are_two_numbers_of_a_conditional_decoder(runs, capsys):
    result = judged(capsys, runs / "conditional", "--sequences", 50)
    for name, latest in (("reconstruction", 0), ("future", -1)):  # one is made last frame first
        free, forced = (result[name][mode] for mode in ("free_running", "teacher_forced"))
        assert free["mean"] != forced["mean"]
        assert free["per_step"][latest] != forced["per_step"][latest]
    # the first frame a decoder makes has been fed nothing yet, in either mode
    free, forced = (result["future"][mode] for mode in ("free_running", "teacher_forced"))
    assert free["per_step"][0] == pytest.approx(forced["per_step"][0], rel=1e-5)
    _, text = printed_table(capsys, runs / "conditional", "--sequences", 50)
    assert "free-running" in text and "teacher-forced" in text


def test_an_unconditional_model_has_no_teacher_forced_number(runs, capsys):
    for kind in ("unconditional", "predictor"):
        result = judged(capsys, runs / kind, "--sequences", 5)
        assert result["future"].keys() == {"free_running"}
        _, text = printed_table(capsys, runs / kind, "--sequences", 5)
        assert "free-running" in text and "teacher-forced" not in text


def test_a_model_is_judged_by_what_it_does(runs, capsys):
    autoencoder = judged(capsys, runs / "autoencoder", "--sequences", 5)
    assert "future" not in autoencoder and len(autoencoder["reconstruction"]["free_running"]) == 5
    assert len(autoencoder["reconstruction"]["free_running"]["per_step"]) == 3
    predictor = judged(capsys, runs / "predictor", "--sequences", 5)
    assert "reconstruction" not in predictor
    assert len(predictor["future"]["free_running"]["per_step"]) == 4


@pytest.mark.parametrize("N", [1, 7, 1001])
def test_any_number_of_sequences_is_judged(runs, capsys, N):
    result = judged(capsys, runs / "conditional", "--sequences", N)
    assert result["sequences"] == N
    assert all(np.isfinite(numbers["mean"]) for _, numbers in parts(result))


def test_two_evaluations_give_the_same_numbers(runs, capsys):
    one, two = (judged(capsys, runs / "conditional", "--sequences", 20) for _ in range(2))
    assert one == two


def test_a_certain_and_wrong_pixel_costs_its_logit_and_not_infinity():
    logits = np.full((2, 1, 3), [-100.0, 100.0, 0.0], np.float32)
    truth = np.full((2, 1, 3), [1.0, 1.0, 0.5], np.float32)
    loss = judging.loss_per_step(minilstm.BernoulliCrossEntropy(), logits, truth)
    np.testing.assert_allclose(loss, [100 + np.log(2)] * 2, rtol=1e-12)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda z, y: (z.tolist(), y),
            "expected an array of NumPy or CuPy, got list: pass an array",
        ),
        (lambda z, y: (z, y.tolist()), r"expected truth of shape \(3, 2, 4\), got list"),
        (lambda z, y: (z, y[1:]), r"expected truth of shape \(3, 2, 4\), got \(2, 2, 4\)"),
        (lambda z, y: (z, (255 * y).astype(np.uint8)), "got uint8: divide bytes by 255"),
    ],
)
def test_losses_of_lists_bytes_or_another_number_of_steps_are_refused(change, said):
    frames = np.random.default_rng(0).random((3, 2, 4), np.float32)
    with pytest.raises(ShapeError, match=said):
        judging.loss_per_step(minilstm.BernoulliCrossEntropy(), *change(frames, frames))


@pytest.mark.parametrize("past, said", [(0, "past >= 1"), (-10, "past >= 1"), (7, "past 1 to 6")])
def test_a_past_that_leaves_no_frame_to_see_or_to_predict_is_refused(past, said):
    model = build.build_model(config.load(overrides=TINY), 64)
    frames = np.random.default_rng(0).random((7, 2, 64), np.float32)
    with pytest.raises(ConfigError, match=f"expected {said}"):
        judging.evaluate(model, frames, past, frames[0, 0], (8, 8))
    for judge in (judging.decode, judging.losses_and_means):
        with pytest.raises(ConfigError, match="expected past"):
            judge(model, frames, 8 if past == 7 else past)


def test_no_sequences_are_refused():
    source = build.open_source(config.load(overrides=TINY), "test")
    with pytest.raises(ConfigError, match="expected sequences >= 1, got 0"):
        judging.sequences(source, 0)


def test_predictions_do_not_depend_on_how_many_are_made_at_a_time(runs, monkeypatch):
    model = minilstm.load(runs / "conditional")
    frames = np.random.default_rng(0).random((7, 11, 64), np.float32)
    whole = judging.decode(model, frames, 3)
    monkeypatch.setattr(judging, "CHUNK_SEQUENCES", 4)
    for one, two in zip(whole, judging.decode(model, frames, 3), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("N", [1, 3, 4, 6, 8])
def test_the_mean_image_is_that_of_as_many_sequences_as_asked_for(N, monkeypatch):
    monkeypatch.setattr(judging, "CHUNK_SEQUENCES", 4)
    settings = config.load(overrides=TINY)
    source = build.open_source(settings, "train")
    frames = np.concatenate([as_vectors(source.batch(k, 4)) for k in range(2)], axis=1)
    expected = frames[:, :N].mean(axis=(0, 1))
    np.testing.assert_allclose(judging.mean_image(settings, N), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="expected N >= 1, got 0"):
        judging.mean_image(settings, 0)


def test_a_trained_model_beats_half_and_a_table_says_above_where_it_is_above(runs, capsys):
    result = judged(capsys, runs / "unconditional", "--sequences", 50)
    future = result["future"]["free_running"]["mean"]
    assert future < result["baselines"]["p = 0.5"]["mean"]
    _, text = printed_table(capsys, runs / "unconditional", "--sequences", 50)
    share = future / result["baselines"]["mean image"]["mean"] - 1
    word = "above" if share > 0 else "below"
    assert f"future is {abs(100 * share):.0f} % {word} that of the mean image" in text
    fog = {"sharpness": 0, "equivalent_blur": 10.0}
    worse = result | {"future": {"free_running": result["baselines"]["p = 0.5"] | fog}}
    assert (
        "% above that of the mean image" in judging.table(worse)
        and "-" not in judging.table(worse).rpartition("future is")[2].partition("of the mean")[0]
    )


# ------------------------------------------------------------------------------- files of sequences


def test_both_layouts_of_a_file_give_the_same_numbers(runs, capsys, test_file, tmp_path):
    path, frames = test_file
    np.save(tmp_path / "time_second.npy", np.moveaxis(frames, 0, 1))
    one = judged(capsys, runs / "conditional", "--data", path)
    two = judged(capsys, runs / "conditional", "--data", tmp_path / "time_second.npy")
    assert one == two and one["sequences"] == 13
    free = judged(capsys, runs / "conditional")
    assert one["future"] != free["future"]


def test_the_numbers_of_a_file_are_those_of_its_own_frames(runs, capsys, test_file):
    path, frames = test_file
    result = judged(capsys, runs / "conditional", "--data", path)
    x = frames[:7].reshape(7, 13, 64) / np.float32(255)
    prediction = minilstm.load(runs / "conditional").rollout(x[:3], 4)
    expected = metrics.cross_entropy(x[3:], prediction)
    np.testing.assert_allclose(result["future"]["free_running"]["per_step"], expected, rtol=1e-4)
    last = metrics.copy_last(x[:3], x[3:])
    found = result["baselines"]["copy of the last frame"]["per_step"]
    np.testing.assert_allclose(found, last, rtol=1e-4)


def test_fewer_sequences_than_the_file_has_are_taken_when_asked_for(runs, capsys, test_file):
    result = judged(capsys, runs / "conditional", "--data", test_file[0], "--sequences", 4)
    assert result["sequences"] == 4


@pytest.mark.parametrize("shape", [(9, 8), (4, 16)])
def test_a_file_of_other_frames_is_refused(runs, tmp_path, capsys, shape):
    np.save(tmp_path / "large.npy", np.zeros((20, 3, *shape), np.uint8))
    arguments = [str(runs / "conditional"), "--data", str(tmp_path / "large.npy")]
    assert run_command(lambda: evaluate.main(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "8x8 pixels" in printed.err and "x".join(map(str, shape)) in printed.err


def test_a_run_trained_on_a_file_is_judged_on_its_held_out_sequences(tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (30, 20, 6, 4), np.uint8)
    np.save(tmp_path / "own.npy", frames)
    settings = config.load(
        overrides=TINY
        | {"data": {"source": str(tmp_path / "own.npy"), "past": 3, "future": 4}}
        | {"run": {"batch_size": 4, "steps": 2}}
    )
    loop.train(settings, tmp_path / "run", quiet=True)
    result = judged(capsys, tmp_path / "run", "--sequences", 3)
    assert result["frame_shape"] == [6, 4]
    held_out = build.open_source(settings, "test").batch(0, 3)
    x = as_vectors(held_out)
    expected = metrics.entropy_bound(x[3:])
    np.testing.assert_allclose(
        result["baselines"]["entropy bound"]["per_step"], expected, rtol=1e-6
    )
    in_file = {frame.tobytes() for frame in frames[8::10, 0]}
    assert all(frame.tobytes() in in_file for frame in held_out[0])


def said_by(capsys, main, *words):
    """Return what a command prints on stderr. It must fail with status 2 and one line."""
    assert run_command(lambda: main([*map(str, words)])) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def as_json(capsys, *words):
    """The dictionary that `evaluate --json` prints, and what it says on stderr."""
    assert run_command(lambda: evaluate.main([*map(str, words), "--json"])) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


@pytest.mark.parametrize(
    ("flag", "shown"), [("--data", "--data FILE.npy"), ("--path", "--path FILE")]
)
def test_moved_data_are_recognised_and_the_command_to_record_them_is_named(
    tmp_path, capsys, train_undrawn, flag, shown
):
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 8, 8), np.uint8)
    here, moved, other = (tmp_path / f"{name}.npy" for name in ("here", "moved", "other"))
    data = {"past": 3, "future": 4} | (
        {"source": str(here)} if flag == "--data" else {"source": "patches", "path": str(here)}
    )
    np.save(here, frames[0])
    np.save(other, frames[1])
    run = tmp_path / "run"
    train_undrawn(TINY | {"data": data, "run": {"batch_size": 4, "steps": 2}}, run)
    words = run, "--sequences", 3
    before = judged(capsys, *words)
    here.rename(moved)
    way = f"{here}: expected the data that {run} was trained on, got none: restore them, or record "
    way += f"their new place by python -m minilstm.train --resume {run} {shown} (of finished runs"
    for main in (evaluate.main, report.main, visualize.main):
        assert way in said_by(capsys, main, run)
    assert way in said_by(capsys, evaluate.main, run, "--data", other)
    for best in ([], ["--best"]):
        found, note = as_json(capsys, *words, "--data", moved, *best)
        assert found == before and f"only the test split of {moved}" in note
    assert "got No such file" in said_by(capsys, evaluate.main, run, "--data", tmp_path / "x.npy")
    settings, (_, about) = build.read_config(run), build.read_run(run)
    assert build.own_data_at(settings, str(moved), about).data != settings.data
    assert build.own_data_at(settings, str(moved), {}) is None, "nothing says what data it had"
    train.main(["--resume", str(run), flag, str(moved), "--quiet"])
    assert judged(capsys, *words) == before


@pytest.mark.skipif(DATA is None, reason="needs the real MNIST files: set MINILSTM_DATA")
def test_digits_that_were_moved_are_found_by_the_way_that_is_named(tmp_path, capsys, train_undrawn):
    here, moved = tmp_path / "here", tmp_path / "moved"
    here.symlink_to(Path(DATA, "mnist").resolve())
    run = tmp_path / "run"
    settings = TINY | {"data": TINY["data"] | {"digits": str(here)}}
    train_undrawn(settings | {"run": {"batch_size": 4, "steps": 2}}, run)
    before = judged(capsys, run, "--sequences", 3)
    here.rename(moved)
    for main in (evaluate.main, report.main, visualize.main):
        assert f"--resume {run} --digits DIR (of finished" in said_by(capsys, main, run)
    assert judged(capsys, run, "--sequences", 3, "--digits", moved) == before
    train.main(["--resume", str(run), "--digits", str(moved), "--quiet"])
    assert judged(capsys, run, "--sequences", 3) == before


def test_a_missing_folder_of_digits_is_named(runs, capsys):
    for main, words in (
        (evaluate.main, [runs / "predictor"]),
        (train.main, ["--out", "new"]),
    ):
        said = said_by(capsys, main, *words, "--digits", "nowhere")
        assert "nowhere: expected a folder of MNIST's files, got no such folder: " in said


def test_a_still_film_is_predicted_exactly_by_its_last_frame_and_a_verdict_says_by_how_much():
    settings = config.load(overrides=TINY | {"data": {"source": "patches"}})
    model = build.build_model(settings, 64)
    frame = np.random.default_rng(0).standard_normal((1, 5, 64)).astype("float32")
    still = np.repeat(frame, 7, axis=0)
    result = judging.evaluate(model, still, 3, still.mean(axis=(0, 1)), (8, 8))
    free = result["future"]["free_running"]
    assert f"is {free['mean']:.3g} above that of the copy of the last frame" in judging.table(
        result
    )
    nothing = np.zeros_like(still)  # what constant percepts are, once normalised
    for param in model.params().values():
        param.value.fill(0)
    result = judging.evaluate(model, nothing, 3, nothing[0, 0], (64,))
    assert "is equal to that of the copy of the last frame" in judging.table(result)


def test_a_blur_that_was_measured_on_some_sequences_says_so(runs, capsys, monkeypatch):
    _, text = printed_table(capsys, runs / "conditional", "--sequences", 5)
    assert "(a Gaussian's standard deviation): " in text
    monkeypatch.setattr(metrics, "BLUR_SEQUENCES", 4)
    _, text = printed_table(capsys, runs / "conditional", "--sequences", 5)
    assert "(a Gaussian's standard deviation, measured on the first 4 sequences): " in text


def test_a_run_on_changes_is_judged_on_its_own_data_alone(test_file):
    settings = config.load(overrides={"data": {"source": "action-changes", "frame_size": 8}})
    for data in (str(test_file), "moving-mnist"):
        with pytest.raises(ConfigError, match="expected no --data for a run on action-changes"):
            build.open_test_source(settings, data)
    assert build.open_test_source(settings, None).changes


def test_digits_are_refused_where_the_data_have_none(runs, test_file):
    with pytest.raises(ConfigError, match="expected no --digits for"):
        evaluate.main([str(runs / "conditional"), "--data", str(test_file), "--digits", "folder"])


def test_squared_error_has_a_table_of_its_own():
    settings = config.load(overrides=TINY | {"data": {"source": "patches"}})
    model = build.build_model(settings, 64)
    frames = np.random.default_rng(0).standard_normal((7, 5, 64)).astype("float32")
    result = judging.evaluate(model, frames, 3, frames.mean(axis=(0, 1)), (8, 8))
    prediction = model.rollout(frames[:3], 4)
    expected = 0.5 * ((prediction - frames[3:]) ** 2).sum(axis=-1).mean()
    assert result["future"]["free_running"]["mean"] == pytest.approx(expected, rel=1e-5)
    copy = 0.5 * ((frames[2] - frames[3:]) ** 2).sum(axis=-1).mean()
    assert result["baselines"]["copy of the last frame"]["mean"] == pytest.approx(copy, rel=1e-5)
    text = judging.table(result)
    assert "squared error" in text and "nats" not in text


# --------------------------------------------------------------------------------- as a library


@pytest.mark.parametrize("kind", ["unconditional", "conditional", "predictor"])
@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (3, 2, 64), (5, 1, 8, 8), (1, 4, 64)])
def test_a_rollout_has_the_shape_of_its_past_for_any_horizon(runs, kind, shape):
    past = np.random.default_rng(0).random(shape, np.float32)
    before = past.copy()
    future = minilstm.load(runs / kind).rollout(past, 50)
    assert future.shape == (50, *shape[1:]) and future.dtype == np.float32
    assert type(future) is np.ndarray
    assert np.all((future >= 0) & (future <= 1)) and future.std() > 0
    np.testing.assert_array_equal(past, before)


@pytest.mark.parametrize("kind", ["unconditional", "conditional", "predictor"])
def test_a_longer_rollout_begins_with_the_shorter_one(runs, kind):
    past = np.random.default_rng(0).random((3, 2, 64), np.float32)
    model = minilstm.load(runs / kind)
    np.testing.assert_allclose(model.rollout(past, 50)[:7], model.rollout(past, 7), atol=1e-6)


def test_a_rollout_owns_its_memory(runs):
    model = minilstm.load(runs / "conditional")
    past = np.random.default_rng(0).random((3, 2, 64), np.float32)
    with use_workspace(Reused()):
        first = model.rollout(past, 5)
        kept = first.copy()
        model.rollout(1 - past, 5)
    np.testing.assert_array_equal(first, kept)


def test_a_rollout_is_what_evaluation_calls_free_running(runs):
    model = minilstm.load(runs / "conditional")
    frames = np.random.default_rng(0).random((7, 4, 64), np.float32)
    logits = judging.decode(model, frames, 3)
    rebuilt, predicted = (judging.mean_frames(model.loss, z) for z in logits)
    np.testing.assert_allclose(model.rollout(frames[:3], 4), predicted, atol=1e-6)
    np.testing.assert_allclose(model.reconstruction(frames[:3]), rebuilt, atol=1e-6)


@pytest.mark.parametrize(
    "past",
    [
        np.zeros((3, 2, 8, 8), np.uint8),
        np.zeros((3, 64), np.float32),
        np.zeros((3, 2, 65), np.float32),
        np.zeros((3, 2, 8, 7), np.float32),
        [[[0.0] * 64]],
        None,
    ],
)
def test_a_past_that_does_not_fit_is_refused_in_one_line(runs, past):
    with pytest.raises(ShapeError) as caught:
        minilstm.load(runs / "conditional").rollout(past, 3)
    assert "expected" in str(caught.value) and "got" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("T", [0, -1])
def test_a_rollout_of_no_frames_is_refused(runs, T):
    past = np.zeros((3, 2, 64), np.float32)
    for kind in ("unconditional", "conditional", "predictor"):
        with pytest.raises(MinilstmError):
            minilstm.load(runs / kind).rollout(past, T)


def test_what_a_model_was_not_trained_for_is_refused(runs):
    past = np.zeros((3, 2, 64), np.float32)
    with pytest.raises(ConfigError):
        minilstm.load(runs / "autoencoder").rollout(past, 3)
    with pytest.raises(ConfigError):
        minilstm.load(runs / "predictor").reconstruction(past)


def test_a_folder_that_is_no_run_does_not_load(tmp_path):
    with pytest.raises(RunError):
        minilstm.load(tmp_path)
    with pytest.raises(RunError):
        minilstm.load(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [{"data": "abc"}, {"data": 5}, {"step": "x"}, {"step": None}])
def test_a_damaged_description_in_a_checkpoint_is_refused_in_one_line(
    test_file, tmp_path, capsys, wrong, train_undrawn
):
    path, _ = test_file
    train_undrawn(TINY | {"data": TINY["data"] | {"source": str(path)}}, tmp_path / "run")
    model, about = build.read_run(tmp_path / "run")
    checkpoint.save(tmp_path / "run" / "checkpoint.safetensors", model, None, about | wrong)
    assert run_command(lambda: evaluate.main([str(tmp_path / "run")])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def edited(run, old, new):
    """Change one line of a run's config.toml by hand."""
    file = run / "config.toml"
    text = file.read_text()
    assert text.count(f"\n{old}\n") == 1
    file.write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))


HAND_EDITS = [
    ('start = "step"', 'start = "read"', "model.start = 'read', not 'step'"),
    ('speed = "constant"', 'speed = "random"', "data.speed = 'random', not 'constant'"),
    ("learning_rate = 0.02", "learning_rate = 0.5", "optimizer.learning_rate = 0.5, not 0.02"),
    ("hidden = 8", "hidden = 9", "model.hidden = 9, not 8"),
]


@pytest.mark.parametrize(("old", "new", "said"), HAND_EDITS)
def test_settings_that_were_edited_after_the_training_are_refused_by_name(
    runs, tmp_path, capsys, old, new, said
):
    run = shutil.copytree(runs / "unconditional", tmp_path / "run")
    edited(run, old, new)
    for main, words in (
        (evaluate.main, []), (evaluate.main, ["--best"]), (report.main, []), (visualize.main, []),
    ):  # fmt: skip
        assert run_command(lambda main=main, words=words: main([str(run), *words])) == 2
        message = capsys.readouterr().err
        assert f"{said}: restore them there" in message and message.count("\n") == 1
        assert (
            f"{run / 'config.toml'}: expected the settings that {run} was trained with" in message
        )
    with pytest.raises(RunError, match="expected the settings that"):
        minilstm.load(run)
    with RunFolder(run).claim():  # a run that is resumed by force, before its next checkpoint
        if "hidden" not in said:
            minilstm.load(run)
    (run / "checkpoint.safetensors").unlink()  # of the best weights no settings are known
    if "hidden" not in said:
        minilstm.load(run, best=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keep = 1", "keep = 3"), ("minutes = 0.0", "minutes = 5.0"), ("graph = true",
        "graph = false"), ('threads = "auto"', 'threads = "2"'), ("steps = 40", "steps = 80"),
        ("log_every = 100", "log_every = 7"),
    ],
)  # fmt: skip
def test_free_settings_do_not_count_as_changed_settings(runs, tmp_path, old, new):
    run = shutil.copytree(runs / "predictor", tmp_path / "run")
    edited(run, old, new)
    minilstm.load(run)


def test_moved_data_or_cell_files_do_not_count_as_changed_settings():
    def of(**data):
        cell = data.pop("cell", "peephole")
        return config.load(overrides={"data": data, "model": {"cell": cell}})

    here, there = (f"{folder}/gru.py:GRU@sha256:{'0' * 64}" for folder in ("/here", "/there"))
    for before, after in (
        ({"digits": "/here"}, {"digits": "/there"}),
        ({"source": "/here/film.npy"}, {"source": "/there/film.npy"}),
        ({"source": "patches", "path": "/a.npz"}, {"source": "patches", "path": "/b.npz"}),
        ({"cell": here}, {"cell": there}),
    ):
        assert build.other_settings(of(**before), of(**after)) == []
    changed = "0" * 63 + "1"
    for before, after in (
        ({}, {"digits": "/there"}),
        ({}, {"source": "/there/film.npy"}),
        ({"cell": here}, {"cell": here[:-64] + changed}),
        ({"cell": here}, {}),
    ):
        assert len(build.other_settings(of(**before), of(**after))) == 1


@pytest.mark.parametrize("text", ["x", 3, "[data]\nzebra = 1"])
def test_a_checkpoint_with_other_text_for_settings_is_refused(runs, tmp_path, text):
    run = shutil.copytree(runs / "predictor", tmp_path / "run")
    model, about = build.read_run(run)
    checkpoint.save(run / "checkpoint.safetensors", model, None, about | {"config": text})
    with pytest.raises(RunError, match="expected the settings of a run, got") as caught:
        minilstm.load(run)
    assert "\n" not in str(caught.value)


def without_numbers(text):
    """The lines of a text with N for every number, and with the words that depend on numbers."""
    words = {"below": "above", "too blurred": "sharp"}
    for word, other in words.items():
        text = text.replace(word, other)
    return [" ".join(re.sub(r"\d+(\.\d+)?", "N", line).split()) for line in text.splitlines()]


def test_the_table_in_the_readme_is_what_evaluate_prints(runs, capsys):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    readme = Path(judging.__file__).parents[1] / "experiments" / "README.md"
    (shown,) = re.findall(r"```\n(\d+ sequences, nats.*?)```", readme.read_text("utf-8"), re.DOTALL)
    _, printed = printed_table(capsys, runs / "unconditional", "--sequences", 101)
    assert without_numbers(shown) == without_numbers(printed)
