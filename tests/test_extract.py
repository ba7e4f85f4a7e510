"""From video files to percepts and flow: whole folders, interrupted, damaged, and split."""

import os
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="av is not installed")
pytest.importorskip("cv2", reason="cv2 is not installed")
pytest.importorskip("h5py", reason="h5py is not installed")

import strict_cupy
from test_mobilenet import random_arrays, write_weights
from videos import moving_frames, write_sound, write_video

from data_tools import extract_flow, extract_percepts
from data_tools.extract_flow import as_picture, estimator, flow_pictures
from data_tools.video import read_frames
from minilstm.command import run_command
from minilstm.data import read_percepts
from minilstm.data.mobilenet import prepare, read_mobilenet
from minilstm.data.splits import hmdb51_split, ucf101_split
from minilstm.errors import DataError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The network with weights that nobody trained."""
    return str(write_weights(tmp_path_factory.mktemp("w") / "w.safetensors", random_arrays()))


def small_video(path, seed=None, count=3):
    """Write a video that differs from all others, because copies are left out."""
    seed = zlib.crc32(os.fsencode(path)) if seed is None else seed
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving_frames(count, 32, 48, seed), rate=10)


def run(command, *arguments):
    """The exit status of a command."""
    return run_command(lambda: command.main([str(word) for word in arguments]))


@pytest.fixture
def videos(tmp_path):
    for n, name in enumerate(("jump/b_1.avi", "jump/c_2.mp4", "run/a_1.avi")):
        small_video(tmp_path / "videos" / name, n, 3 + n)
    return tmp_path / "videos"


def test_a_folder_of_classes_becomes_a_folder_of_percepts(videos, tmp_path, weights, capsys):
    write_sound(videos / "run/z_1.avi")
    (videos / "run/y_1.mp4").write_bytes(b"no video")
    arguments = videos, tmp_path / "out", "--weights", weights, "--groups", r"_(\d)"
    assert run(extract_percepts, *arguments) == 0
    told = capsys.readouterr()
    assert "3 of 5 videos; left out: 1 no video stream, 1 not a video" in told.out
    assert told.err.count("left out: ") == 2
    found = read_percepts(tmp_path / "out")
    assert found.names == ("jump/b_1.avi", "jump/c_2.mp4", "run/a_1.avi")
    assert found.classes == ("jump", "run") and found.labels.tolist() == [0, 0, 1]
    assert found.groups.tolist() == [0, 1, 0] and found.lengths.tolist() == [3, 4, 5]
    assert found.sizes.tolist() == [[48, 32]] * 3 and found.frames.dtype == np.float16
    frames = np.stack(list(read_frames(videos / "run/a_1.avi")))
    expected = read_mobilenet(weights).percepts(prepare(frames))
    np.testing.assert_allclose(found.clip(2), expected, rtol=1e-3, atol=1e-4)
    assert not (tmp_path / "out/parts").exists()
    assert run(extract_percepts, *arguments) == 2
    assert "got one with features.h5 in it" in capsys.readouterr().err


@pytest.mark.parametrize("name", extract_percepts.FILES)
@pytest.mark.parametrize("command", [extract_percepts, extract_flow])
def test_a_file_of_the_users_is_not_overwritten(videos, tmp_path, weights, capsys, command, name):
    (tmp_path / "out" / "parts").mkdir(parents=True)
    for path in (tmp_path / "out" / name, tmp_path / "out" / "parts" / "letter.txt"):
        path.write_text("mine")
    assert run(command, videos, tmp_path / "out", "--weights", weights) == 2
    said = capsys.readouterr().err
    assert f"expected a new folder, got one with {name} in it" in said and said.count("\n") == 1
    found = {path.name: path.read_text() for path in tmp_path.glob("out/**/*") if path.is_file()}
    assert found == {name: "mine", "letter.txt": "mine"}


def test_all_files_of_an_extraction_are_known_by_name(videos, tmp_path, weights):
    assert run(extract_percepts, videos, tmp_path / "out", "--weights", weights) == 0
    assert sorted(os.listdir(tmp_path / "out")) == sorted(extract_percepts.FILES)


def test_settings_of_the_users_are_not_overwritten_by_pictures_of_flow(videos, tmp_path, capsys):
    about = tmp_path / "out" / "settings.json"
    about.parent.mkdir()
    for text in ('{"mine": 1}', "[1]", ""):
        about.write_text(text)
        assert run(extract_flow, videos, tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert "expected the settings that its parts were made with" in said
        assert said.count("\n") == 1 and about.read_text() == text


def test_on_a_device_a_chunk_costs_two_copies_and_percepts_are_the_same(
    tmp_path, weights, monkeypatch, capsys
):
    small_video(tmp_path / "videos/run/a_1.avi", count=5)
    strict_cupy.install(monkeypatch)
    words = tmp_path / "videos", "--weights", weights, "--backend"
    assert run(extract_percepts, *words, "numpy", tmp_path / "host") == 0
    with strict_cupy.counting() as counts:
        assert run(extract_percepts, *words, "cupy", tmp_path / "device") == 0
    here, there = (read_percepts(tmp_path / name).frames for name in ("host", "device"))
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)  # float16
    look, chunks = 2, 1  # percepts and logits, when the weights are read; five frames
    kernel = 1  # is asked for when a device is chosen
    assert counts["download"] == kernel + look + chunks
    assert run(extract_percepts, *words, "cupy", tmp_path / "vgg", "--network", "vgg16") == 2
    assert "error: expected --backend numpy for vgg16" in capsys.readouterr().err


def test_a_list_names_classes_and_recordings_and_the_clock_is_kept(videos, tmp_path, weights):
    (tmp_path / "list.tsv").write_text("run/a_1.avi\tB\tx\njump/b_1.avi\tA\tx\n")
    arguments = videos, tmp_path / "out", "--weights", weights, "--list", tmp_path / "list.tsv"
    assert run(extract_percepts, *arguments, "--fps", "5", "--view", "whole") == 0
    found = read_percepts(tmp_path / "out")
    assert found.names == ("run/a_1.avi", "jump/b_1.avi") and found.labels.tolist() == [1, 0]
    assert found.groups.tolist() == [0, 0] and found.lengths.tolist() == [3, 2]


def test_a_recording_is_what_an_expression_catches_or_all_of_what_it_finds(videos):
    def groups(expression):
        return [video.group for video in extract_percepts.list_videos(videos, None, expression)]

    assert groups(r"_(\d)") == ["1", "2", "1"]
    assert groups(r"(b)|/(.)_") == ["b", "c", "a"]
    assert groups(r"_\d") == ["_1", "_2", "_1"]
    assert groups(None) == ["jump/b_1.avi", "jump/c_2.mp4", "run/a_1.avi"]


def test_names_that_lead_elsewhere_or_are_no_line_of_text_are_refused(tmp_path):
    for name in ("../a.avi", "a/../../a.avi", "/a.avi"):
        (tmp_path / "list.tsv").write_text(f"{name}\tB\n")
        with pytest.raises(DataError, match="expected names below"):
            extract_percepts.list_videos(tmp_path, tmp_path / "list.tsv", None)
    for name in ("two\nlines.avi", "a\u2028b.avi"):
        path = tmp_path / name
        path.touch()
        with pytest.raises(DataError, match="expected names below"):
            extract_percepts.list_videos(tmp_path, None, None)
        path.unlink()


def test_a_name_that_is_no_utf_8_is_read_and_listed_with_an_escape(tmp_path):
    path = small_video(tmp_path / os.fsdecode(b"\xdcbung/a.avi"))
    (video,) = extract_percepts.list_videos(tmp_path, None, None)
    assert (video.path, video.name, video.label) == (path, "\\xdcbung/a.avi", "\\xdcbung")


def test_a_list_may_begin_with_a_byte_order_mark_and_have_spaces_that_nobody_sees(videos, tmp_path):
    rows = "run/a_1.avi\tB \tx\r\njump/b_1.avi\tA\tx \r\n\r\njump/c_2.mp4\tB\r\n"
    (tmp_path / "list.tsv").write_text(rows, "utf-8-sig", newline="")
    found = extract_percepts.list_videos(videos, tmp_path / "list.tsv", None)
    assert [video.name for video in found] == ["run/a_1.avi", "jump/b_1.avi", "jump/c_2.mp4"]
    assert [video.label for video in found] == ["B", "A", "B"]
    assert [video.group for video in found] == ["x", "x", "jump/c_2.mp4"]


def test_an_empty_third_column_leaves_the_recording_to_the_expression(videos, tmp_path):
    """Spreadsheets write the tab before an empty column."""
    (tmp_path / "list.tsv").write_text("run/a_1.avi\tB\t\njump/b_1.avi\tA\njump/c_2.mp4\tA\tx\n")

    def groups(expression):
        found = extract_percepts.list_videos(videos, tmp_path / "list.tsv", expression)
        return [video.group for video in found]

    assert groups(r"_(\d)") == ["1", "1", "x"]
    assert groups(None) == ["run/a_1.avi", "jump/b_1.avi", "x"]


@pytest.mark.parametrize("other", ["walk ", " walk", "walk\xa0"])
def test_two_classes_whose_names_look_the_same_are_refused(tmp_path, other):
    for name in ("walk", other):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.avi").touch()
    with pytest.raises(DataError, match="classes of different names.*rename one"):
        extract_percepts.list_videos(tmp_path, None, None)


def test_two_names_of_one_video_are_not_two_recordings(videos, tmp_path, capsys):
    (videos / "run/z.avi").symlink_to(videos / "jump/b_1.avi")
    found = extract_percepts.list_videos(videos, None, None)
    assert [video.name for video in found] == ["jump/b_1.avi", "jump/c_2.mp4", "run/a_1.avi"]
    assert "another name of" in capsys.readouterr().err
    (tmp_path / "list.tsv").write_text("run/z.avi\tA\njump/b_1.avi\tB\n")
    with pytest.raises(DataError, match="another name of"):
        extract_percepts.list_videos(videos, tmp_path / "list.tsv", None)
    (videos / "run/z.avi").unlink()
    shutil.copy(videos / "jump/b_1.avi", videos / "run/z.avi")
    assert extract_percepts.list_videos(videos, None, None) == found
    assert "a copy of" in capsys.readouterr().err
    with pytest.raises(DataError, match="a copy of .*: remove one of the two"):
        extract_percepts.list_videos(videos, tmp_path / "list.tsv", None)


def test_a_file_that_can_not_be_used_ends_no_batch(tmp_path, weights, capsys):
    """A picture too narrow to be scaled up, a name too long for a file, colours nobody knows."""
    folder = tmp_path / "videos"
    small_video(folder / "good.avi", count=3)
    small_video(folder / f"{'n' * 240}.avi", count=2)  # 244 bytes, 248 with .npy
    small_video(folder / f"{'m' * 249}.avi", count=2)  # 253, 257 with .npy
    write_video(folder / "wide.mkv", moving_frames(2, 2, 600), rate=10, codec="ffv1")
    write_video(folder / "colours.mp4", moving_frames(2, 32, 48), codec="libx264", colours=14)
    assert run(extract_flow, folder, tmp_path / "flow") == 0
    told = capsys.readouterr()
    assert "2 of 5 videos; left out: 1 name too long, 1 too narrow, 1 unknown colours" in told.out
    assert told.err.count("left out: ") == 3 and "Traceback" not in told.err
    made = {path.name[0] for path in (tmp_path / "flow").glob("*.npy")}
    assert made == {"g", "n"}
    assert run(extract_percepts, folder, tmp_path / "rgb", "--weights", weights) == 0
    assert "3 of 5 videos; left out: 1 too narrow, 1 unknown colours" in capsys.readouterr().out


def test_bad_settings_end_in_one_line(videos, tmp_path, weights, capsys):
    (tmp_path / "list.tsv").write_text("run/a_1.avi B\n")
    (tmp_path / "four.tsv").write_text("run/a_1.avi\tB\tx\ty\n")
    (tmp_path / "twice.tsv").write_text("run/a_1.avi\tB\n" * 2)
    (tmp_path / "empty").mkdir()
    with_weights = [videos, tmp_path / "out", "--weights", weights]
    for arguments in (
        [videos, tmp_path / "out"],
        [videos, tmp_path / "out", "--weights", tmp_path / "none"],
        [tmp_path / "none", *with_weights[1:]],
        [tmp_path / "empty", *with_weights[1:]],
        [*with_weights, "--list", tmp_path / "list.tsv"],
        [*with_weights, "--list", tmp_path / "four.tsv"],
        [*with_weights, "--list", tmp_path / "twice.tsv"],
        [*with_weights, "--list", tmp_path / "none.tsv"],
        [*with_weights, "--groups", "("],
        [*with_weights, "--groups", "nowhere"],
        [*with_weights, "--fps", "0"],
        [*with_weights, "--network", "resnet"],
    ):
        try:
            status = run(extract_percepts, *arguments)
        except SystemExit as stop:  # of the parser
            status = stop.code
        said = capsys.readouterr().err
        assert status == 2, arguments
        assert said.splitlines()[-1].startswith("error: "), said


# ----------------------------------------------------------------------------------- VGG


def test_without_torchvision_one_line_says_so(videos, tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = videos, tmp_path / "out", "--weights", weights, "--network", "vgg16"
    assert run(extract_percepts, *arguments) == 2
    said = capsys.readouterr().err
    assert "expected the library torch" in said and said.count("\n") == 1


@pytest.mark.slow  # two networks of half a gigabyte
def test_vgg_gives_what_torchvisions_own_first_full_layer_gives(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    vision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = vision.models.vgg16(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "vgg16.safetensors")
    pictures = prepare(moving_frames(2, 300, 260))
    found = extract_percepts.vgg16(str(tmp_path / "vgg16.safetensors"))(pictures)
    features = {}
    network.classifier[1].register_forward_hook(lambda m, i, o: features.update(fc6=o))
    normal = vision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network(normal(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255))
    assert found.shape == (2, 4096)
    np.testing.assert_allclose(found, features["fc6"].detach().numpy(), rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_of_a_drifting_texture_is_its_drift(method):
    frames = moving_frames(4, 256, 300, speed=3)
    pictures = list(flow_pictures(frames, estimator(method), clip=10))
    assert len(pictures) == 4 and pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[3], pictures[2])
    middle = np.median(pictures[0][50:-50, 50:-50].reshape(-1, 3), axis=0)
    x, y, length = 128 + 3 * 12.7, 128, 3 * 25.5
    assert abs(middle - (x, y, length)).max() < 4, middle


def test_pictures_of_flow_are_clipped_and_rest_is_grey():
    flow = np.zeros((2, 3, 2), np.float32)
    flow[0, 0] = 20, -20
    flow[0, 1] = 500, -1000
    flow[0, 2] = 3, 4
    found = as_picture(flow, 20)
    assert found[1].tolist() == [[128, 128, 0]] * 3
    assert found[0, :2].tolist() == [[255, 1, 255]] * 2
    assert found[0, 2].tolist() == [147, 153, 64]


def test_a_single_frame_rests():
    (picture,) = flow_pictures(moving_frames(1, 30, 40), estimator("dis"), 20)
    assert picture.shape == (256, 341, 3) and (picture == (128, 128, 0)).all()


def test_flow_becomes_pictures_or_percepts_frame_by_frame(videos, tmp_path, weights, capsys):
    assert run(extract_flow, videos, tmp_path / "pictures") == 0
    pictures = np.load(tmp_path / "pictures/run/a_1.avi.npy")
    assert pictures.shape == (5, 256, 384, 3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")}
    assert run(extract_flow, videos, tmp_path / "pictures") == 0  # nothing is left to do
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npy")}
    assert run(extract_flow, videos, tmp_path / "out", "--weights", weights) == 0
    found = read_percepts(tmp_path / "out")
    assert found.lengths.tolist() == [3, 4, 5]
    expected = read_mobilenet(weights).percepts(prepare(pictures))
    np.testing.assert_allclose(found.clip(2), expected, rtol=1e-3, atol=1e-4)
    assert run(extract_flow, videos, tmp_path / "other", "--method", "farneback") == 0
    frames = list(read_frames(videos / "jump/b_1.avi"))
    expected = list(flow_pictures(frames, estimator("farneback"), clip=20))
    np.testing.assert_array_equal(np.load(tmp_path / "other/jump/b_1.avi.npy"), expected)
    with pytest.raises(SystemExit):
        run(extract_flow, videos, tmp_path / "bad", "--clip", "0")
    assert "expected a number from 0.001 to" in capsys.readouterr().err
    assert run(extract_flow, videos, tmp_path / "pictures", "--clip", "10") == 2
    assert "got other clip" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- splits


def test_video_files_in_the_layout_of_ucf101_go_all_the_way_to_a_split(tmp_path, weights):
    root, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    names = {"train": [], "test": []}
    for c in ("ApplyEyeMakeup", "HandstandPushups"):
        for g, clip in ((1, 1), (1, 2), (8, 1), (9, 1)):
            inside = c.replace("stand", "Stand")  # as in the real lists
            names["test" if g < 8 else "train"].append(f"{c}/v_{inside}_g{g:02}_c{clip:02}.avi")
    for part, listed in names.items():
        for name in listed:
            small_video(root / name, count=2)
        number = " 1" if part == "train" else ""
        text = "".join(f"{name}{number}\r\n" for name in listed)
        (lists / f"{part}list01.txt").write_text(text, newline="")
    arguments = root, tmp_path / "out", "--weights", weights, "--groups", "v_(.*)_c"
    assert run(extract_percepts, *arguments) == 0
    found = read_percepts(tmp_path / "out")
    train, test = (found.select(part) for part in ucf101_split(found.names, lists, 1))
    assert set(train.names) == set(names["train"]) and set(test.names) == set(names["test"])
    assert not set(train.groups) & set(test.groups)
    assert len(set(found.groups)) == 6 and found.classes == ("ApplyEyeMakeup", "HandstandPushups")


def test_video_files_in_the_layout_of_hmdb51_go_all_the_way_to_a_split(tmp_path, weights):
    root, lists = tmp_path / "hmdb51", tmp_path / "lists"
    lists.mkdir()
    for c in ("brush_hair", "kick"):
        lines = []
        for n, which in enumerate((1, 1, 2, 0)):
            name = f"a #1 & b_{c}_u_nm_np1_ba_goo_{n}.avi"
            small_video(root / c / name, count=2)
            lines.append(f"{name} {which} \n")
        (lists / f"{c}_test_split2.txt").write_text("".join(lines))
    assert run(extract_percepts, root, tmp_path / "out", "--weights", weights) == 0
    found = read_percepts(tmp_path / "out")
    train, test = hmdb51_split(found.names, lists, 2)
    assert found.labels[train].tolist() == [0, 0, 1, 1] and found.labels[test].tolist() == [0, 1]


@pytest.mark.skipif(
    "MINILSTM_DATA" not in os.environ, reason="needs real videos: set MINILSTM_DATA"
)
def test_a_real_video_gives_the_same_percepts_twice(tmp_path, weights):
    data = Path(os.environ["MINILSTM_DATA"], "natural")
    (tmp_path / "list.tsv").write_text("carphone_pristine.mp4\tman\ntree.avi\ttree\n")
    for out in ("a", "b"):
        arguments = data, tmp_path / out, "--weights", weights, "--list", tmp_path / "list.tsv"
        assert run(extract_percepts, *arguments, "--fps", "0.3") == 0
    raw = [(tmp_path / out / "features.h5").read_bytes() for out in ("a", "b")]
    assert raw[0] == raw[1]
