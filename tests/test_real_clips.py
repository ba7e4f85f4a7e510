"""Real clips: folds of recordings, and held-out clips that influence nothing."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from minilstm import config, reproduce
from minilstm.command import run_command
from minilstm.data import Clips, read_percepts, write_percepts
from minilstm.errors import ConfigError, DataError, RunError
from minilstm.experiments import action_fit, many_runs
from minilstm.experiments.real_clips import join, plan_real_clips
from minilstm.experiments.scales import ALL, SCALES
from minilstm.experiments.targets import Request
from minilstm.figures import style
from minilstm.runs import build
from minilstm.training import classifier

SMOKE = SCALES["smoke"].percepts
CLASSES, RECORDINGS = ("hug", "kick", "push"), 6


def clips_of(rng, D, longer=0):
    """Return six recordings with a clip of each of three classes, which every frame shows."""
    labels = np.tile(np.arange(3), RECORDINGS)
    lengths = rng.integers(6, 10, len(labels)) + longer
    frames = rng.normal(size=(lengths.sum(), D)) + 3 * np.eye(3, D)[np.repeat(labels, lengths)]
    return Clips(
        frames.astype(np.float32), lengths, labels, CLASSES, np.repeat(np.arange(RECORDINGS), 3),
        np.full((len(labels), 2), 40), tuple(f"v_{CLASSES[k]}_g{n}_c01" for n in range(RECORDINGS)
                                             for k in range(3)),
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """Two streams of the same clips, the second one frame longer."""
    found = {"rgb": tmp_path / "rgb", "flow": tmp_path / "flow"}
    for k, folder in enumerate(found.values()):
        folder.mkdir()
        clips = clips_of(np.random.default_rng(1), 5 - k, longer=k)
        write_percepts(folder, clips)
    return found


def plan_of(folders, out, folds=3, lists=""):
    return plan_real_clips(out, SMOKE, "numpy", folders, folds, lists)


def test_no_recording_is_on_two_sides_of_any_fold_and_pretraining_sees_one_side(folders, tmp_path):
    plan = plan_of(folders, tmp_path / "out")
    groups, judged = plan.clips.groups, []
    assert list(plan.streams) == ["rgb", "flow", "joined"]
    for n in range(3):
        _, fit = plan.fit("composite", "joined", ALL, n)
        judged += fit.judged
        assert not set(groups[list(fit.learn)]) & set(groups[list(fit.judged)])
        assert sorted(sum(fit.folds, [])) == sorted(fit.learn)
        for fold in fit.folds:
            assert not set(groups[fold]) & set(groups[np.setdiff1d(fit.learn, fold)])
        trial = plan.pretraining("composite", "joined", n)
        assert fit.run == str(trial.path)
        seen = read_percepts(trial.config.data.path)
        assert set(seen.names) == {plan.clips.names[k] for k in plan.folds[n][0]}
        assert seen.frames.shape[1] == 9
    assert sorted(judged) == list(range(18))


def test_a_held_out_clip_changes_only_its_own_prediction(folders, tmp_path, tasks_here):
    plan = plan_of(folders, tmp_path / "out")
    with tasks_here():
        many_runs.train_all([plan.pretraining("composite", "rgb", 0)], 1)
    _, fit = plan.fit("baseline", "rgb", ALL, 0)
    fit = dataclasses.replace(fit, candidates=({}, {"dropout": 0.5}))
    _, baselines = plan.fit("baselines", "rgb", ALL, 0)
    before = action_fit.run_fit(fit), action_fit.run_fit(baselines)
    clips = read_percepts(folders["rgb"])
    poisoned = fit.judged[1]
    clips.clip(poisoned)[...] = 1e4
    write_percepts(folders["rgb"], clips)
    after = action_fit.run_fit(fit), action_fit.run_fit(baselines)
    for old, new in zip(before, after, strict=True):
        assert old["chosen"] == new["chosen"]
        for name, p in old["probabilities"].items():
            for k in range(len(fit.judged)):
                same = p[k] == new["probabilities"][name][k]
                assert same or k == 1, f"{name}: clip {k} changed with clip 1"
    assert before[0]["probabilities"]["lstm"][1] != after[0]["probabilities"]["lstm"][1]


def test_few_labels_are_as_many_training_clips_of_each_class(folders, tmp_path):
    plan = plan_of(folders, tmp_path / "out")
    _, fit = plan.fit("baseline", "rgb", 2, 1)
    assert np.bincount(plan.clips.labels[list(fit.learn)]).tolist() == [2, 2, 2]
    assert set(fit.learn) <= set(plan.folds[1][0])
    assert plan.fit("composite", "flow", 2, 1)[1].learn == fit.learn


def test_streams_are_joined_frame_by_frame_and_only_of_the_same_clips(folders):
    rgb, flow = (read_percepts(folder) for folder in folders.values())
    both = join(rgb, flow)
    assert (both.lengths == rgb.lengths).all()
    for n in range(len(both)):
        T = len(rgb.clip(n))
        assert (both.clip(n) == np.hstack([rgb.clip(n), flow.clip(n)[:T]])).all()
    with pytest.raises(DataError, match="same clips in the same order"):
        join(rgb, flow.select(np.arange(18)[::-1]))


def test_streams_of_other_frame_rates_are_not_joined(folders):
    rgb, flow = (read_percepts(folder) for folder in folders.values())
    half = np.concatenate([np.arange(T) % 2 == 0 for T in flow.lengths])
    slow = dataclasses.replace(flow, frames=flow.frames[half], lengths=(flow.lengths + 1) // 2)
    for streams in ((rgb, slow), (slow, rgb)):
        with pytest.raises(DataError, match="the same number of frames.*same --fps"):
            join(*streams)


def test_clips_of_one_class_are_refused(folders, tmp_path):
    clips = read_percepts(folders["rgb"])
    write_percepts(folders["rgb"], clips.select(clips.labels == 1))
    with pytest.raises(DataError, match="expected clips of at least 2 classes, got 1"):
        plan_of({"rgb": folders["rgb"]}, tmp_path / "out")
    settings = config.ClassifySettings(source="percepts", path=str(folders["rgb"]), folds=3)
    with pytest.raises(DataError, match="expected clips of at least 2 classes, got 1"):
        build.open_clips(settings)


@pytest.mark.parametrize("target", ["table3", "fig12"])
def test_few_labels_and_many_must_be_different_numbers_of_clips(folders, tmp_path, target):
    clips = read_percepts(folders["rgb"])
    fewest = clips.groups < 3  # so two training clips of each class in each of three folds
    write_percepts(folders["rgb"], clips.select(fewest))
    request = Request(target, "smoke", tmp_path / "out", 1, rgb=str(folders["rgb"]), folds=3)
    assert SMOKE.small == 2 and SMOKE.counts == (2, 4)
    with pytest.raises(DataError, match="expected at least . training clips in the largest class"):
        request.action_plan()
    assert not (tmp_path / "out").exists()
    dataclasses.replace(request, target="table1").action_plan()


def test_official_lists_take_the_place_of_folds(folders, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = read_percepts(folders["rgb"]).names
    for n in (1, 2, 3):
        for kind, some in (("train", slice(3 * n, None)), ("test", slice(3 * n))):
            listed = [f"{name.split('_')[1]}/{name}.avi" for name in names[some]]
            (lists / f"{kind}list{n:02}.txt").write_text("\n".join(listed) + "\n")
    plan = plan_of(folders, tmp_path / "out", lists=str(lists))
    assert [judged.tolist() for _, judged in plan.folds] == [list(range(3 * n)) for n in (1, 2, 3)]


def test_pretrained_or_not_a_classifier_has_the_same_sizes_and_scale(folders, tmp_path, tasks_here):
    plan = plan_of(folders, tmp_path / "out")
    with tasks_here():
        many_runs.train_all([plan.pretraining("composite", "rgb", 1)], 1)
    fits = [plan.fit(method, "rgb", 2, 1)[1] for method in ("composite", "baseline")]
    assert [fit.settings["encoder"] for fit in fits] == ["finetuned", "scratch"]
    fitted = []
    for fit in fits:
        (train, validation), *_ = action_fit.open_parts(fit)[0]
        fitted.append(
            classifier.fit(config.ClassifySettings(**fit.settings), train, validation, fit.run)
        )
    for a, b in zip(*([*vars(one.scale).values()] for one in fitted), strict=True):
        assert (a == b).all()
    trained = build.open_source(build.read_config(fits[0].run), "train")
    assert (fitted[0].scale.mean == trained.scale.mean).all()
    sizes = [{name: p.value.shape for name, p in one.classifier.params().items()} for one in fitted]
    assert sizes[0] == sizes[1]


def test_after_the_last_fold_the_first_is_used_again_with_other_labels(folders, tmp_path):
    plan = plan_of(folders, tmp_path / "out", folds=3)
    for method in ("composite", "baseline"):
        (first, again) = (plan.fit(method, "rgb", 2, n) for n in (1, 4))
        assert again[0] == f"{first[0]}-draw2" and again[1].judged == first[1].judged
        assert again[1].learn != first[1].learn and again[1].run == f"{first[1].run}-draw2"
        assert again[1].settings["seed"] == 4
    trials = [plan.pretraining("composite", "rgb", n).config for n in (1, 4)]
    assert trials[0].data == trials[1].data and trials[0].run.seed != trials[1].run.seed


def test_figure_12_takes_at_least_its_draws_and_every_fold_as_often(folders, tmp_path):
    def asked(target, **more):
        request = Request(
            target, "small", tmp_path / "out", 1, rgb=str(folders["rgb"]), folds=3, **more
        )
        return request.action_plan()

    plan, repetitions, each = asked("fig12")
    assert (repetitions, each) == (range(12), "draw")
    assert plan.scale.counts == (2, 4), "no class has 8 clips to learn from"
    assert asked("fig12", seeds=2)[1] == range(3)
    assert asked("table1")[1:] == (range(3), "fold")
    with pytest.raises(ConfigError, match="expected no --seeds"):
        asked("table1", seeds=2)


def test_other_percepts_at_the_same_place_are_refused_by_the_same_out(folders, tmp_path):
    plan_of({"rgb": folders["rgb"]}, tmp_path / "out")
    plan_of(folders, tmp_path / "out")
    clips = read_percepts(folders["flow"])
    clips.frames[0, 0] += 1
    write_percepts(folders["flow"], clips)
    plan_of({"rgb": folders["rgb"]}, tmp_path / "out")
    with pytest.raises(RunError, match="got other flow, joined: choose another --out"):
        plan_of(folders, tmp_path / "out")


def test_lists_with_missing_clips_need_partly(folders, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = read_percepts(folders["rgb"]).names
    for n in (1, 2, 3):
        for kind, some in (("train", names[3:]), ("test", (*names[:3], "v_hug_g99_c01"))):
            listed = [f"{name.split('_')[1]}/{name}.avi" for name in some]
            (lists / f"{kind}list{n:02}.txt").write_text("\n".join(listed) + "\n")
    with pytest.raises(DataError, match="v_hug_g99_c01 .* by --partly"):
        plan_of(folders, tmp_path / "out", lists=str(lists))
    plan = plan_real_clips(tmp_path / "out", SMOKE, "numpy", folders, 3, str(lists), partly=True)
    assert plan.folds[0][1].tolist() == [0, 1, 2]
    assert "missing are left out" in plan.about()["trained"]


def test_percepts_of_another_split_in_the_same_out_are_refused(folders, tmp_path):
    plan = plan_of(folders, tmp_path / "out")
    plan.pretraining("composite", "rgb", 0)
    other = dataclasses.replace(plan, folds=plan.folds[::-1])
    with pytest.raises(RunError, match="got others: choose another --out"):
        other.pretraining("composite", "rgb", 0)


def test_table_1_of_real_clips_is_written_with_its_protocol(folders, tmp_path, capsys, tasks_here):
    out = tmp_path / "out"
    words = ["table1", "--scale", "smoke", "--rgb", folders["rgb"], "--folds", 2, "--out", out]
    with tasks_here():
        assert run_command(lambda: reproduce.main([*map(str, words)])) == 0
    said = capsys.readouterr().out
    assert "18 clips of 3 classes, 6 recordings. Each fold holds out some recordings" in said
    assert "over 2 folds" in said and "| Size and length of the clip (ours) |" in said
    found = json.loads((out / "table1.json").read_text())
    assert len(found["claims"]["composite beats single frame, RGB"]["gains"]) == 2
    with Image.open(out / "table1.png") as picture:
        assert picture.width == int(13.33 * style.DPI)


def test_table_4_needs_both_streams(folders, tmp_path, capsys):
    words = ["table4", "--rgb", str(folders["rgb"]), "--out", str(tmp_path / "out")]
    assert run_command(lambda: reproduce.main(words)) == 2
    assert "expected --rgb and --flow for table4" in capsys.readouterr().err
