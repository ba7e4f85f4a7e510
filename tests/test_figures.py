"""Figures: the right pixels at the right place, whole files, and the same bytes every time."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from minilstm.errors import DataError, RunError, ShapeError
from minilstm.figures import curves, strips, style
from minilstm.figures.curves import per_step_curve, plot_curves, series_from_rows
from minilstm.figures.style import PALE


def frames(T, N=2, H=16, W=12, channels=(), seed=0):
    """Bytes below PALE, so that no pixel looks like paper."""
    return np.random.default_rng(seed).integers(0, 200, (T, N, H, W, *channels), np.uint8)


def prediction_strip(past, future, reconstruction, prediction, path):
    """The strip of one model."""
    strips.prediction_strip(past, future, {"model": (reconstruction, prediction)}, path)


def prediction_gif(past, future, reconstruction, prediction, path):
    """The film of one model."""
    strips.prediction_gif(past, future, {"model": (reconstruction, prediction)}, path)


def film(path):
    with Image.open(path) as picture:
        return [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]


def strip(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        return np.array(picture)


def find(page, frame, scale):
    """Top-left corners (row, column) of all places where `frame`, enlarged, stands on the page."""
    if frame.ndim == 2:
        frame = np.stack([frame] * 3, axis=-1)
    large = np.kron(frame, np.ones((scale, scale, 1), np.uint8))
    h, w = large.shape[:2]
    ys, xs = np.nonzero((page == large[0, 0]).all(axis=-1))
    corners = zip(ys.tolist(), xs.tolist(), strict=True)
    return [(y, x) for y, x in corners if np.array_equal(page[y : y + h, x : x + w], large)]


def drawings(path):
    """Return one call of each function that draws."""
    past, future = frames(3), frames(2, seed=1)
    return [
        lambda: prediction_strip(past, future, past, future, path),
        lambda: prediction_gif(past, future, past, future, path),
        lambda: plot_curves({"future": ([1, 2, 3], [9.0, 5.0, 4.0])}, path, {"mean image": 8.0}),
        lambda: per_step_curve({"free-running": np.arange(1, 5)}, path, {"bound": np.ones(4)}),
    ]


# ---------------------------------------------------------------- strips


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_strip_has_truth_above_model_and_past_left_of_future_every_pixel_enlarged(
    tmp_path, channels
):
    parts = [frames(T, channels=channels, seed=s) for s, T in enumerate((4, 2, 4, 2))]
    prediction_strip(*parts, tmp_path / "strip.png")
    page = strip(tmp_path / "strip.png")
    corners = {}  # (row, sequence, time): the one place where that frame stands
    for part, (row, begin) in zip(parts, [(0, 0), (0, 4), (1, 0), (1, 4)], strict=True):
        for t, n in np.ndindex(part.shape[:2]):
            found = find(page, part[t, n], scale=8)
            assert len(found) == 1, f"expected frame {t} of sequence {n} once, got {found}"
            corners[row, n, begin + t] = found[0]
    columns = [corners[0, 0, t][1] for t in range(6)]
    assert columns == sorted(columns)
    steps = np.diff(columns)
    assert steps[0] == steps[2] == steps[4] == 12 * 8 + 4, "frames are parted by a thin line"
    assert steps[3] > steps[0] + 30, "past and future are parted by a clear gap"
    for (row, n, t), (_, x) in corners.items():
        assert x == columns[t], f"row {row}, sequence {n}, time {t} stands off its column"
    rows = [corners[row, n, 0][0] for n in range(2) for row in range(2)]
    assert rows == sorted(rows) and rows[1] - rows[0] == 16 * 8 + 4


def test_a_strip_of_a_predictor_is_pale_where_the_model_was_not_asked(tmp_path):
    past, future = frames(3, N=1), frames(2, N=1, seed=1)
    prediction_strip(past, future, None, future[::-1], tmp_path / "strip.png")
    page = strip(tmp_path / "strip.png")
    assert len(find(page, np.full((16, 12), PALE, np.uint8), 8)) == 3
    assert len(find(page, future[0, 0], 8)) == 2  # truth and prediction


def test_a_strip_of_an_autoencoder_ends_with_the_past(tmp_path):
    past, future = frames(8), frames(4, seed=1)
    prediction_strip(past, None, past, None, tmp_path / "past.png")
    prediction_strip(past, future, past, None, tmp_path / "both.png")
    assert strip(tmp_path / "past.png").shape[1] < strip(tmp_path / "both.png").shape[1]


def test_floats_and_bytes_draw_the_same_picture_and_floats_are_cut_to_0_and_1(tmp_path):
    past = frames(3)
    past[0, 0, 0, :2] = [0, 255]
    floats = past / np.float32(255)
    floats[0, 0, 0, :2] = [-0.7, 1.8]  # as a linear output may be
    prediction_strip(past, None, past, None, tmp_path / "bytes.png")
    prediction_strip(floats, None, floats, None, tmp_path / "floats.png")
    assert (tmp_path / "bytes.png").read_bytes() == (tmp_path / "floats.png").read_bytes()


def test_all_the_ink_of_a_strip_stays_inside_its_margins(tmp_path):
    for T in (1, 4, 60):
        past, future = frames(T, N=1), frames(T, N=1, seed=1)
        prediction_strip(past, future, past, future, tmp_path / "strip.png")
        page = strip(tmp_path / "strip.png")
        edges = page[:4], page[-4:], page[:, :4], page[:, -4:]
        assert all((edge == 255).all() for edge in edges), f"{T} frames touch the edge"


def test_a_strip_of_several_models_has_a_row_for_each_under_one_truth(tmp_path):
    past, future = frames(3, N=1), frames(2, N=1, seed=1)
    models = {
        "a composite of two layers": (frames(3, N=1, seed=2), frames(2, N=1, seed=3)),
        "b": (None, frames(2, N=1, seed=4)),
    }
    strips.prediction_strip(past, future, models, tmp_path / "strip.png", first=7, caption="Look.")
    page = strip(tmp_path / "strip.png")
    rows = (future, *(prediction for _, prediction in models.values()))
    corners = [find(page, row[1, 0], 8) for row in rows]
    assert all(len(found) == 1 for found in corners)
    ys, xs = zip(*(found[0] for found in corners), strict=True)
    assert len(set(xs)) == 1 and np.diff(ys).tolist() == [132, 132]
    assert (page[ys[-1] + 130 :] < 200).any(), "the caption stands below"


def test_a_film_of_several_models_has_a_column_for_each(tmp_path):
    past = frames(2, N=1)
    models = {name: (frames(2, N=1, seed=s), None) for s, name in enumerate("abc", start=1)}
    strips.prediction_gif(past, None, models, tmp_path / "film.gif")
    page = film(tmp_path / "film.gif")[1]
    shown = (past, *(model for model, _ in models.values()))
    lefts = [find(page, frames[1, 0], 12)[0][1] for frames in shown]
    assert np.diff(lefts).tolist() == [12 * 12 + 8] * 3


# ---------------------------------------------------------------- films


def test_a_film_shows_truth_left_and_model_right_through_past_and_future(tmp_path):
    parts = [frames(T, seed=s) for s, T in enumerate((3, 2, 3, 2))]
    prediction_gif(*parts, tmp_path / "film.gif")
    pages = film(tmp_path / "film.gif")
    truth, model = np.concatenate(parts[:2]), np.concatenate(parts[2:])
    assert len(pages) == 5
    for t, page in enumerate(pages):
        for n in range(2):
            ((y, left),) = find(page, truth[t, n], scale=12)
            ((y2, right),) = find(page, model[t, n], scale=12)
            assert y == y2 and left < right, f"frame {t}, sequence {n}"


def test_a_film_of_a_predictor_is_pale_beside_the_past(tmp_path):
    past, future = frames(2, N=1), frames(2, N=1, seed=1)
    prediction_gif(past, future, None, future, tmp_path / "film.gif")
    pale = np.full((16, 12), PALE, np.uint8)
    found = [len(find(page, pale, 12)) for page in film(tmp_path / "film.gif")]
    assert found == [1, 1, 0, 0]


def test_a_film_loops_at_five_frames_a_second_and_rests_on_the_last(tmp_path):
    still = np.zeros((4, 1, 16, 16))  # equal frames too: only their captions differ
    prediction_gif(still, still, still, still, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as picture:
        assert picture.format == "GIF" and picture.info["loop"] == 0
        durations = [f.info["duration"] for f in ImageSequence.Iterator(picture)]
    assert durations == [200] * 7 + [1000]


def test_a_film_in_colour_keeps_its_colours(tmp_path):
    past = np.zeros((2, 1, 8, 8, 3))
    past[0, ..., 0] = past[1, ..., 2] = 1  # red, then blue
    prediction_gif(past, None, past, None, tmp_path / "film.gif")
    middles = [page[100, 100].tolist() for page in film(tmp_path / "film.gif")]
    np.testing.assert_allclose(middles, [[255, 0, 0], [0, 0, 255]], atol=8)


# ---------------------------------------------------------------- curves


def drawn(monkeypatch, draw, path):
    """Return the axes and the figure that `draw` would write."""
    kept = []
    monkeypatch.setattr(curves, "write_figure", lambda figure, path: kept.append(figure))
    draw(path)
    return kept[0].axes[0], kept[0]


def test_curves_plot_what_they_were_given_and_name_every_line_at_its_end(monkeypatch):
    given = {
        "reconstruction": ([10, 20, 30], [300.0, 250.0, 213.0]),
        "future": ([10, 30], [400, 345]),
    }
    axes, _ = drawn(monkeypatch, lambda p: plot_curves(given, p, {"mean image": 629.0}), None)
    lines = [line.get_xydata().tolist() for line in axes.lines[:2]]
    assert lines == [[[10, 300], [20, 250], [30, 213]], [[10, 400], [30, 345]]]
    assert set(axes.lines[2].get_ydata()) == {629.0} and axes.lines[2].get_linestyle() == "--"
    assert {text.get_text() for text in axes.texts} == {"reconstruction", "future", "mean image"}
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours["reconstruction"] == axes.lines[0].get_color() != axes.lines[1].get_color()


def test_the_scale_is_logarithmic_only_where_values_span_a_factor_of_ten(monkeypatch):
    near, far = {"a": ([1, 2], [100.0, 300.0])}, {"a": ([1, 2], [100.0, 1100.0])}
    cases = [(near, {}, "linear"), (far, {}, "log"), (near, {"bound": 9.0}, "log")]
    cases += [(far, {"zero": 0.0}, "linear"), ({"a": ([1, 2], [np.nan, 5.0])}, {}, "linear")]
    for given, lines, scale in cases:
        axes, _ = drawn(monkeypatch, lambda p, g=given, b=lines: plot_curves(g, p, b), None)
        assert axes.get_yscale() == scale, (given, lines)


def test_names_of_lines_that_end_together_do_not_overlap(monkeypatch):
    given = {f"line {k}": ([1, 2], [500.0, 345 + k / 10]) for k in range(9)}
    axes, figure = drawn(monkeypatch, lambda p: plot_curves(given, p, {"bound": 340.0}), None)
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 10
    for below, above in zip(boxes, boxes[1:], strict=False):
        assert below.y1 <= above.y0 + 1, "expected names one above the other"
    assert boxes[0].y0 > 0 and all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_per_step_curves_count_predicted_steps_from_one(monkeypatch):
    given = {"free-running": np.array([200, 240, 280]), "teacher-forced": np.array([200, 205, 208])}
    mean = {"mean image": np.full(3, 629.0)}
    axes, _ = drawn(monkeypatch, lambda p: per_step_curve(given, p, mean), None)
    assert axes.lines[0].get_xydata().tolist() == [[1, 200], [2, 240], [3, 280]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--"]
    assert len(axes.texts) == 3


def test_a_curve_that_diverged_is_drawn_as_far_as_it_went(tmp_path):
    plot_curves({"loss": ([1, 2, 3], [5.0, 4.0, np.nan])}, tmp_path / "c.png", {"bound": 3.0})
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (9 * style.DPI, 5 * style.DPI)


def test_nothing_finite_to_draw_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one finite value"):
        plot_curves({"loss": ([1], [np.nan])}, tmp_path / "c.png")
    with pytest.raises(DataError, match="at least one finite value"):
        plot_curves({}, tmp_path / "c.png")


def test_rows_become_series_that_skip_what_a_row_does_not_have():
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0, "validation": 6.0}, {"step": 3}]
    assert series_from_rows(rows, ["loss", "validation", "never"]) == {
        "loss": ([1, 2], [5.0, 4.0]),
        "validation": ([2], [6.0]),
    }


# ---------------------------------------------------------------- all of them


def test_equal_input_gives_equal_bytes_without_a_date_or_a_version(tmp_path):
    for draw in drawings(tmp_path / "picture"):
        draw()
        first = (tmp_path / "picture").read_bytes()
        draw()
        assert (tmp_path / "picture").read_bytes() == first
        with Image.open(io.BytesIO(first)) as picture:
            assert not {"Software", "Creation Time", "date:create"} & set(picture.info)


def test_a_pdf_is_written_where_the_path_says_so_the_same_every_time(tmp_path):
    for draw in drawings(tmp_path / "picture.pdf"):
        draw()
        first = (tmp_path / "picture.pdf").read_bytes()
        if not first.startswith(b"GIF"):  # films have no pages
            assert first.startswith(b"%PDF") and first.rstrip().endswith(b"%%EOF")
            assert b"CreationDate" not in first
        draw()
        assert (tmp_path / "picture.pdf").read_bytes() == first


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    (tmp_path / "picture").write_text("old")
    for draw in drawings(tmp_path / "picture"):
        draw()
        assert os.listdir(tmp_path) == ["picture"]


def test_a_failed_rename_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    (tmp_path / "picture").write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(strips.os, "replace", refuse)
    for draw in drawings(tmp_path / "picture"):
        with pytest.raises(RunError, match="No space left on device"):
            draw()
    assert os.listdir(tmp_path) == ["picture"]
    assert (tmp_path / "picture").read_text() == "old"


def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in ("missing/picture", "file/picture", "folder"):
        for draw in drawings(tmp_path / path):
            with pytest.raises(RunError, match="expected a file that can be written") as caught:
                draw()
            assert "\n" not in str(caught.value)


def test_wrong_shapes_are_refused_by_name(tmp_path):
    past, future = frames(3), frames(2)
    cases = [
        ((past[0, 0], None, None, None), "past: expected"),
        (
            (past, future, past[:2], None),
            r"reconstruction: expected \(3, 2, 16, 12\) like the past",
        ),
        ((past, future, None, past), "prediction: expected"),
        ((past, frames(2, H=15), None, None), "future: expected"),
        ((past, None, None, future), "prediction: expected None"),
        ((frames(3, channels=(4,)), None, None, None), "past: expected"),
        ((past.astype(int), None, None, None), "past: expected floats in"),
    ]
    for arrays, message in cases:
        for draw in (prediction_strip, prediction_gif):
            with pytest.raises(ShapeError, match=message):
                draw(*arrays, tmp_path / "picture")
    with pytest.raises(DataError, match="past: expected finite"):
        prediction_strip(np.full(past.shape, np.nan), None, None, None, tmp_path / "picture")


def test_inputs_are_not_written_to(tmp_path):
    past = frames(3) / 255
    past.flags.writeable = False
    prediction_strip(past, past, past, past, tmp_path / "picture")
    prediction_gif(past, past, past, past, tmp_path / "picture")


def test_importing_figures_imports_no_library_of_pictures_and_drawing_no_pyplot(tmp_path):
    program = f"""
import sys
from minilstm.figures import curves, panels, strips, style, tables
assert not {{"matplotlib", "PIL"}} & set(sys.modules), "imported too early"
curves.plot_curves({{"loss": ([1, 2], [2.0, 1.0])}}, {str(tmp_path / "c.png")!r})
import matplotlib
assert "matplotlib.pyplot" not in sys.modules, "pyplot is global state"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
