"""Folders of percepts: read as they were written or refused; windows, normalisation, whole runs."""

import dataclasses
import json
import sys

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py is not installed")

import h5py

from minilstm import config, evaluate, train, visualize
from minilstm.command import run_command
from minilstm.data import Clips, Percepts, Scale, as_vectors, read_percepts, write_percepts
from minilstm.data.clips import clip_vectors
from minilstm.errors import ConfigError, DataError, RunError, ShapeError
from minilstm.evaluation import judging
from minilstm.experiments.report_page import write_report
from minilstm.runs import build
from minilstm.runs.run_folder import read_log
from minilstm.training import loop


def clips(N=12, D=6, seed=0, dtype=np.float32):
    """Clips of 5 to 16 frames; number t of clip n is 100 n + t in its first dimension."""
    rng = np.random.default_rng(seed)
    lengths = 5 + np.arange(N) % 12
    frames = rng.normal(3, [0.1, 1, 2, 3, 4, 5][:D], (lengths.sum(), D)).astype(dtype)
    starts = np.cumsum(lengths) - lengths
    for n, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        frames[start : start + length, 0] = 100 * n + np.arange(length)
    return Clips(frames, lengths, np.arange(N) % 3, ("run", "jump", "sit"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "percepts"
    folder.mkdir()
    write_percepts(folder, clips())
    return folder


def refused(function, *arguments, **keywords):
    """The message of a refusal: one line."""
    with pytest.raises((DataError, ConfigError)) as refusal:
        function(*arguments, **keywords)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_was_written_is_read(tmp_path, dtype):
    written = dataclasses.replace(
        clips(dtype=dtype), groups=np.arange(12) // 2, sizes=np.arange(24).reshape(12, 2),
        names=tuple(f"sit/ä {n}.avi" for n in range(12)),
    )  # fmt: skip
    write_percepts(tmp_path, written)
    found = read_percepts(tmp_path)
    for item in dataclasses.fields(Clips):
        expected, got = getattr(written, item.name), getattr(found, item.name)
        np.testing.assert_array_equal(got, expected, err_msg=item.name)
    assert found.frames.dtype == dtype
    assert len(list(tmp_path.iterdir())) == 7
    raw = (tmp_path / "features.h5").read_bytes()
    write_percepts(tmp_path, written)
    assert (tmp_path / "features.h5").read_bytes() == raw


def test_some_of_the_clips_are_those_of_all_and_no_others_are_read(tmp_path):
    full = clips()
    full.clip(0)[:] = np.nan  # which would be refused
    write_percepts(tmp_path, full)
    which = np.array([7, 2, 11])
    found, expected = read_percepts(tmp_path, which), full.select(which)
    for name in ("frames", "lengths", "labels", "groups", "sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.names == expected.names and found.classes == expected.classes
    assert len(read_percepts(tmp_path, []).frames) == 0
    assert "expected finite numbers" in refused(read_percepts, tmp_path, [0])


def test_the_authors_files_alone_are_enough_whatever_the_array_is_called(tmp_path):
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["hidden6"] = np.ones((7, 4), np.float32)
    (tmp_path / "num_frames.txt").write_text("3\r\n4\r\n")
    (tmp_path / "labels.txt").write_text("2\n0\n")
    found = read_percepts(tmp_path)
    assert found.lengths.tolist() == [3, 4] and found.labels.tolist() == [2, 0]
    assert found.classes == ("0", "1", "2") and found.groups.tolist() == [0, 1]


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


TOTAL = int(clips().lengths.sum())
WRONG_TEXTS = {
    "num_frames.txt": ["", "3\n", "a\n" * 12, "5\n" * 11 + "0\n", "5 5\n" * 12, "-5\n" * 12,
                       "9" * 20 + "\n", "9" * 5000 + "\n", "5.0\n" * 12, "\n5\n"],
    "labels.txt": ["", "1\n", "x\n" * 12, "-2\n" * 12, "3\n" * 12, "1 2\n" * 12],
    "groups.txt": ["", "1\n", "x\n" * 12],
    "sizes.txt": ["1\n" * 12, "1 2\n", "1 2 3\n" * 12],
    "names.txt": ["a\n"],
    "classes.txt": ["run\n", "run\nwalk\nwalk \n", "run\nU\u0308\n\u00dc\n"],
}  # fmt: skip
ARRAYS = {
    "fewer frames": {"features": np.ones((TOTAL - 1, 6), np.float32)},
    "whole numbers": {"features": np.ones((TOTAL, 6), np.int32)},
    "one dimension": {"features": np.ones(TOTAL, np.float32)},
    "no numbers": {"features": np.ones((TOTAL, 0), np.float32)},
    "not a number": {"features": np.full((TOTAL, 6), np.nan, np.float32)},
    "too large": {"features": np.full((TOTAL, 6), np.inf, np.float16)},
    "two of other names": {"a": np.ones((TOTAL, 6)), "b": np.ones((TOTAL, 6))},
    "words": {"features": np.full((TOTAL, 6), b"word")},
    "nothing": {},
}


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_texts_that_do_not_fit_are_refused_in_a_line(folder, name):
    for text in WRONG_TEXTS[name]:
        (folder / name).write_text(text)
        assert str(folder) in refused(read_percepts, folder)
    (folder / name).write_bytes(b"\xff\xfe\n")
    assert name in refused(read_percepts, folder)


def test_texts_may_begin_with_a_byte_order_mark(folder):
    expected = read_percepts(folder)
    for path in folder.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = read_percepts(folder)
    assert (found.classes, found.names) == (expected.classes, expected.names)
    np.testing.assert_array_equal(found.lengths, expected.lengths)


def test_classes_that_look_alike_are_refused(folder):
    (folder / "classes.txt").write_text("walk\nwalk \nsit\n")
    assert "got 'walk' and 'walk '" in refused(read_percepts, folder)


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_do_not_fit_are_refused_in_a_line(folder, what):
    h5(folder / "features.h5", **ARRAYS[what])
    assert "features.h5" in refused(read_percepts, folder)


def test_files_that_are_missing_or_damaged_are_refused_in_a_line(folder):
    path = folder / "features.h5"
    raw = path.read_bytes()
    for damaged in (raw[:100], raw[: len(raw) // 2], b"", b"no HDF5"):
        path.write_bytes(damaged)
        refused(read_percepts, folder)
    with h5py.File(path, "w") as file:  # claims frames that are nowhere
        file.create_dataset("features", (TOTAL, 10**9), np.float32, chunks=(1, 1000))
    assert "bytes" in refused(read_percepts, folder)
    for name in ("features.h5", "labels.txt", "num_frames.txt"):
        (folder / name).unlink()
        assert name in refused(read_percepts, folder)


def test_without_h5py_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for function in (read_percepts, lambda folder: write_percepts(folder, clips())):
        assert "pip install" in refused(function, folder)


# ------------------------------------------------------------------------------------- the source


def test_windows_are_consecutive_frames_of_one_clip_and_all_come_before_any_comes_twice(folder):
    for stride in (1, 3):
        source = Percepts(folder, 6, stride=stride)
        N = source.num_sequences
        batch = source.batch(0, N)
        assert batch.shape == (6, N, 6) and batch.dtype == np.float32
        numbers = batch[:, :, 0]
        assert (np.diff(numbers, axis=0) == 1).all()
        assert len(set(numbers[0])) == N
        covered = set(numbers.ravel().tolist())
        lengths = clips().lengths
        assert covered == {100 * n + t for n, L in enumerate(lengths) if L >= 6 for t in range(L)}
    np.testing.assert_array_equal(source.batch(1, 4), Percepts(folder, 6, stride=3).batch(1, 4))


def test_short_videos_are_left_out_and_a_split_without_windows_is_refused(folder):
    assert Percepts(folder, 16).num_sequences == 1  # the only one of 16 frames
    assert "at least 17 frames" in refused(Percepts, folder, 17)
    assert "12 recordings" in refused(Percepts, folder, 16, split="test")


def test_splits_share_no_recording():
    c = dataclasses.replace(clips(24), groups=np.arange(24) // 2)
    found = {s: Percepts(c, 5, split=s) for s in ("train", "validation", "test")}
    groups = {
        s: {int(n) // 200 for n in p.batch(0, p.num_sequences)[0, :, 0]} for s, p in found.items()
    }
    assert groups == {"train": {0, 1, 2, 3, 4, 5, 6, 7, 10, 11}, "test": {8}, "validation": {9}}


def test_normalised_training_windows_have_mean_0_and_deviation_1_and_others_do_not_matter():
    c = clips(24)
    c.frames[:, 5] = 7  # never changes
    scale = Percepts(c, 5, split="train").scale
    train = c.select([n for n in range(24) if n % 10 < 8])
    x = (train.frames - scale.mean) / scale.std
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), [1, 1, 1, 1, 1, 0], atol=1e-4)
    for n in (8, 9, 18, 19):
        c.clip(n)[:] = 1e6
    for split in ("train", "test", "all"):
        np.testing.assert_array_equal(Percepts(c, 5, split=split).scale.mean, scale.mean)


def test_frames_between_windows_that_leave_gaps_do_not_count_for_the_scale():
    frames = np.repeat([[1.0], [100.0], [3.0], [3.0]], 3, axis=0).astype(np.float32)
    c = Clips(frames, np.array([12]), np.array([0]), ("one",))  # windows begin at 0, 6 and 9
    scale = Percepts(c, 3, split="train", stride=6).scale
    np.testing.assert_allclose([*scale.mean, *scale.std], [7 / 3, np.std([1, 3, 3])])


def test_vectors_of_percepts_are_only_normalised():
    x = np.ones((2, 3, 4), np.float16)
    scale = Scale(np.arange(4, dtype=np.float32), np.full(4, 2, np.float32))
    found = as_vectors(x, scale)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.broadcast_to([0.5, 0, -0.5, -1], (2, 3, 4)))
    with pytest.raises(ShapeError):
        as_vectors(x)


def test_vectors_are_float32_whatever_the_scale_was_computed_in():
    scale = Scale(np.arange(4.0), np.full(4, 2.0))
    frames = np.ones((2, 3, 4), np.float32)
    assert as_vectors(frames, scale).dtype == clip_vectors(frames, scale).dtype == np.float32


def test_pictures_are_no_percepts():
    pictures = Clips(np.zeros((6, 4, 4), np.uint8), np.array([6]), np.array([0]), ("a",))
    assert "floats" in refused(Percepts, pictures, 3)


# ------------------------------------------------------------------------------------- whole runs


def settings(folder, **run):
    run = {"steps": 12, "batch_size": 4, "log_every": 4, "validate_every": 6} | run
    return {
        "data": {"source": "percepts", "path": str(folder), "past": 3, "future": 2, "stride": 2},
        "model": {"hidden": 5},
        "run": run,
    }


def test_a_run_on_percepts_trains_evaluates_and_resumes_to_the_bit(folder, tmp_path, capsys):
    write_percepts(folder, clips(40))
    run = config.load(overrides=settings(folder))
    loop.train(run, tmp_path / "whole")
    said = capsys.readouterr().out
    assert "3 frames in, 2 to predict, 6 numbers each" in said
    assert {"curves.png", "checkpoint.safetensors"} <= {
        p.name for p in (tmp_path / "whole").iterdir()
    }
    assert not (tmp_path / "whole/prediction.png").exists()  # percepts are no pictures
    rows = read_log(tmp_path / "whole/metrics.jsonl")
    assert all("future" in row for row in rows if "learning_rate" in row)
    loop.train(config.load(overrides=settings(folder, steps=5)), tmp_path / "parts", quiet=True)
    loop.train(run, tmp_path / "parts", quiet=True, resume=True)
    one, other = (build.load_run(tmp_path / name) for name in ("whole", "parts"))
    np.testing.assert_array_equal(one.flat().value, other.flat().value)

    for data in ([], ["--data", str(folder)]):
        assert evaluate.main([str(tmp_path / "whole"), "--json", *data]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["unit"] == "half the squared error per frame" and result["frame_shape"] == [6]
        assert set(result["baselines"]) == {"copy of the last frame", "mean image"}
        # normalised numbers: the mean costs half of each number's variance, 1
        assert 1 < result["baselines"]["mean image"]["mean"] < 9
    assert evaluate.main([str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out
    assert "free-running future is" in said and "sharp" not in said


def test_a_model_learns_to_continue_percepts_that_can_be_continued(folder, tmp_path, train_undrawn):
    t = np.arange(12)[:, None]
    phases = np.random.default_rng(0).uniform(0, 6, (40, 1, 1))
    waves = np.sin(0.7 * t + phases + np.arange(6)).reshape(-1, 6).astype(np.float32)
    c = Clips(waves, np.full(40, 12), np.zeros(40, int), ("wave",))
    write_percepts(folder, c)
    overrides = settings(folder, steps=400, batch_size=20)
    overrides |= {"model": {"hidden": 24}, "optimizer": {"learning_rate": 0.01}}
    train_undrawn(overrides, tmp_path / "run")
    run = build.read_config(tmp_path / "run")
    frames = judging.sequences(build.open_source(run, "test"), 20)
    mean = judging.mean_image(run)
    result = judging.evaluate(build.load_run(tmp_path / "run"), frames, 3, mean, (6,))
    best = judging.best_baseline(result)[1]["mean"]
    assert result["future"]["free_running"]["mean"] < 0.2 * best


def test_figures_of_pictures_are_left_out_with_a_reason(folder, tmp_path, train_undrawn, capsys):
    write_percepts(folder, clips(40))
    train_undrawn(settings(folder, steps=2), tmp_path / "run")
    assert visualize.main([str(tmp_path / "run"), "--only", "fig5", "fig9", "fig10"]) == 0
    assert capsys.readouterr().out.count("percepts are not pictures") == 2
    with pytest.raises(RunError, match="a run on pictures"):
        write_report(tmp_path / "run")


def test_a_run_without_a_path_or_on_a_folder_that_is_none_ends_in_one_line(tmp_path, capsys):
    for path in ([], ["--path", str(tmp_path)]):
        arguments = ["--data", "percepts", *path, "--out", str(tmp_path / "run")]
        assert run_command(lambda arguments=arguments: train.main(arguments)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1


def test_groups_that_are_added_after_training_would_change_the_split(
    folder, tmp_path, train_undrawn, capsys
):
    write_percepts(folder, clips(40))
    groups = (folder / "groups.txt").read_text()
    (folder / "groups.txt").unlink()
    train_undrawn(settings(folder), tmp_path / "run")
    (folder / "groups.txt").write_text(groups)
    assert run_command(lambda: evaluate.main([str(tmp_path / "run")])) == 2
    assert "was trained on, got other groups.txt: restore" in capsys.readouterr().err


def test_percepts_from_elsewhere_are_normalised_as_the_training_data_were(tmp_path):
    for name, seed in (("here", 0), ("there", 1)):
        (tmp_path / name).mkdir()
        moved = clips(20, seed=seed)
        moved.frames[:] = moved.frames * (1 + seed) + 50 * seed
        write_percepts(tmp_path / name, moved)
    data = {"source": "percepts", "path": str(tmp_path / "here"), "past": 3, "future": 2}
    settings = config.load(overrides={"data": data})
    trained = build.open_source(settings, "train").scale
    for scale in (
        build.open_source(settings, "validation").scale,
        build.open_test_source(settings, None).scale,
        build.open_test_source(settings, str(tmp_path / "there")).scale,
    ):
        np.testing.assert_array_equal(scale.mean, trained.mean)
        np.testing.assert_array_equal(scale.std, trained.std)
