"""Recognising actions: the step, the stopping, the encoder that is taken over, the baselines."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from minilstm import classify, train
from minilstm.command import run_command
from minilstm.config import ClassifySettings, load
from minilstm.data import Clips, splits, windows
from minilstm.data.percepts import write_percepts
from minilstm.data.vectors import scale_of
from minilstm.errors import ConfigError, DataError, NonFiniteError
from minilstm.evaluation import baselines, clip_scores
from minilstm.evaluation.baselines import clip_baselines
from minilstm.evaluation.clip_scores import accuracy, confusion, nats_per_clip
from minilstm.evaluation.logistic import fit_logistic
from minilstm.models import Classifier
from minilstm.optim import Adam
from minilstm.runs import build
from minilstm.training.classifier import classify_step, draw_balanced, draw_classifier_masks, fit
from minilstm.training.progress import Progress

SIZE, H = 6, 4
SMALL = {"frame_size": SIZE, "length": 6, "labels": 2, "validation": 1, "test": 1, "hidden": H}
SMALL |= {"window": 4, "stride": 2, "steps": 3, "validate_every": 1, "batch_size": 7}
TRAIN = (
    f"actions --frame-size {SIZE} --past 3 --future 3 --hidden {H} --batch-size 4 --steps 2 "
    "--quiet --validate-every 0"
)


def call(module, *arguments):
    try:
        return run_command(lambda: module.main([str(word) for word in arguments]))
    except SystemExit as stopped:
        return stopped.code


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that saw unlabelled actions."""
    folder = tmp_path_factory.mktemp("runs") / "actions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "draw", lambda run: None)
        assert call(train, *TRAIN.split(), "--out", folder) == 0
    return folder


def motion(N, seed, classes=("rising", "falling")):
    """Clips whose class is the sign of a slope: no single frame tells it, two do."""
    rng = np.random.default_rng(seed)
    lengths, labels = rng.integers(4, 9, N), np.arange(N) % len(classes)
    slope, start = 0.5 * (1 - 2 * labels), rng.uniform(-2, 2, N)
    t = np.concatenate([np.arange(n) for n in lengths])
    x = np.repeat(start, lengths) + np.repeat(slope, lengths) * (
        t - np.repeat(lengths, lengths) / 2
    )
    frames = np.column_stack([x, x**2 - 1]).astype(np.float32)
    return Clips(frames, lengths, labels, tuple(classes))


SCRATCH = ClassifySettings(
    encoder="scratch", hidden=8, window=5, stride=2, dropout=0.2, batch_size=8, steps=150,
    learning_rate=2e-2, patience=20, validate_every=10,
)  # fmt: skip


# ---------------------------------------------------------------- learning


def test_an_lstm_learns_from_scratch_what_no_single_frame_tells():
    parts = motion(40, 1), motion(20, 2), motion(200, 3)
    fitted = fit(SCRATCH, *parts[:2])
    p = fitted.predict(parts[2])
    assert p.shape == (200, 2) and np.allclose(p.sum(axis=1), 1)
    assert accuracy(p, parts[2].labels) > 0.95
    alone = clip_baselines(*parts)["middle frame"]
    assert abs(accuracy(alone, parts[2].labels) - 0.5) < 3 * 0.5 / 200**0.5


def test_a_fit_is_a_function_of_its_arguments():
    parts = motion(10, 1), motion(6, 2)
    settings = ClassifySettings(**vars(SCRATCH) | {"steps": 5})
    a, b = (fit(settings, *parts).predict(parts[1]) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    other = fit(ClassifySettings(**vars(settings) | {"seed": 1}), *parts).predict(parts[1])
    assert (a != other).any()


def test_the_weights_kept_are_those_that_did_best_in_validation(monkeypatch):
    parts = motion(10, 1), motion(6, 2)
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.6, 0.1])
    seen = []

    def given(p, labels):
        seen.append(p.copy())
        return next(accuracies)

    monkeypatch.setattr("minilstm.training.classifier.accuracy", given)
    monkeypatch.setattr("minilstm.training.classifier.nats_per_clip", lambda p, labels: 1.0)
    settings = ClassifySettings(**vars(SCRATCH) | {"validate_every": 1, "patience": 3})
    fitted = fit(settings, *parts)
    assert [row["step"] for row in fitted.history] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(fitted.predict(parts[1]), seen[1])


def test_masks_drop_the_share_that_was_asked_for_and_differ_from_batch_to_batch():
    rng = np.random.default_rng(0)
    classifier = Classifier(3, 50, 2, 2, rng)
    settings = ClassifySettings(**SMALL | {"dropout": 0.25, "window": 10})
    first, second = (draw_classifier_masks(settings, classifier, 20, k) for k in range(2))
    assert len(first) == 2 and first[0].shape == (10, 20, 50)
    assert abs(np.mean(first) - 0.75) < 0.02 and (first[0] != second[0]).any()
    assert (first[0] != first[1]).any()
    assert draw_classifier_masks(ClassifySettings(dropout=0.0), classifier, 20, 0) is None


def test_batches_have_as_many_of_a_rare_class_as_of_a_common_one():
    labels = np.repeat([0, 2, 3], [1, 10, 100])
    for k in range(5):
        chosen = labels[draw_balanced(labels, 12, 0, k)]
        assert np.bincount(chosen).tolist() == [4, 0, 4, 4]
    counts = np.bincount(labels[draw_balanced(labels, 7, 0, 0)])
    assert sorted(counts[counts > 0]) == [2, 2, 3]
    everything = {n for k in range(60) for n in draw_balanced(labels, 36, 0, k)}
    assert len(everything) > 105  # not always the same of a class


# ---------------------------------------------------------------- windows


def test_a_clip_is_judged_by_the_mean_over_the_steps_and_windows_of_it_alone():
    clips = motion(7, 4)
    fitted = fit(ClassifySettings(**vars(SCRATCH) | {"steps": 2}), clips, clips)
    which, first = windows(clips.lengths, 5, 2)
    for n in range(len(clips)):
        each = []
        for start in first[which == n]:
            x = clips.clip(n)[start : start + 5]
            x = np.concatenate([x, np.repeat(x[-1:], 5 - len(x), axis=0)])
            x = (x - fitted.scale.mean) / fitted.scale.std
            logits, _ = fitted.classifier.forward(x[:, None].astype(np.float32))
            p = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(axis=1, keepdims=True)
            each.append(p.mean(axis=0))
        np.testing.assert_allclose(fitted.predict(clips)[n], np.mean(each, axis=0), atol=1e-5)


def test_clips_shorter_than_a_window_do_not_move_the_others(monkeypatch):
    """In the public code, results misalign from the first short video on."""
    clips = motion(12, 4)
    fitted = fit(ClassifySettings(**vars(SCRATCH) | {"steps": 2}), clips, clips)
    alone = np.concatenate([fitted.predict(clips.select([n])) for n in range(12)])
    monkeypatch.setattr("minilstm.training.classifier.CHUNK_WINDOWS", 3)
    np.testing.assert_allclose(fitted.predict(clips), alone, atol=1e-6)


# ---------------------------------------------------------------- an encoder that is taken over


def few(split, n=2):
    return build.open_clips(ClassifySettings(**SMALL))[("train", "validation", "test").index(split)]


@pytest.mark.parametrize("encoder", ["frozen", "finetuned", "scratch"])
def test_an_encoder_is_taken_over_and_stays_learns_or_is_new(run, encoder):
    settings = ClassifySettings(
        **SMALL | {"encoder": encoder, "hidden": 9}
    )  # the run's sizes count
    fitted = fit(settings, few("train"), few("validation"), run)
    own, trained = fitted.classifier.encoder.params(), build.load_run(run).encoder.params()
    same = [(own[name].value == trained[name].value).all() for name in trained]
    assert all(same) if encoder == "frozen" else not any(same)
    assert own.keys() == trained.keys()
    if encoder == "scratch":  # nothing of the run but its sizes
        assert abs(own["0.Wx"].value - trained["0.Wx"].value).max() > 0.05
    if encoder == "finetuned":  # a few small steps away
        assert all(abs(own[name].value - trained[name].value).max() < 0.01 for name in trained)


def test_finetuning_never_ends_below_its_start(run):
    """With a learning rate that ruins every weight, the frozen classifier is what is left."""
    settings = ClassifySettings(
        **SMALL | {"encoder": "finetuned", "learning_rate": 10.0, "steps": 3}
    )
    parts = few("train"), few("validation")
    fitted = fit(settings, *parts, run)
    assert [row["step"] for row in fitted.history][:2] == [0, 1]
    frozen = fit(ClassifySettings(**SMALL | {"encoder": "frozen"}), *parts, run)
    found, start = (
        clip_scores.accuracy(f.predict(parts[1]), parts[1].labels) for f in (fitted, frozen)
    )
    assert found >= start and fitted.history[0]["accuracy"] == start
    assert max(row["accuracy"] for row in fitted.history) == found


@pytest.mark.parametrize("learned, changes", [("actions", True), ("action-changes", False)])
def test_clips_of_another_kind_than_the_encoder_learned_are_refused(
    tmp_path, train_undrawn, learned, changes
):
    data = {"source": learned, "frame_size": SIZE, "past": 3, "future": 3}
    settings = {"data": data, "model": {"hidden": H}, "run": {"steps": 1, "batch_size": 4}}
    train_undrawn(settings, tmp_path / "run")
    chosen = ClassifySettings(**SMALL | {"changes": changes, "encoder": "frozen"})
    parts = build.open_clips(chosen)[:2]
    word = "remove" if changes else "add"
    with pytest.raises(ConfigError, match=f"trained on, {learned}, got .*{word} --changes"):
        fit(chosen, *parts, tmp_path / "run")
    fit(ClassifySettings(**vars(chosen) | {"encoder": "scratch"}), *parts, tmp_path / "run")


def test_means_and_deviations_are_those_of_float64_however_many_frames():
    x = np.random.default_rng(0).normal(1000, [0.01, 3], (50_000, 2)).astype(np.float32)
    scale = scale_of(x)
    np.testing.assert_allclose(scale.mean, x.mean(axis=0, dtype=float), rtol=1e-7)
    np.testing.assert_allclose(scale.std, x.astype(float).std(axis=0), rtol=1e-6)
    assert scale_of(np.full((3, 1), 7, np.float32)).std == 1


def test_an_encoder_for_other_frames_is_refused_by_name(run):
    clips = build.open_clips(ClassifySettings(**SMALL | {"frame_size": SIZE + 1}))
    with pytest.raises(ConfigError, match=r"0.Wx \(36, 16\), not \(49, 16\).*frames of the same"):
        fit(ClassifySettings(**SMALL), *clips[:2], run)


def test_a_frozen_classifier_says_what_its_logistic_regression_says(run):
    train_clips, validation = few("train"), few("validation")
    fitted = fit(ClassifySettings(**SMALL | {"encoder": "frozen"}), train_clips, validation, run)
    x, which = fitted.outputs_of_all_steps(validation)
    logistic = baselines.logistic_of_clips(
        fitted.outputs_of_all_steps(train_clips), train_clips, (x, which), validation
    )
    expected = baselines.mean_by(logistic.probabilities(x), which)
    np.testing.assert_allclose(fitted.predict(validation), expected, atol=1e-5)


def test_clips_without_labels_and_encoders_without_a_run_are_refused():
    clips = motion(6, 0)
    with pytest.raises(ConfigError, match="name it by --init-from"):
        fit(ClassifySettings(), clips, clips)
    unlabelled = Clips(clips.frames, clips.lengths, clips.labels - 1, clips.classes)
    with pytest.raises(DataError, match="3 have no label"):
        fit(SCRATCH, clips, unlabelled)
    with pytest.raises(DataError, match="got 0"):
        fit(SCRATCH, clips.select([]), clips)


# ---------------------------------------------------------------- percepts


def test_percepts_are_split_by_recordings_and_all_of_them_are_tested_once(tmp_path):
    clips = dataclasses.replace(motion(24, 0), groups=np.arange(24) // 4)
    write_percepts(tmp_path, clips)
    settings = {"source": "percepts", "path": str(tmp_path), "folds": 3, "labels": 2}
    tested = []
    for fold in range(3):
        parts = build.open_clips(ClassifySettings(**settings, fold=fold))
        groups = [set(part.groups) for part in parts]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        assert np.bincount(parts[0].labels).tolist() == [2, 2] and len(parts[1]) == 8
        tested += parts[2].names
    assert sorted(tested) == sorted(clips.names)


def test_few_clips_of_each_class_are_drawn_by_their_seed_and_more_include_them():
    labels = np.arange(31) % 3
    two, four = (splits.few_per_class(labels, n, seed=1) for n in (2, 4))
    assert np.bincount(labels[two]).tolist() == [2, 2, 2] and set(two) < set(four)
    assert set(splits.few_per_class(labels, 2, seed=2)) != set(two)
    assert len(splits.few_per_class(labels, 100, seed=0)) == 31


# ---------------------------------------------------------------- without an LSTM


def test_logistic_regression_finds_the_minimum():
    """At a minimum the gradient of cross-entropy + l2/2 |W|^2 is zero, in float64 by hand."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((90, 4)) * [1, 10, 0.1, 1] + 3).astype(np.float32)
    labels = rng.integers(0, 3, 90)
    fitted = fit_logistic(x, labels, 3, l2=0.1)
    z = (x - x.mean(0)) / x.std(0)
    W, b = (p.value.astype(float) for p in fitted.readout.params().values())
    p = np.exp(z @ W + b)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.probabilities(x), p, atol=1e-5)
    error = (p - np.eye(3)[labels]) / len(x)
    assert abs(z.T @ error + 0.1 * W).max() < 1e-4 and abs(error.sum(axis=0)).max() < 1e-4
    W, b = fitted.folded()
    np.testing.assert_allclose(np.exp(x @ W + b).argmax(1), p.argmax(1))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_logistic_regression_refuses_a_label_that_is_no_class(label):
    with pytest.raises(DataError, match=f"expected labels 0 to 2, got {label}"):
        fit_logistic(np.random.default_rng(0).random((4, 2)), np.array([0, 1, 2, label]), 3, 0.1)


def test_validation_clips_choose_the_strength_of_a_logistic_regression(monkeypatch):
    monkeypatch.setattr(baselines, "choose_logistic", lambda x, labels, K, nats: nats)
    rng = np.random.default_rng(0)
    train_clips, validation = motion(10, 1), motion(6, 2)
    which = [np.repeat(np.arange(len(c)), c.lengths) for c in (train_clips, validation)]
    x = [rng.random((len(w), 2)).astype(np.float32) for w in which]
    nats = baselines.logistic_of_clips((x[0], which[0]), train_clips, (x[1], which[1]), validation)
    asked = SimpleNamespace(probabilities=lambda x: x / x.sum(axis=1, keepdims=True))
    p = baselines.mean_by(asked.probabilities(x[1]), which[1])
    assert nats(asked) == nats_per_clip(p, validation.labels)


def test_a_column_that_never_changes_is_no_trouble():
    x = np.column_stack([np.ones(20), np.arange(20) % 2]).astype(np.float32)
    fitted = fit_logistic(x, np.arange(20) % 2, 2, l2=1e-4)
    assert (fitted.probabilities(x).argmax(axis=1) == np.arange(20) % 2).all()


def test_each_baseline_sees_what_it_says_and_nothing_else():
    rng = np.random.default_rng(0)
    N = 60
    labels, lengths = np.arange(N) % 2, np.full(N, 4)
    frames = rng.standard_normal((4 * N, 3)).astype(np.float32)
    sizes = np.column_stack([320 + 10 * labels, np.full(N, 240)])
    telling = np.repeat(labels, 4)[:, None] * np.array([[5.0, 0, 0]], np.float32)

    def accuracies(**parts):
        clips = Clips(
            **{"frames": frames, "lengths": lengths, "labels": labels} | parts, classes="ab"
        )
        return {
            name: accuracy(p, labels) for name, p in clip_baselines(clips, clips, clips).items()
        }

    by_size, by_frame = accuracies(sizes=sizes), accuracies(frames=frames + telling)
    by_length = accuracies(lengths=np.where(labels, 5, 3), frames=frames)
    assert by_size["size and length"] == by_length["size and length"] == 1
    assert by_frame["size and length"] == 0.5 and by_size["most frequent class"] == 0.5
    for name in ("middle frame", "single frame", "mean frame"):
        assert by_frame[name] > 0.95 and by_size[name] < 0.9


# ---------------------------------------------------------------- judging


def test_accuracy_nats_and_confusion_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    labels = np.array([0, 1, 1, 2])
    assert accuracy(p, labels) == 0.75
    assert nats_per_clip(p, labels) == pytest.approx(-np.log([0.5, 0.8, 0.3, 0.6]).mean())
    assert confusion(p, labels).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("judge", [accuracy, nats_per_clip, confusion])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_not_judged(judge, value):
    p = np.full((4, 3), 1 / 3)
    p[2, 1] = value
    with pytest.raises(NonFiniteError, match="probabilities: expected finite numbers"):
        judge(p, np.array([0, 1, 1, 2]))


@pytest.mark.parametrize("judge", [accuracy, nats_per_clip, confusion])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_not_judged_as_another_class(judge, label):
    with pytest.raises(DataError, match=f"expected labels 0 to 2, got {label}: leave out clips"):
        judge(np.eye(3), np.array([0, 1, label]))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_step_refuses_a_label_that_is_no_class_before_it_changes_a_weight(label):
    rng = np.random.default_rng(0)
    classifier = Classifier(5, H, 1, 3, rng)
    optimizer = Adam(classifier.flat())
    before = classifier.flat().value.copy()
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    with pytest.raises(DataError, match="expected labels from 0 to 2, got"):
        classify_step(classifier, optimizer, x, np.array([1, label]), None, 0.1, 0.0)
    np.testing.assert_array_equal(classifier.flat().value, before)


def test_a_class_without_a_clip_has_no_recall():
    test = Clips(np.zeros((2, 1)), np.array([1, 1]), np.array([0, 0]), ("a", "b"))
    result = clip_scores.results_of("model", {"model": np.array([[0.9, 0.1], [0.4, 0.6]])}, test)
    assert result["recall"] == [0.5, None] and "none" in clip_scores.results_table(result)


# ---------------------------------------------------------------- the command

FLAGS = [
    word
    for name, value in SMALL.items() if name != "hidden"  # which a run has itself
    for word in (f"--{name.replace('_', '-')}", str(value))
]  # fmt: skip


def test_the_command_writes_results_that_agree_with_each_other(run, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert call(classify, "--init-from", run, "--out", out, *FLAGS) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == set(classify.NAMES)
    result = json.loads((out / "results.json").read_text())
    assert printed == (out / "table.txt").read_text() and "LSTM, finetuned" in printed
    counts = np.array(result["confusion"])
    assert counts.sum() == result["clips"] == 18
    assert counts.trace() / 18 == result["accuracy"]["LSTM, finetuned"]
    assert result["settings"]["labels"] == 2 and result["init_from"] == str(run)
    assert set(result["accuracy"]) >= {"middle frame", "single frame", "mean frame"}


def test_results_that_are_there_are_overwritten_only_by_force(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classify.panels, "confusion", lambda *_: None)
    out, flags = tmp_path / "out", ["--encoder", "scratch", "--hidden", H, "--quiet", *FLAGS]
    assert call(classify, "--out", out, *flags) == 0
    before = (out / "results.json").read_bytes()
    assert call(classify, "--out", out, *flags) == 2
    assert "--force" in capsys.readouterr().err
    assert call(classify, "--out", out, "--force", *flags) == 0
    assert (out / "results.json").read_bytes() == before
    (out / "results.json").unlink()  # as after a kill: it is written last
    (out / ".results.json.1.tmp").touch()
    assert call(classify, "--out", out, *flags) == 0
    assert (out / "results.json").read_bytes() == before
    assert not (out / ".results.json.1.tmp").exists()
    (out / "thesis.doc").touch()
    assert call(classify, "--out", out, "--force", *flags) == 2
    assert "thesis.doc" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "name it by --init-from"),
        (["--init-from", "nowhere"], "expected a run folder"),
        (["--encoder", "warm"], "frozen, finetuned, scratch"),
        (["--labels", "0"], "labels >= 1"),
        (["--data", "percepts"], "name it by --path"),
        (["--data", "percepts", "--path", "x", "--fold", "5"], "expected --fold 0 to 4"),
        (["--data", "percepts", "--path", "nowhere"], "nowhere"),
        (["--window", "x"], "window an integer"),
        (["--encoder", "scratch", "--digits", "nowhere"], "put MNIST's four files there"),
        (["--encoder", "scratch", "--out", __file__], "expected --out to name a folder"),
        (["--encoder", "scratch", "--hiden", "3"], "did you mean --hidden"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    arguments, word, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags = [] if "percepts" in arguments else FLAGS
    assert call(classify, *flags, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and word in message
    assert not list(tmp_path.iterdir())


def test_the_preset_trains_on_the_frames_that_the_command_expects():
    assert load(["actions"]).data.frame_size == ClassifySettings().frame_size
    assert load(["actions"]).data.source == "actions"
