"""One command from a video to a page: it cuts, plans, trains, resumes, draws, and refuses."""

import html
import json
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed")

from PIL import Image
from videos import moving_frames, write_sound, write_video

from data_tools import learn_video
from minilstm import config, evaluate
from minilstm.command import run_command
from minilstm.data import as_vectors
from minilstm.errors import DataError
from minilstm.evaluation import judging
from minilstm.experiments import film_page
from minilstm.runs.run_folder import RunFolder
from minilstm.training import pace
from minilstm.training.progress import Progress

PAGE = film_page.FilmPage(Path("film.html"), "")
T, SIZE = learn_video.LENGTH, learn_video.SIZE


def learn(*arguments):
    """The exit status of the command, called in this process."""
    return run_command(lambda: learn_video.main([str(word) for word in arguments]))


@pytest.fixture(autouse=True)
def small_and_timed(tmp_path, monkeypatch):
    """A small model, few squares, steps of a second by the clock, and an empty folder."""
    own = config.load

    def small(presets=(), config_file=None, overrides=None):
        return own(presets, config_file, {"model": {"hidden": 6}, **(overrides or {})})

    monkeypatch.setattr(learn_video, "load", small)
    monkeypatch.setattr(pace, "seconds_per_step", lambda config: 1.0)
    monkeypatch.setattr(learn_video, "TRIED", 1000)
    few = {name: (group, 25) for name, (group, _) in learn_video.SQUARES.items()}
    monkeypatch.setattr(learn_video, "SQUARES", few)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A film of four seconds: texture that drifts to the right."""
    return write_video(tmp_path_factory.mktemp("film") / "my clip.mp4", moving_frames(104, 48, 64))


@pytest.fixture(scope="module")
def made(clip, tmp_path_factory):
    """The folder of the whole command, made once: six steps of a second, and 15 for the rest."""
    folder = tmp_path_factory.mktemp("made") / "film"
    with pytest.MonkeyPatch.context() as patch:
        small_and_timed.__wrapped__(folder.parent, patch)
        patch.setattr(learn_video.time, "monotonic", lambda: 0.0)
        assert learn(clip, "--minutes", 21 / 60, "--out", folder) == 0
    return folder


def test_one_command_goes_from_a_video_to_a_page(made, clip, tmp_path, capsys):
    text = (made / "film.html").read_text("utf-8")
    assert "my clip.mp4" in text and "copy of the last frame" in text and "mean image" in text
    assert "data:image/gif;base64," in text and not re.search(r'(?:src|href)="https?:', text)
    for section in ("film", "evaluation", "memory", "limits", "training", "next"):
        assert f'<section id="{section}">' in text and f'href="#{section}"' in text
    with Image.open(made / "film.gif") as film:
        assert film.n_frames == T
    # its run is one like any other
    assert run_command(lambda: evaluate.main([str(made / "run")])) == 0
    future = re.search(r"future, free-running\s+([\d.]+)", capsys.readouterr().out)[1]
    assert f"<b>{future}</b>" in text


def test_the_number_of_steps_is_chosen_before_training_and_written_down(made):
    plan = json.loads((made / "plan.json").read_text())
    assert plan["steps"] == 21 - learn_video.OTHER_SECONDS and plan["seconds_per_step"] == 1.0
    settings = config.from_toml(made / "run" / "config.toml")
    assert settings.run.steps == settings.optimizer.schedule_steps == plan["steps"]


def test_no_frame_of_the_validation_or_the_test_is_trained_on(made):
    step = json.loads((made / "plan.json").read_text())["film"]["step"]
    with np.load(made / "film.npz") as arrays:
        first, groups = arrays["places"][:, 0], arrays["groups"]
    last = first + step * (T - 1)
    assert {0, 8, 9} == set(groups.tolist())
    assert last[groups == 0].max() < first[groups == 9].min()
    assert last[groups == 9].max() < first[groups == 8].min()


def test_squares_are_cut_where_they_say_and_only_those_for_training_are_augmented(made):
    step = json.loads((made / "plan.json").read_text())["film"]["step"]
    with np.load(made / "film.npz") as arrays:
        film, patches, places, groups = (
            arrays[name] for name in ("film", "patches", "places", "groups")
        )
    cut = np.stack(
        [
            film[n : n + step * T : step, y : y + SIZE, x : x + SIZE][:T]
            for n, y, x in places.tolist()
        ]
    )
    assert np.array_equal(patches[groups != 0], cut[groups != 0])
    augmented = patches[groups == 0]
    assert not np.array_equal(augmented, cut[groups == 0])
    # the same pixels, elsewhere
    for found, square in zip(augmented, cut[groups == 0], strict=True):
        assert np.array_equal(np.sort(found, axis=None), np.sort(square, axis=None))


def test_the_same_command_again_trains_nothing_and_draws_the_page(
    made, clip, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Progress, "draw", lambda self: None)
    shutil.copytree(made, tmp_path / "film")
    before = (tmp_path / "film/run/checkpoint.safetensors").read_bytes()
    (tmp_path / "film/film.html").unlink()
    assert learn(clip, "--minutes", 21 / 60, "--out", "film") == 0
    assert (tmp_path / "film/run/checkpoint.safetensors").read_bytes() == before
    assert (tmp_path / "film/film.html").exists()
    assert "copy of the last frame" in capsys.readouterr().out


def test_after_ctrl_c_the_same_command_goes_on_to_the_same_weights(made, clip, monkeypatch, capsys):
    finish_step = Progress.finish_step

    def interrupted(self, rate, stop):
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)
        return finish_step(self, rate, stop)

    monkeypatch.setattr(learn_video.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(Progress, "draw", lambda self: None)
    monkeypatch.setattr(learn_video, "write_film_page", lambda *_: PAGE)
    words = clip, "--minutes", 21 / 60, "--out", "film"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "finish_step", interrupted)
        assert learn(*words) == 128 + signal.SIGINT
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("  go on")]
    shown = line.removeprefix("next").removesuffix("go on").strip()
    assert shown.startswith("python -m data_tools.learn_video ")
    assert learn(*shlex.split(shown)[3:]) == 0
    run = RunFolder("film/run")
    assert [row["step"] for row in run.rows() if "future" in row] == [1, 2, 3, 4, 5, 6]
    assert run.best.read_bytes() == (made / "run" / run.best.name).read_bytes()


def test_what_can_not_be_learned_is_refused_in_one_line(clip, tmp_path, capsys):
    still = np.broadcast_to(moving_frames(1, 48, 64), (104, 48, 64, 3))
    shots = np.concatenate([moving_frames(60, 48, 64), 255 - moving_frames(60, 48, 64, seed=1)])
    (tmp_path / "words.mp4").write_text("to be or not to be")
    films = {
        "none.mp4": "got no file",
        "words.mp4": "got not a video",
        write_sound(tmp_path / "sound.wav"): "got no video stream",
        write_video(
            tmp_path / "short.mp4", moving_frames(99, 16, 16)
        ): "got 99 (read: 99 frames in 4.0 seconds, "
        "25 a second, with no cut): use a film of one shot with more frames",
        write_video(tmp_path / "shots.mp4", shots): "got 60 (read: 120 frames in 4.8 "
        "seconds, 25 a second, with 1 cut)",
        write_video(tmp_path / "still.mp4", still): "squares in motion in every part",
    }
    for film, why in films.items():
        assert learn(film, "--minutes", 1) == 2
        said = capsys.readouterr().err
        assert why in said.splitlines()[-1] and "error: " in said
        assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_refused(made, clip, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    assert learn(clip, "--out", "mine") == 2
    assert "expected a new folder" in capsys.readouterr().err
    shutil.copytree(made, tmp_path / "film")
    (tmp_path / "film/plan.json").write_text("[1")
    assert learn(clip, "--minutes", 1, "--out", "film") == 2
    assert "plan.json: expected what this command wrote" in capsys.readouterr().err


def test_two_commands_never_work_in_one_folder(clip, tmp_path, monkeypatch, capsys):
    """The second one is refused while the first still reads the film, and takes nothing away."""
    statuses = []

    def seconds(*_):
        statuses.extend(learn(clip, "--minutes", minutes, "--out", "new/film") for minutes in "12")
        raise DataError("enough")

    monkeypatch.setattr(learn_video, "cut_film", seconds)
    assert learn(clip, "--minutes", 1, "--out", "new/film") == 2 and statuses == [2, 2]
    *refused, last = capsys.readouterr().err.splitlines()
    assert len(refused) == 2 and all("another process that works in it" in line for line in refused)
    assert last == "error: enough" and list(tmp_path.iterdir()) == []


def test_a_folder_that_a_killed_command_left_without_a_plan_is_used(clip, tmp_path, monkeypatch):
    (tmp_path / "film").mkdir()
    (tmp_path / "film/.lock").touch()
    called = []
    monkeypatch.setattr(learn_video, "cut_film", lambda *words: called.append(words) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn(clip, "--out", "film")
    assert called and list((tmp_path / "film").iterdir()) == []


def test_a_folder_that_can_not_be_made_is_found_before_the_film_is_read(
    clip, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(learn_video, "cut_film", None)
    (tmp_path / "letter").write_text("mine")
    for out in ("letter", "letter/film", "f" * 256):
        assert learn(clip, "--out", out) == 2
        said = capsys.readouterr().err
        assert "expected a folder to write to" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["letter"]


def test_a_plan_that_lacks_something_is_refused_in_one_line(made, clip, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "film")
    text = (tmp_path / "film/plan.json").read_text()
    facts = ("rate", "cuts", "step", "ends", "squares", "test_from", "test", "known")
    for name in ("video", "minutes", "seed", "steps", *facts):
        plan = json.loads(text)
        del (plan["film"] if name in facts else plan)[name]
        (tmp_path / "film/plan.json").write_text(json.dumps(plan))
        assert learn(clip, "--minutes", 21 / 60, "--out", "film") == 2
        said = capsys.readouterr().err
        assert f"expected what this command wrote, got KeyError ('{name}')" in said, said
        assert said.count("\n") == 1


@pytest.mark.parametrize("changed", ["minutes", "seed", "video"])
def test_other_settings_are_refused_with_the_command_for_a_new_run(
    made, clip, tmp_path, monkeypatch, capsys, changed
):
    """The command that is shown has these settings, and a folder in which they are not refused."""
    shutil.copytree(made, tmp_path / "film")
    given = {"video": str(clip), "minutes": 21 / 60, "seed": 0}
    given[changed] = {"minutes": 1 / 3, "seed": 7, "video": shutil.copy(clip, "it's.mp4")}[changed]
    words = ["--minutes", given["minutes"], "--seed", given["seed"]]
    assert learn(given["video"], *words, "--out", "film") == 2
    error = capsys.readouterr().err
    assert f"expected the {changed} that it was begun with" in error and error.count("\n") == 1
    called = []
    monkeypatch.setattr(learn_video, "learn", lambda *settings: called.append(settings) or PAGE)
    assert learn(*shlex.split(error.partition("python -m data_tools.learn_video ")[2])) == 0
    ((video, folder, minutes, seed),) = called
    assert {"video": str(video), "minutes": minutes, "seed": seed} == given
    assert not folder.exists()


def test_another_film_of_the_same_name_and_size_is_refused(made, clip, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "film")
    raw = Path(shutil.copy(clip, "clip.mp4")).read_bytes()
    plan = json.loads((tmp_path / "film/plan.json").read_text())
    (tmp_path / "film/plan.json").write_text(
        json.dumps(plan | {"video": learn_video.as_they_are([Path("clip.mp4")])[0]})
    )
    Path("clip.mp4").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert learn("clip.mp4", "--minutes", 21 / 60, "--out", "film") == 2
    error = capsys.readouterr().err
    assert "expected the video that it was begun with (clip.mp4 of " in error
    assert error.count(f"{len(raw)} bytes, sha256 ") == 2 and error.count("\n") == 1


def test_the_page_has_the_command_for_more_minutes(made, clip, monkeypatch):
    """Every command under Next is one that its parser takes; its files are there, or are made."""
    next_ = (made / "film.html").read_text("utf-8").partition('<section id="next">')[2]
    commands = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", next_)]
    assert len(commands) == 5
    called = []
    monkeypatch.setattr(learn_video, "learn", lambda *settings: called.append(settings) or PAGE)
    assert learn(*shlex.split(commands[0])[3:]) == 0
    ((video, folder, minutes, seed),) = called
    assert (video, minutes, seed) == (clip, 1.05, 0) and folder != made
    assert folder.parent == made.parent and not folder.exists()
    for words in map(shlex.split, commands[1:]):
        (known,) = [word for word in words if word.startswith(str(made)) and "larger" not in word]
        assert Path(known).exists()


def test_without_pyav_the_extra_is_named(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert learn(clip) == 2
    assert "pip install -e '.[video]'" in capsys.readouterr().err


def test_whole_frames_are_put_together_from_overlapping_squares(made, monkeypatch):
    """A model that predicts the truth gives the film itself, whatever its size."""
    run = film_page.run_figures.open_run(made / "run")
    frames = moving_frames(30, 48, 61)
    film = film_page.Film("f", frames, 1, 0.1, 20, [3], 0, [])
    monkeypatch.setattr(judging, "decode", lambda model, x, past: (x[:past], x[past:]))
    truth, rebuilt, predicted = film_page.whole_frames(run, film, 3)
    assert np.array_equal(np.rint(255 * truth[:, 0]), frames[3 : 3 + T])
    np.testing.assert_allclose(np.concatenate([rebuilt, predicted]), truth, atol=1e-5)
    cut = film_page.cut_squares(frames, np.array([[3, 2, 45]]), T, 1, SIZE)
    assert as_vectors(cut.swapaxes(0, 1)).shape == (T, 1, 3 * SIZE * SIZE)


def test_a_sequence_is_as_long_as_the_preset_has_frames():
    data = config.load(["film"]).data
    assert data.past + data.future == T


def test_a_longer_film_is_seen_every_tenth_of_a_second_and_a_short_one_more_often():
    assert learn_video.step_of(900, 30.0, T) == 3
    assert learn_video.step_of(9000, 25.0, T) == 2
    assert learn_video.step_of(9000, 5.0, T) == 1
    assert learn_video.step_of(120, 30.0, T) == 1


def test_the_longest_shot_is_taken():
    one, two = moving_frames(12, 48, 64), 255 - moving_frames(20, 48, 64, seed=1)
    start, shot, cuts, total = learn_video.longest_shot(np.concatenate([one, two, one]))
    assert (start, len(shot), cuts, total) == (12, 20, 2, 44)
    assert np.array_equal(shot, two)
