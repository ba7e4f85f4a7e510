"""Held-out data stays held out: digits, motions and recordings that no run trains on."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from small import small

from minilstm import config
from minilstm.data import Clips, Patches, Percepts, SequenceFile, load_digits, write_percepts
from minilstm.errors import ConfigError
from minilstm.evaluation import judging
from minilstm.experiments import action_fit
from minilstm.experiments.action_fit import Fit, open_parts
from minilstm.layers.dropout import Dropout
from minilstm.runs import build
from minilstm.runs.run_folder import RunFolder
from minilstm.training import pictures, progress
from minilstm.training.batches import draw_feeding, draw_masks

TINY = small(model={"layers": 1, "hidden": 8})


def tiny(**changes):
    """A small configuration with changes by section."""
    tables = {name: TINY.get(name, {}) | changes.get(name, {}) for name in config.SECTIONS}
    return config.load(overrides=tables)


def test_the_test_digits_are_those_of_mnists_test_set():
    np.testing.assert_array_equal(
        build.split_digits("bundled", "test"), load_digits("bundled", "test")[0]
    )


def test_training_and_validation_digits_share_none_and_are_all_of_mnists_training_set():
    train, held_out = (build.split_digits("bundled", s) for s in ("train", "validation"))
    assert (len(train), len(held_out)) == (5400, 600)
    digits = [{image.tobytes() for image in images} for images in (train, held_out)]
    assert not digits[0] & digits[1]
    everything = {image.tobytes() for image in load_digits("bundled", "train")[0]}
    assert digits[0] | digits[1] == everything


@pytest.mark.parametrize("split", ["val", "Test", "all", "", None])
def test_a_misspelled_split_is_refused_and_gives_no_training_data(split, tmp_path):
    np.save(tmp_path / "own.npy", np.full((20, 30, 6, 4), 9, np.uint8))
    for source in ("moving-mnist", "actions", str(tmp_path / "own.npy")):
        with pytest.raises(ConfigError, match="expected split train, validation or test, got"):
            build.open_source(tiny(data={"source": source}), split)
    for part_of in (build.split_digits, lambda _, split: build.seed_of(split, 0)):
        with pytest.raises(ConfigError, match="expected split train, validation or test, got"):
            part_of("bundled", split)


@pytest.mark.parametrize("split", ["val", "Test", None, ["train"]])
def test_files_and_percepts_refuse_a_misspelled_split(split, tmp_path):
    clips = Clips(np.zeros((20, 3)), np.full(10, 2), np.zeros(10, int), ("a",))
    np.save(tmp_path / "own.npy", np.full((20, 30, 6, 4), 9, np.uint8))
    for open_source in (
        lambda: SequenceFile(tmp_path / "own.npy", split=split),
        lambda: Patches(tmp_path / "own.npy", split=split),
        lambda: Percepts(clips, 2, split=split),
    ):
        with pytest.raises(ConfigError, match="expected split train, validation, test or all, got"):
            open_source()


@pytest.mark.parametrize("source", ["moving-mnist", "actions"])
def test_validation_and_test_motions_are_those_of_no_run_and_the_same_for_all(source):
    def batches(seed, kind=source):
        settings = tiny(data={"source": kind}, run={"seed": seed})
        return [build.open_source(settings, s).batch(0, 3) for s in ("train", "validation", "test")]

    first, second = batches(0), batches(1)
    assert [np.array_equal(a, b) for a, b in zip(first, second, strict=True)] == [False, True, True]


def test_labelled_clips_to_learn_from_differ_by_seed_and_those_to_judge_by_do_not():
    small = {"frame_size": 6, "length": 4, "labels": 1, "validation": 1, "test": 1}
    first, second = (
        [clips.frames for clips in build.open_clips(config.ClassifySettings(**small, seed=seed))]
        for seed in (0, 1)
    )
    assert [np.array_equal(a, b) for a, b in zip(first, second, strict=True)] == [False, True, True]
    assert not np.array_equal(first[1], first[2])


@pytest.mark.parametrize("seed", build.SEEDS.values())
def test_a_seed_that_validation_or_test_motions_have_is_refused(seed):
    settings = tiny(run={"seed": seed})
    with pytest.raises(ConfigError, match=f"expected a seed other than .* got {seed}"):
        build.open_source(settings, "train")
    chosen = dataclasses.replace(config.ClassifySettings(), seed=seed)
    with pytest.raises(ConfigError, match=f"got {seed}"):
        build.open_clips(chosen)


def test_validation_is_free_running(tmp_path, monkeypatch):
    """A conditional decoder that is shown the truth scores better than it will when it is used."""
    weights = {"reconstruction_weight": 0.5, "future_weight": 2.0}
    settings = tiny(model={"conditional": "both"}, loss=weights)
    source = build.open_source(settings, "train")
    model = build.build_model(settings, 64)
    for param in model.params().values():
        param.value *= 5  # so that what is fed matters
    rows = []
    folder = type("Folder", (), {"append": staticmethod(rows.append), "best": tmp_path / "best"})
    optimizer = build.build_optimizer(model, settings)
    run = progress.Progress(settings, folder, model, optimizer, source, source, quiet=True)
    run.validate()
    free, forced = (
        judging.decode(model, run.validation, 3, feed_truth)[1] for feed_truth in (False, True)
    )
    truth = run.validation[3:]
    free, forced = (judging.loss_per_step(model.loss, z, truth).mean() for z in (free, forced))
    assert abs(free - forced) > 1e-3 * free
    assert rows[0]["validation future"] == pytest.approx(free, rel=1e-12)
    both = 0.5 * rows[0]["validation reconstruction"] + 2 * rows[0]["validation future"]
    assert run.best == pytest.approx(both)  # the best weights are those of the loss that is learned


def test_every_step_has_dropout_masks_of_its_own():
    settings = tiny(model={"layers": 2, "dropout": 0.5})
    masks = [draw_masks(settings, k)[0][0] for k in (0, 1, 1)]
    assert not np.array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[1], masks[2])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(rate):
    settings = tiny(
        data={"past": 50}, model={"layers": 2, "hidden": 40, "dropout": rate}, run={"batch_size": 9}
    )
    mask = draw_masks(settings, 0)[0][0]
    y = Dropout(rate).apply(np.ones(mask.shape), mask)
    assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
    assert set(np.unique(y.round(9))) == {0, round(1 / (1 - rate), 9)}


def test_every_step_has_feeding_choices_of_its_own():
    feeding = {"inputs": "scheduled", "truth_start": 0.5, "truth_end": 0.5}
    settings = tiny(model={"conditional": "both"}, feeding=feeding, run={"batch_size": 40})
    first, second, again = (draw_feeding(settings, k)[0] for k in (0, 1, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, again)


def test_pictures_of_predictions_show_test_sequences(tmp_path, monkeypatch):
    settings, shown = tiny(), []
    for name in ("prediction_strip", "prediction_gif"):
        monkeypatch.setattr(pictures.strips, name, lambda *drawn: shown.append(drawn[:2]))
    model = build.build_model(settings, 64)
    pictures.draw_predictions(settings, RunFolder(tmp_path), model)
    frames = judging.sequences(build.open_source(settings, "test"), 3).reshape(6, 3, 8, 8)
    for past, future in shown:
        np.testing.assert_allclose(past, frames[:3], atol=1e-6)
        np.testing.assert_allclose(future, frames[3:], atol=1e-6)
    assert len(shown) == 2


@pytest.mark.parametrize("validate_every", [0, 4])
def test_the_last_step_is_validated(tmp_path, train_undrawn, validate_every):
    run = {"steps": 6, "batch_size": 4, "validate_every": validate_every, "log_every": 0}
    train_undrawn(TINY | {"run": run}, tmp_path)
    rows = [row["step"] for row in RunFolder(tmp_path).rows() if "validation future" in row]
    assert rows == ([4, 6] if validate_every else [6])


def test_means_of_an_interval_leave_skipped_steps_out():
    interval = progress.Interval(skipped=3)
    for x in (1.0, 5.0):
        interval.add({"future": x})
    assert interval.means() == {"future": 3.0} and interval.counts() == {"skipped": 3}


def test_the_clips_that_stop_a_fit_are_none_that_it_learns_from(tmp_path):
    clips = Clips(
        np.arange(12, dtype=np.float32)[:, None], np.full(6, 2), np.arange(6) % 2, ("a", "b")
    )
    write_percepts(tmp_path, clips)
    fit = Fit({}, percepts=str(tmp_path), learn=(0, 1, 3, 4), judged=(5,), folds=((1,), (3, 4)))
    parts, test = open_parts(fit)
    names = [[part.names for part in pair] for pair in parts]
    assert names == [
        [("clip 0", "clip 3", "clip 4"), ("clip 1",)],
        [("clip 0", "clip 1"), ("clip 3", "clip 4")],
    ]
    assert test.names == ("clip 5",)


@pytest.mark.parametrize("order", [(0.1, 0.5, 0.7), (0.7, 0.5, 0.1)])
def test_validation_clips_choose_among_settings_and_test_clips_do_not(tmp_path, monkeypatch, order):
    """Dropout 0.5 does best on the validation clips, 0.1 on the test clips."""
    clips = Clips(
        np.arange(12, dtype=np.float32)[:, None], np.full(6, 2), np.zeros(6, int), ("a", "b")
    )
    write_percepts(tmp_path, clips)
    right = {("clip 1",): {0.1: 0.2, 0.5: 0.9, 0.7: 0.3}, ("clip 5",): {0.1: 1, 0.5: 0.4, 0.7: 0.1}}

    def fitted(settings, *_):
        def predict(clips):
            p = right[clips.names][settings.dropout]
            return np.array([[p, 1 - p]])

        return SimpleNamespace(predict=predict)

    monkeypatch.setattr(action_fit.classifier, "fit", fitted)
    candidates = [{"dropout": dropout} for dropout in order]
    found = action_fit.run_fit(Fit({}, "", False, str(tmp_path), (0, 1), (5,), ((1,),), candidates))
    assert found["chosen"] == {"dropout": 0.5}
    assert found["probabilities"] == {"lstm": [[0.4, 0.6]]}
