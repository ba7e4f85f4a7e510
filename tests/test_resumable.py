"""Commands of data_tools that are stopped in the middle go on, and end with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed")

from videos import moving_frames, write_video

from data_tools import (
    extract_flow,
    extract_patches,
    extract_percepts,
    make_actions,
    make_moving_mnist,
    resumable,
)
from data_tools.resumable import parts_of, read_part
from minilstm.command import run_command
from minilstm.errors import DataError, RunError

ROOT = Path(__file__).parents[1]
SMALL_DIGITS = ("--sequences", 210, "--frame-size", 8, "--digit-size", 5)
# What gets a signal as soon as a file whose name has that word is written, but not yet renamed.
STOPPED = """
import os, signal, sys
from data_tools import {name}
from minilstm import files
from minilstm.command import run_command

# where the tests run in the background, SIGINT is ignored, and its children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
flush = files.flush

def flush_or_stop(path):
    if path.name.startswith("{word}"):
        os.kill(os.getpid(), {number})
    flush(path)

files.flush = flush_or_stop
sys.exit(run_command(lambda: {name}.main(sys.argv[1:])))
"""


def call(command, *words):
    return run_command(lambda: command.main([str(word) for word in words]))


def stopped(command, words, word, number):
    """The exit status of a command that gets a signal, and what it printed."""
    name = command.__name__.removeprefix("data_tools.")
    code = STOPPED.format(name=name, word=word, number=int(number))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three short videos, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos") / "class"
    folder.mkdir()
    for n in range(3):
        write_video(folder / f"{n}.mkv", moving_frames(3, 16, 16, seed=n), rate=1, codec="ffv1")
    (folder / "3.mp4").write_bytes(b"no video")
    return folder.parent


def words_of(command, out, videos):
    """A command's words, its result's name, and the beginnings of the names of three files that it
    writes: of the second part, of the third, and of the result."""
    match command:
        case _ if command is make_moving_mnist:
            words, result = ("--out", out / "a.npy", *SMALL_DIGITS), "a.npy"
        case _ if command is make_actions:
            words = ("--out", out / "a.npz", "--per-class", 25, "--length", 3, "--frame-size", 8)
            result = "a.npz"
        case _ if command is extract_patches:
            small = ("--size", 8, "--frames", 3, "--sides", 0)
            words, result = (videos, "--out", out / "a.npz", *small), "a.npz"
        case _ if command is extract_percepts:
            pytest.importorskip("h5py", reason="h5py is not installed")
            weights = random_weights(videos)
            words = (videos, out / "a", "--weights", weights, "--fps", 0.4)
            result = "a/features.h5"
        case _:
            pytest.importorskip("cv2", reason="cv2 is not installed")
            words, result = (videos, out / "a", "--fps", 0.4), "a/class/2.mkv.npy"
    return words, result


def random_weights(folder):
    from test_mobilenet import random_arrays, write_weights

    path = folder / "w.safetensors"
    return path if path.exists() else write_weights(path, random_arrays())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "command, second",
    [
        (make_moving_mnist, ".000001.npy"),
        (make_actions, ".000010.npy"),
        (extract_patches, ".000001.npz"),
        (extract_percepts, ".000001.npz"),
        (extract_flow, ".1.mkv.npy"),
    ],
    ids=lambda x: getattr(x, "__name__", "").removeprefix("data_tools."),
)
def test_what_is_killed_and_interrupted_ends_with_the_bytes_of_what_never_was(
    command, second, tmp_path, videos, monkeypatch
):
    """kill -9 while the second part is written, then Ctrl-C while the result is, then the end."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir(), out.mkdir()
    assert call(command, *words_of(command, whole, videos)[0]) == 0
    words, result = words_of(command, out, videos)
    status, _ = stopped(command, words, second, signal.SIGKILL)
    left = [path.name for path in out.rglob("*")]
    assert status == -signal.SIGKILL and any(name.startswith(second) for name in left), left
    assert not (out / result).exists()
    status, printed = stopped(command, words, f".{Path(result).name}.", signal.SIGINT)
    assert status == 130 and printed.strip().endswith("interrupted"), printed
    assert "Traceback" not in printed and not (out / result).exists()
    assert not list(out.rglob(".*.tmp"))
    made = []
    real = resumable.replacing
    monkeypatch.setattr(resumable, "replacing", lambda path: made.append(path) or real(path))
    assert call(command, *words) == 0
    assert len(made) == (command is extract_flow), "parts that are there were made again"
    assert contents(out) == contents(whole)


def test_what_was_begun_with_some_settings_is_not_finished_with_others(tmp_path, capsys):
    out = tmp_path / "a.npy"
    words = ("--out", out, *SMALL_DIGITS)
    assert stopped(make_moving_mnist, words, ".000001.npy", signal.SIGKILL)[0] == -signal.SIGKILL
    before = contents(tmp_path)
    for force in ((), ("--force",)):
        assert call(make_moving_mnist, *words, "--seed", 1, *force) == 2
        said = capsys.readouterr().err
        assert "got other seed" in said and said.count("\n") == 1
    assert contents(tmp_path) == before
    (tmp_path / "a.npy.parts" / "settings.json").write_text("{")
    assert call(make_moving_mnist, *words) == 2 and "got other files" in capsys.readouterr().err
    assert not out.exists()


def test_a_video_that_became_another_is_noticed(tmp_path, videos, capsys):
    for n in range(2):
        raw = (videos / "class" / f"{n}.mkv").read_bytes()
        (tmp_path / f"{n}.mkv").write_bytes(raw)
    words = (tmp_path, "--out", tmp_path / "a.npz", "--size", 8, "--frames", 3, "--sides", 0)
    stopped(extract_patches, words, ".000001.npz", signal.SIGKILL)
    raw = (tmp_path / "0.mkv").read_bytes()
    for other in (raw + b"more", raw[:-1] + bytes([raw[-1] ^ 1])):  # the second is of the same size
        (tmp_path / "0.mkv").write_bytes(other)
        assert call(extract_patches, *words) == 2 and "other videos" in capsys.readouterr().err
    (tmp_path / "0.mkv").write_bytes(raw)
    about = tmp_path / "a.npz.parts" / "settings.json"
    settings = json.loads(about.read_text("utf-8"))
    older = [[path, int(found.split()[0])] for path, found in settings["videos"]]
    about.write_text(json.dumps(settings | {"videos": older}))  # of an earlier version
    assert call(extract_patches, *words) == 2 and "other videos" in capsys.readouterr().err
    about.write_text(json.dumps(settings))
    assert call(extract_patches, *words) == 0


def test_parts_have_one_owner_and_a_folder_without_any_does_not_stay(tmp_path):
    folder = tmp_path / "parts"
    with parts_of(folder, {"n": 1}):
        with pytest.raises(RunError, match="no other process"), parts_of(folder, {"n": 1}):
            pass
        assert folder.exists()
    assert not folder.exists()
    folder.mkdir()
    (folder / "settings.json").write_text('{"n": 2}')  # of a process killed before its first part
    with parts_of(folder, {"n": 1}):
        pass
    assert not folder.exists()
    folder.mkdir()
    (folder / ".mine.tmp").touch()
    with parts_of(folder, {}):
        pass
    assert [path.name for path in folder.iterdir()] == [".mine.tmp"]
    (folder / "notes").touch()
    with pytest.raises(RunError, match="got other files"), parts_of(folder, {"n": 1}):
        pass
    assert sorted(os.listdir(folder)) == [".mine.tmp", "notes"]
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(RunError, match="expected a folder to write to"), parts_of(folder, {}):
        pass


def test_rows_that_come_one_by_one_are_written_as_their_stack(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (123, 4, 5, 3), np.uint8)
    np.save(tmp_path / "stack.npy", rows)
    with parts_of(tmp_path / "parts", {}) as made:
        path = made.make("rows.npy", lambda: (row for row in rows))
        assert path.read_bytes() == (tmp_path / "stack.npy").read_bytes()

        def fails():
            yield rows[0]
            raise DataError("damaged")

        with pytest.raises(DataError, match="damaged"):
            made.make("other.npy", fails)
        assert [path.name for path in made.made()] == ["rows.npy"]


def test_a_damaged_part_is_refused_by_its_name(tmp_path):
    with parts_of(tmp_path / "parts", {}) as made:
        path = made.make("a.npz", lambda: {"a": np.arange(5)})
        assert read_part(path)["a"].tolist() == [0, 1, 2, 3, 4]
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(DataError, match="a.npz: expected the part that was written"):
            read_part(path)
