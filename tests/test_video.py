"""Frames out of real encoded files: right ones, in the right order, or a reason with a name."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed")

from videos import cut, moving_frames, show_by, without_packets, write_video, zoo

from data_tools import video
from data_tools.video import REASONS, VideoError, find_videos, frame_rate, read_frames
from minilstm.errors import ConfigError, DataError, MinilstmError

DATA = os.environ.get("MINILSTM_DATA")


def read(path, fps=None):
    """The frames as one array, and the remarks."""
    remarks = []
    frames = list(read_frames(path, fps, remarks))
    return np.stack(frames), remarks


def near(found, expected, tolerance=6):
    """Return True if lossy frames are the expected ones but for few grey levels in the mean."""
    return np.abs(found.astype(int) - expected).mean() < tolerance


def shades(count=20, height=16, width=24):
    """Frames that are told apart after any coding: frame n has the grey level 10 n + 20."""
    return np.full((count, height, width, 3), 0, np.uint8) + (
        10 * np.arange(count, dtype=np.uint8)[:, None, None, None] + 20
    )


def numbers(frames):
    """Which frames of `shades` these are."""
    return [round((float(frame.mean()) - 20) / 10) for frame in frames]


def distances(found, frames):
    """Distances of each frame found from each of `frames`, in grey levels: (found, frames)."""
    found, frames = (array[:, ::4, ::4].astype(np.int16) for array in (found, frames))
    return np.abs(found[:, None] - frames).mean(axis=(2, 3, 4))


# -------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.mov"])
def test_every_frame_comes_once_in_order_and_colours_are_red_green_blue(tmp_path, name):
    frames = moving_frames(12)
    frames[:, :24, :32] = 255, 0, 0
    frames[:, :24, 32:] = 0, 0, 255
    found, remarks = read(write_video(tmp_path / name, frames))
    assert found.shape == frames.shape and found.dtype == np.uint8 and not remarks
    assert near(found, frames)


def test_a_codec_without_loss_gives_the_very_bytes(tmp_path):
    frames = moving_frames(5, 13, 17)
    found, _ = read(write_video(tmp_path / "a.mkv", frames, codec="ffv1"))
    np.testing.assert_array_equal(found, frames)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5, 3), (31, 17), (97, 1), (1, 101), (2, 2)])
def test_odd_sizes_read_whole(tmp_path, size):
    frames = np.broadcast_to(shades(4, *size), (4, *size, 3))
    found, remarks = read(write_video(tmp_path / "a.avi", frames))
    assert found.shape == frames.shape and numbers(found) == [0, 1, 2, 3] and not remarks


SHOWN = {  # what a display matrix does, by its a, b, c, d
    (1, 0, 0, 1): lambda frames: frames,
    (0, 1, -1, 0): lambda frames: np.rot90(frames, -1, axes=(1, 2)),
    (-1, 0, 0, -1): lambda frames: np.rot90(frames, 2, axes=(1, 2)),
    (0, -1, 1, 0): lambda frames: np.rot90(frames, 1, axes=(1, 2)),
    (-1, 0, 0, 1): lambda frames: frames[:, :, ::-1],  # the front camera of a telephone
    (1, 0, 0, -1): lambda frames: frames[:, ::-1],
    (0, 1, 1, 0): lambda frames: frames.swapaxes(1, 2),
    (0, -1, -1, 0): lambda frames: np.rot90(frames, 2, axes=(1, 2)).swapaxes(1, 2),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_a_turned_or_mirrored_video_is_read_as_it_is_shown(tmp_path, matrix):
    frames = moving_frames(4, 32, 48)
    frames[:, :16, :16] = 255  # a bright corner, top left
    path = show_by(write_video(tmp_path / "a.mp4", frames), *matrix)
    found, _ = read(path)
    expected = SHOWN[matrix](frames)
    assert found.shape == expected.shape and near(found, expected)


@pytest.mark.parametrize("size", [(720, 64), (16, 24)])
def test_colours_are_those_of_the_space_that_the_file_names(tmp_path, size):
    """HD video is coded in BT.709; read as BT.601 its colours are off by up to 33 levels."""
    frames = np.empty((2, *size, 3), np.uint8)
    for n, colour in enumerate([(200, 60, 30), (40, 160, 220), (90, 200, 60)]):
        frames[:, :, n * size[1] // 3 :] = colour
    found, _ = read(write_video(tmp_path / "a.mp4", frames, codec="libx264", colours=1))
    middle = [size[1] * n // 6 for n in (1, 3, 5)]
    assert abs(found[:, 8, middle].astype(int) - frames[:, 8, middle]).max() <= 5


def test_the_frame_rate_counts_the_frames_that_the_file_has(tmp_path):
    """A recorder that missed frames states its full rate in an .avi."""
    whole = write_video(tmp_path / "whole.avi", shades(20), rate=10)
    missed = write_video(tmp_path / "missed.avi", shades(20), rate=10, times=range(0, 80, 4))
    jumps = write_video(
        tmp_path / "jumps.mkv", shades(5), rate=10, times=[0, 1, 2, 10**6, 10**6 + 1]
    )
    assert frame_rate(whole) == 10
    assert frame_rate(missed) == pytest.approx(20 / 7.7)  # the last of them lasts 0.1 s
    assert frame_rate(jumps) == pytest.approx(3, rel=0.7)  # not 5 frames in a day


def test_frames_that_are_shown_for_different_times_are_sampled_by_the_clock(tmp_path):
    times = [0, 1, 2, 10, 11, 20]  # in tenths of a second
    path = write_video(tmp_path / "a.mkv", shades(6), rate=10, times=times)
    assert numbers(read(path)[0]) == [0, 1, 2, 3, 4, 5]
    expected = [0, 1, *[2] * 8, 3, *[4] * 9, 5]
    assert numbers(read(path, fps=10)[0]) == expected
    assert numbers(read(path, fps=5)[0]) == expected[::2]
    assert numbers(read(path, fps=20)[0]) == list(np.repeat(expected, 2))


@pytest.mark.parametrize("fps", [0.3, 1, 2.5, 7, 12.5, 25, 30, 60])
def test_a_clock_gives_as_many_frames_as_the_video_lasts(tmp_path, fps):
    path = write_video(tmp_path / "a.mp4", shades(20), rate=10)
    found, remarks = read(path, fps)
    assert len(found) == np.ceil(2 * fps) and not remarks
    expected = np.floor(np.arange(len(found)) / fps * 10 + 1e-9)
    assert numbers(found) == list(expected)


def test_a_gap_of_hours_between_two_frames_is_not_filled(tmp_path):
    times = [0, 1, 2, 10**6, 10**6 + 1]
    path = write_video(tmp_path / "a.mkv", shades(5), rate=10, times=times)
    found, remarks = read(path, fps=10)
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert len(remarks) == 1 and "clock jumps 1 time;" in remarks[0]


def test_a_frame_is_shown_until_the_next_one_however_long_that_is(tmp_path):
    path = write_video(tmp_path / "a.mkv", shades(6), rate=1, times=[0, 1, 2, 32, 33, 34])
    found, remarks = read(path, fps=1)
    assert numbers(found) == [0, 1, *[2] * 30, 3, 4, 5] and not remarks
    recording = write_video(tmp_path / "b.mp4", shades(4), rate=10, times=[0, 5, 160, 335])
    found, remarks = read(recording, fps=1)
    assert numbers(found) == [0, *[1] * 15, *[2] * 18] and not remarks


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_clock_that_does_not_tick_is_refused(tmp_path, fps):
    with pytest.raises(ConfigError, match="fps > 0"):
        next(read_frames(tmp_path, fps))


def test_frames_can_not_be_written_to_by_accident(tmp_path):
    path = write_video(tmp_path / "a.mp4", shades(2), rate=1)
    first, second, *_ = read_frames(path, fps=2)
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


@pytest.mark.skipif(DATA is None, reason="needs real videos: set MINILSTM_DATA")
def test_real_videos_read_to_their_end_whatever_their_clocks_say():
    for name, fps, expected in (
        ("carphone_pristine.mp4", None, 120),
        ("tree.avi", None, 68),
        ("tree.avi", 10, 297),  # its 68 frames are shown for 444 ticks of 1/15 s
        ("box.mp4", 10, 153),  # whose presentation times are out of order
    ):
        remarks = []
        count = sum(1 for _ in read_frames(Path(DATA, "natural", name), fps, remarks))
        assert (name, fps, count) == (name, fps, expected) and not remarks


# -------------------------------------------------------------------------------- what is not


def test_every_file_that_is_no_video_is_refused_with_a_reason_that_has_a_name(tmp_path):
    zoo(tmp_path)
    reasons = {}
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(VideoError) as refusal:
            read(path)
        reasons[path.name] = refusal.value.reason
        message = str(refusal.value)
        assert path.name in message and "\n" not in message and len(message) < 400 + len(str(path))
    assert set(reasons.values()) <= set(REASONS)
    assert reasons == {
        "empty.mp4": "empty", "folder.mp4": "no file", "loop.mp4": "no file",
        "pipe.mp4": "no file", "list.m3u8": "not a video", "no_index.mp4": "not a video",
        "noise.avi": "not a video", "words.mp4": "not a video", "zeros.mkv": "not a video",
        "sound.mkv": "no video stream", "sound.wav": "no video stream",
        "header.mkv": reasons["header.mkv"],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_video_that_is_cut_short_gives_its_frames_until_there_and_says_so(tmp_path, name, share):
    frames = moving_frames(40, 96, 128)
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = cut(write_video(tmp_path / name, frames, options=options), share)
    found, remarks = read(path)
    assert 0.3 * share * 40 < len(found) < 40
    assert near(found, frames[: len(found)], 12)
    assert len(remarks) == 1 and name in remarks[0] and f"after {len(found)} frames" in remarks[0]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_joined_streams_are_read_beyond_the_joints(tmp_path, codec):
    """`cat seg0.ts ... seg3.ts`: the clock starts anew, and the packet at a joint seems damaged."""
    frames, raw = moving_frames(40), b""
    for n in range(4):
        raw += write_video(tmp_path / "s.ts", frames[10 * n :][:10], codec=codec).read_bytes()
    (tmp_path / "a.ts").write_bytes(raw)
    found, remarks = read(tmp_path / "a.ts")
    assert len(found) > 32 and "left out" in remarks[0]
    which = distances(found, frames).argmin(axis=1).tolist()
    assert which == sorted(set(which)) and near(found, frames[which])
    on_a_clock, remarks = read(tmp_path / "a.ts", fps=25)
    assert len(found) <= len(on_a_clock) <= 40 and "clock jumps 3 times" in remarks[1]


@pytest.mark.parametrize(
    "name, codec, kept",
    [
        ("a.webm", "libvpx", 23),
        ("a.ts", "libx264", 23),
        ("a.avi", "mpeg4", 23),
        ("a.mpg", "mpeg2video", 23),
    ],
)
def test_what_begins_without_a_key_frame_is_read_from_the_next_one(tmp_path, name, codec, kept):
    frames = moving_frames(35)
    whole = write_video(tmp_path / f"whole{name}", frames, codec=codec)
    path = without_packets(tmp_path / name, whole, {0})
    found, remarks = read(path)
    assert len(found) == kept and near(found, frames[12:])
    assert len(remarks) == 1 and "does not begin with a key frame" in remarks[0]


@pytest.mark.parametrize("name, codec", [("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")])
def test_after_damage_reading_goes_on_at_a_key_frame_and_no_damaged_frame_comes(
    tmp_path, name, codec
):
    frames, rng = moving_frames(60, 96, 128), np.random.default_rng(1)
    path = write_video(tmp_path / name, frames, codec=codec)
    raw = bytearray(path.read_bytes())
    for where in rng.integers(len(raw) * 2 // 5, len(raw) * 2 // 5 + 4000, 60):
        raw[where] = rng.integers(256)
    path.write_bytes(raw)
    found, remarks = read(path)
    distance = distances(found, frames)
    which = distance.argmin(axis=1).tolist()
    assert distance.min(axis=1).max() < 8 and which == sorted(set(which))
    assert which[:10] == [*range(10)] and which[-1] == 59 and len(found) < 60
    assert len(remarks) == 1 and "left out" in remarks[0]


def test_frames_of_another_size_are_left_out(tmp_path):
    frames, raw = moving_frames(10), b""
    for array in (frames, frames[:, :32, :32], frames):
        raw += write_video(tmp_path / "s.ts", array, codec="mpeg2video").read_bytes()
    (tmp_path / "a.ts").write_bytes(raw)
    found, remarks = read(tmp_path / "a.ts")
    assert found.shape[1:] == (48, 64, 3) and len(found) > 15 and "left out" in remarks[0]


def test_colours_that_libav_can_not_convert_are_refused_by_name(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(3), codec="libx264", colours=14)
    with pytest.raises(VideoError, match="unknown colours") as refusal:
        read(path)
    assert refusal.value.reason == "unknown colours"


@pytest.mark.parametrize("version", ["12.3.0", "16.0.1", "17.0.1"])
def test_a_library_that_gets_colours_wrong_is_refused(tmp_path, monkeypatch, version):
    path = write_video(tmp_path / "a.mp4", moving_frames(3))
    monkeypatch.setattr("av.__version__", version)
    with pytest.raises(MinilstmError, match=f"av 17.1 or newer, got {version}.*--upgrade"):
        read(path)


def test_no_damage_is_anything_but_frames_or_a_refusal(tmp_path):
    """Bytes are changed, removed and doubled all over files of every container."""
    rng = np.random.default_rng(5)
    outcomes = set()
    for name in ("a.avi", "a.mkv", "a.mp4", "a.mov"):
        good = write_video(tmp_path / name, moving_frames(12, 16, 16)).read_bytes()
        for _ in range(25):
            raw = bytearray(good)
            for _ in range(rng.integers(1, 20)):
                where, kind = int(rng.integers(len(raw))), rng.integers(3)
                if kind == 0:
                    raw[where] = rng.integers(256)
                elif kind == 1:
                    del raw[where : where + int(rng.integers(1, 40))]
                else:
                    raw[where:where] = raw[where : where + 30]
            path = tmp_path / f"damaged_{name}"
            path.write_bytes(raw)
            try:
                found = list(read_frames(path, fps=25))
                outcomes.add("frames")
                assert all(f.dtype == np.uint8 for f in found)
            except VideoError as error:
                outcomes.add(error.reason)
    assert {"frames", "not a video"} <= outcomes


def test_nothing_is_written_to_the_terminal_by_libav(tmp_path):
    path = cut(write_video(tmp_path / "a.avi", moving_frames(20, 96, 128)), 0.7)
    code = f"from data_tools.video import read_frames; print(len(list(read_frames({str(path)!r}))))"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip().isdigit() and done.stderr == ""


# -------------------------------------------------------------------------------- which files


def test_folders_are_searched_in_the_order_of_names_and_links_to_folders_left_alone(tmp_path):
    for name in ("b/x.avi", "b/a.mp4", "a/Z.MP4", "a/words.txt", "c.mp4/d.mkv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos([tmp_path])]
    assert found == ["a/Z.MP4", "b/a.mp4", "b/x.avi", "c.mp4/d.mkv"]
    words = tmp_path / "a/words.txt"
    assert find_videos([words, words, str(tmp_path / "b")]) == [
        words, tmp_path / "b/a.mp4", tmp_path / "b/x.avi",
    ]  # fmt: skip
    with pytest.raises(DataError, match="nothing there"):
        find_videos([tmp_path / "nowhere"])


def test_two_names_of_one_file_count_once(tmp_path, capsys):
    (tmp_path / "a.avi").write_bytes(b"1")
    (tmp_path / "c.avi").write_bytes(b"2")
    (tmp_path / "b.avi").symlink_to(tmp_path / "a.avi")
    (tmp_path / "d.mp4").hardlink_to(tmp_path / "a.avi")
    (tmp_path / "e.avi").symlink_to(tmp_path / "nowhere")
    assert [path.name for path in find_videos([tmp_path])] == ["a.avi", "c.avi", "e.avi"]
    said = capsys.readouterr().err
    assert f"left out: {tmp_path / 'b.avi'}, another name of {tmp_path / 'a.avi'}" in said
    assert said.count("\n") == 2


def test_of_copies_of_one_film_only_the_first_counts(tmp_path, capsys):
    rng = np.random.default_rng(0)
    small, large = rng.bytes(1000), rng.bytes(17 * 2**20)  # of the large one, parts are read
    for name, raw in {"a": small, "b": small, "c": large, "d": large, "e": large[::-1]}.items():
        (tmp_path / f"{name}.avi").write_bytes(raw)
    for name in ("f", "g"):  # nothing in two files is no film that is repeated
        (tmp_path / f"{name}.avi").touch()
    assert "".join(path.stem for path in find_videos([tmp_path])) == "acefg"
    said = capsys.readouterr().err
    assert f"left out: {tmp_path / 'b.avi'}, a copy of {tmp_path / 'a.avi'}" in said
    assert f"{tmp_path / 'd.avi'}, a copy of {tmp_path / 'c.avi'}" in said
    assert said.count("\n") == 2


def test_only_files_of_equal_size_are_read_to_find_copies(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(video, "fingerprint", lambda path: read.append(path.stem) or str(path))
    for name, count in {"a": 1, "b": 2, "c": 2, "d": 3}.items():
        (tmp_path / f"{name}.avi").write_bytes(bytes(count))
    assert len(find_videos([tmp_path])) == 4 and read == ["b", "c"]


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.vob", "mpeg2video"), ("a.dv", "dvvideo"), ("a.mxf", "mpeg2video"),
        ("a.h264", "libx264"), ("a.264", "libx264"), ("a.m2v", "mpeg2video"), ("a.nut", "mpeg4"),
        ("a.y4m", "wrapped_avframe"), ("a.3gp", "mpeg4"), ("a.flv", "flv"),
    ],
)  # fmt: skip
def test_videos_of_cameras_and_discs_are_found_in_folders_and_read(tmp_path, name, codec):
    frames = shades(6, 576, 720) if codec == "dvvideo" else shades(6, 48, 64)
    path = write_video(tmp_path / name, frames, codec=codec)
    assert find_videos([tmp_path]) == [path]
    assert numbers(read(path)[0]) == [0, 1, 2, 3, 4, 5]
