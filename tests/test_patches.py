"""Patches of natural video: every layout reads the same, training statistics, and a whole run."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minilstm import config, evaluate, report, train, visualize
from minilstm.command import run_command
from minilstm.data import Patches, as_frames, as_vectors, read_patches
from minilstm.errors import ConfigError, DataError, ShapeError
from minilstm.runs import build
from minilstm.runs.run_folder import read_log
from minilstm.training import loop

DATA = os.environ.get("MINILSTM_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="needs real patches: set MINILSTM_DATA to the folder that has natural/"
)


def patches(N=20, T=7, height=6, width=5, colours=(3,)):
    """Coloured stripes that drift, each sequence with its own colour, direction and speed."""
    rng = np.random.default_rng(3)
    t, y, x = np.ogrid[:T, :height, :width]
    shape = (N, T, height, width, *colours)
    found = np.empty(shape, np.uint8)
    for n in range(N):
        speed, angle, tint = rng.uniform(0.3, 1.5), rng.uniform(0, 6), rng.uniform(0, 6, colours)
        wave = x * np.cos(angle) + y * np.sin(angle) - speed * t
        wave = wave.reshape(*wave.shape, *(1 for _ in colours))
        found[n] = 128 + 120 * np.sin(wave + tint)
    return found


def refused(function, *arguments, **keywords):
    """The message of a refusal: one line."""
    with pytest.raises((DataError, ConfigError)) as refusal:
        function(*arguments, **keywords)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("colours", [(3,), (1,), ()])
def test_every_layout_reads_as_time_first_and_colours_last(tmp_path, suffix, colours):
    array = patches(colours=colours)
    layouts = [array, np.moveaxis(array, 4, 2)] if colours else [array]
    expected = array.swapaxes(0, 1)
    expected = expected[..., 0] if colours == (1,) else expected
    for layout in layouts:
        path = tmp_path / f"my.{suffix}"
        np.save(path, layout) if suffix == "npy" else np.savez_compressed(path, layout)
        found = read_patches(path)
        np.testing.assert_array_equal(found, expected)
        source = Patches(path, num_frames=4)
        assert source.frame_shape == expected.shape[2:] and source.num_frames == 4
        assert source.batch(0, 3).shape == (4, 3, *expected.shape[2:])


def test_an_archive_may_hold_more_if_one_array_is_named_patches(tmp_path):
    np.savez(tmp_path / "my.npz", source=np.array(["a.avi"] * 20), patches=patches())
    np.testing.assert_array_equal(read_patches(tmp_path / "my.npz"), patches().swapaxes(0, 1))
    np.savez(tmp_path / "other.npz", one=patches(), two=patches())
    assert "named patches" in refused(read_patches, tmp_path / "other.npz")


@needs_data
def test_the_real_patches_read(tmp_path):
    path = Path(DATA, "natural/patches_fixture.npz")
    source = Patches(path, 29, split="train")
    assert source.frame_shape == (32, 32, 3) and source.num_sequences == 80
    x = as_vectors(source.batch(0, 80), source.scale)
    assert x.shape == (29, 80, 3072)
    assert abs(x.mean()) < 1e-3 and abs(x.std() - 1) < 1e-3


def member(raw, name="patches.npy"):
    """An .npz file with these bytes for its array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, raw)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


BAD = {
    "floats.npy": npy(patches() / 255),
    "words.npy": npy(np.array(["a"])),
    "three_dimensions.npy": npy(patches()[:, 0, :, :, 0]),
    "no_colours.npy": npy(patches()[..., :2]),
    "colours_on_both.npy": npy(patches(height=3)[:, :, :3]),
    "nothing.npy": npy(patches()[:, :0]),
    "cut.npy": npy(patches())[:-1],
    "objects.npy": npy(np.array([{}], object)),
    "empty.npy": b"",
    "empty.npz": b"",
    "no_array.npz": member(b"words", "readme.txt"),
    "cut.npz": member(npy(patches())[:-1]),
    "half.npz": member(npy(patches()))[:2000],
    "objects.npz": member(npy(np.array([{}], object))),
    "pickle.npz": pickle.dumps(patches()),
    "huge.npz": member(npy(patches()).replace(b"(20, 7,", b"(9999999999, 7,")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name])
    assert name in refused(read_patches, tmp_path / name)


@pytest.mark.parametrize("name", ["nowhere.npy", "nowhere.npz", "folder.npz"])
def test_a_missing_file_or_a_folder_in_its_place_is_refused(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    assert name in refused(read_patches, tmp_path / name)


def test_too_few_or_too_short_sequences_are_refused(tmp_path):
    np.save(tmp_path / "my.npy", patches())
    assert "<= 7" in refused(Patches, tmp_path / "my.npy", 8)
    np.save(tmp_path / "few.npy", patches(N=8))
    assert "at least 10" in refused(Patches, tmp_path / "few.npy", 7, split="test")


# ------------------------------------------------------------------------------------- groups


def grouped(path, groups, N=20):
    np.savez(path, patches=patches(N), groups=groups)
    return path


def test_a_split_takes_whole_groups_so_that_no_film_is_on_both_sides(tmp_path):
    groups = np.array([0, 8, 8, 19, 3, 18, 29, 7, 0, 8, 0, 1, 12, 13, 24, 5, 6, 7, 10, 20])
    path = grouped(tmp_path / "my.npz", groups)
    array, members = patches(), {}
    for split, tenths in (("train", range(8)), ("test", [8]), ("validation", [9])):
        source = Patches(path, split=split)
        found = source.batch(0, source.num_sequences).swapaxes(0, 1)
        members[split] = [n for n in range(20) if any((array[n] == f).all() for f in found)]
        assert members[split] == [n for n in range(20) if groups[n] % 10 in tenths]
        expected = array[np.isin(groups % 10, range(8))].reshape(-1, 3).mean(axis=0) / 255
        np.testing.assert_allclose(source.scale.mean, expected, rtol=1e-5)
    assert sorted(sum(members.values(), [])) == list(range(20))
    assert Patches(path, split="all").num_sequences == 20


@pytest.mark.parametrize(
    "groups",
    [np.arange(19), np.zeros(20), np.full(20, -1), np.full((20, 1), 1), np.array(["a"] * 20)],
    ids=["few", "floats", "negative", "two axes", "words"],
)
def test_groups_that_are_no_numbers_of_the_patches_are_refused(tmp_path, groups):
    assert "my.npz" in refused(Patches, grouped(tmp_path / "my.npz", groups))


def test_a_file_whose_groups_leave_a_split_empty_is_refused_with_the_split(tmp_path):
    path = grouped(tmp_path / "my.npz", np.arange(20) % 8)
    assert "none in 8 groups" in refused(Patches, path, split="test")
    assert "train on" in refused(Patches, grouped(tmp_path / "held.npz", np.full(20, 8)))


# --------------------------------------------------------------------------------- normalised


@pytest.mark.parametrize("colours", [(3,), ()])
def test_the_scale_is_that_of_each_colour_in_the_training_sequences_alone(tmp_path, colours):
    array = patches(N=230, colours=colours)
    array[8::10], array[9::10] = 255, 0  # of the test and the validation: nobody may look at it
    np.save(tmp_path / "my.npy", array)
    trained = array[np.arange(230) % 10 < 8][:, :5].reshape(-1, *(colours or (1,))) / 255
    for split in ("train", "validation", "test", "all"):
        scale = Patches(tmp_path / "my.npy", 5, split=split).scale
        np.testing.assert_allclose(scale.mean, trained.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(scale.std, trained.std(axis=0), rtol=1e-6)


def test_vectors_of_training_patches_have_mean_0_and_deviation_1_and_turn_back(tmp_path):
    np.save(tmp_path / "my.npy", patches())
    source = Patches(tmp_path / "my.npy", split="train")
    frames = source.batch(0, source.num_sequences)
    x = as_vectors(frames, source.scale)
    assert x.dtype == np.float32 and x.shape == (7, 16, 6 * 5 * 3)
    each = x.reshape(-1, 3)
    np.testing.assert_allclose(each.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(each.std(axis=0), 1, atol=1e-5)
    back = as_frames(x, source.frame_shape, source.scale)
    np.testing.assert_allclose(back, frames / 255, atol=1e-6)
    with pytest.raises(ShapeError):
        as_frames(x, (6, 5), source.scale)


def test_a_colour_that_never_varies_cannot_be_normalised(tmp_path):
    array = patches()
    array[..., 1] = 7
    np.save(tmp_path / "my.npy", array)
    assert "colour 1" in refused(Patches, tmp_path / "my.npy")


# ------------------------------------------------------------------------------------ the run


def flags(path, out):
    small = "--past 4 --future 3 --hidden 6 --batch-size 4 --steps 2 --quiet"
    return ["patches", "--path", str(path), "--out", str(out), *small.split()]


def judged(capsys, *words):
    assert run_command(lambda: evaluate.main([*map(str, words), "--json"])) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("colours", [(3,), ()])
def test_a_run_on_patches_trains_draws_and_is_judged_by_squared_error(tmp_path, capsys, colours):
    np.save(tmp_path / "my.npy", patches(colours=colours))
    out = tmp_path / "run"
    assert train.main(flags(tmp_path / "my.npy", out)) == 0
    settings = build.read_config(out)
    assert (settings.data.source, settings.data.path) == ("patches", str(tmp_path / "my.npy"))
    with Image.open(out / "prediction.png") as picture:
        pixels = np.array(picture.convert("RGB")).astype(int)
    coloured = np.ptp(pixels[110:], axis=-1) > 60
    assert coloured.any() == bool(colours), "colours are shown as such, and grey as grey"
    result = judged(capsys, out, "--sequences", 50)
    assert result["unit"] == "half the squared error per frame"
    assert result["sequences"] == 2, "there are two of twenty to test with, each judged once"
    assert list(result["baselines"]) == ["copy of the last frame", "mean image"]
    source = build.open_source(settings, "test")
    x = as_vectors(source.batch(0, 2), source.scale)
    expected = 0.5 * ((x[4:] - x[3]) ** 2).sum(axis=-1).mean(axis=1)
    copy = result["baselines"]["copy of the last frame"]["per_step"]
    np.testing.assert_allclose(copy, expected, rtol=1e-5)


def test_another_file_is_normalised_as_the_training_data_were(tmp_path, capsys):
    np.save(tmp_path / "my.npy", patches())
    train.main(flags(tmp_path / "my.npy", tmp_path / "run"))
    other = patches(N=3) // 2 + 100
    np.save(tmp_path / "other.npy", other)
    result = judged(capsys, tmp_path / "run", "--data", tmp_path / "other.npy")
    assert result["sequences"] == 3
    scale = Patches(tmp_path / "my.npy", 7).scale
    x = as_vectors(other.swapaxes(0, 1), scale)
    expected = 0.5 * ((x[4:] - x[3]) ** 2).sum(axis=-1).mean()
    copy = result["baselines"]["copy of the last frame"]["mean"]
    assert copy == pytest.approx(expected, rel=1e-5)


def test_the_own_file_of_a_run_and_its_copies_give_the_test_split(tmp_path, capsys):
    np.save(tmp_path / "my.npy", patches())
    train.main(flags(tmp_path / "my.npy", tmp_path / "run"))
    expected = judged(capsys, tmp_path / "run")
    shutil.copy(tmp_path / "my.npy", tmp_path / "copy.npy")
    for name in ("my.npy", "copy.npy"):
        assert judged(capsys, tmp_path / "run", "--data", tmp_path / name) == expected


def test_a_run_whose_file_was_replaced_is_not_judged_or_drawn(tmp_path, capsys):
    np.save(tmp_path / "my.npy", patches())
    np.save(tmp_path / "other.npy", patches()[::-1])
    train.main(flags(tmp_path / "my.npy", tmp_path / "run"))
    shutil.copy(tmp_path / "other.npy", tmp_path / "my.npy")
    run, out = str(tmp_path / "run"), str(tmp_path / "figures")
    for command, words in (
        (evaluate, [run]),
        (evaluate, [run, "--data", str(tmp_path / "other.npy")]),
        (report, [run]),
        (visualize, [run, "--out", out]),
    ):
        assert run_command(lambda: command.main(words)) == 2  # noqa: B023
        said = capsys.readouterr().err
        assert "was trained on, got other patches" in said and said.count("\n") == 1


def test_the_squared_error_of_moving_stripes_falls(tmp_path):
    np.save(tmp_path / "my.npy", patches(N=40))
    data = {"source": "patches", "path": str(tmp_path / "my.npy"), "past": 4, "future": 3}
    run = {"batch_size": 16, "steps": 200, "log_every": 10, "validate_every": 0}
    settings = config.load([], None, {"data": data, "model": {"hidden": 16}, "run": run})
    loop.train(settings, tmp_path / "run", quiet=True)
    rows = read_log(tmp_path / "run/metrics.jsonl")
    losses = [row["future"] for row in rows if "future" in row]
    assert losses[-1] < 0.5 * losses[0]
