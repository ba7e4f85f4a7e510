"""Panels: weights at their place, colours over their range, the same bytes every time."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from minilstm.figures import curves, panels, strips, style
from minilstm.figures.panels import activity, confusion, histograms, tiled, weights
from minilstm.figures.tables import Dots, dots, error_bars

RNG = np.random.default_rng(0)
SIGNAL, WEIGHTS = RNG.random((9, 5)), RNG.standard_normal((7, 12))
LIMITS = {"i": (0, 1), "c": None}


def drawings(path):
    """One call of each function that draws."""
    both = {"trained": WEIGHTS, "randomly initialised": WEIGHTS[::-1]}
    rows = {m: {name: (SIGNAL, LIMITS[name], "peak 0.5") for name in LIMITS} for m in both}
    images = {model: {"reconstruction": x, "future": x} for model, x in both.items()}
    values = {model: (SIGNAL.ravel(), (0, 1), "3 %") for model in both}
    lines = {"one": Dots([1.0, 2.0], 0.5, 2.5, 1.2, 0.3), "two": Dots([3.0], np.nan, np.nan)}
    return [
        lambda: dots(3 * [{"levels": lines, "gains": lines}], path, "See this.", ["gains"]),
        lambda: error_bars({"left": {"one": {1: lines["one"]}, "two": {2: lines["two"]}}}, path),
        lambda: activity(rows, path, "See this."),
        lambda: weights(images, (3, 4), path, "See this."),
        lambda: histograms({"encoder": {"i": values, "f": values}}, path, "See this."),
    ]


def drawn(monkeypatch, draw):
    """The figure of Matplotlib that `draw` would write."""
    kept = []
    monkeypatch.setattr(panels, "write_figure", lambda figure, path: kept.append(figure))
    draw()
    return kept[0]


USERS = {  # settings that somebody may have in a matplotlibrc
    "text.usetex": True,  # needs a LaTeX, which is not everywhere
    "font.size": 30.0,
    "axes.facecolor": "red",
    "savefig.bbox": "tight",
    "savefig.dpi": 50.0,
    "path.sketch": (1.0, 100.0, 2.0),
}


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_page_has_the_same_bytes_every_time_whatever_a_users_settings_of_matplotlib(
    tmp_path, kind
):
    path, values = tmp_path / f"page.{kind}", {"one": (np.arange(3), np.arange(3.0))}
    frames = np.zeros((2, 1, 8, 8), np.uint8)
    pages = drawings(path)
    others = [
        lambda: confusion(np.eye(2, dtype=int), ("left", "right"), path, "See this."),
        lambda: curves.plot_curves(values, path),
        lambda: curves.per_step_curve({"one": np.arange(3.0)}, path),
        lambda: curves.growth_curves({"one": (np.ones(2), np.ones(2))}, {"1": np.ones(2)}, path),
        lambda: strips.prediction_strip(frames, None, {"model": (frames, None)}, path),
    ]
    for draw in [*pages, *others] if kind == "png" else [pages[2], others[-1]]:
        draw()
        usual = path.read_bytes()
        with matplotlib.rc_context(USERS):
            draw()
            assert all(matplotlib.rcParams[name] == value for name, value in USERS.items())
        assert path.read_bytes() == usual
        assert usual.startswith(b"%PDF" if kind == "pdf" else b"\x89PNG")
        assert b"Date" not in usual and b"matplotlib" not in usual.lower()
        if kind == "png" and draw in pages:
            with Image.open(path) as picture:
                assert picture.width == int(13.33 * style.DPI)  # inches x pixels per inch
                assert 6 < picture.height / style.DPI < 8


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
@pytest.mark.parametrize("N", [1, 7, 200])
def test_weights_are_tiled_in_rows_each_on_its_own_scale_around_grey(N, shape):
    images = np.random.default_rng(1).standard_normal((N, int(np.prod(shape))))
    images[0] = 0
    page = tiled(images, shape, panel=2.0)
    columns = (page.shape[1] + 1) // 5
    assert page.shape[2:] == shape[2:]
    if N == 200:
        assert 1.5 < page.shape[1] / page.shape[0] < 2.6, "about twice as wide as high"
    for n in range(N):
        y, x = 4 * (n // columns), 5 * (n % columns)
        image = page[y : y + 3, x : x + 4]
        expected = images[n].reshape(shape) / (2 * (np.abs(images[n]).max() or 1)) + 0.5
        np.testing.assert_allclose(image, expected, atol=1e-12)
    inside = np.zeros(page.shape[:2], bool)
    for n in range(N):
        y, x = 4 * (n // columns), 5 * (n % columns)
        inside[y : y + 3, x : x + 4] = True
    assert (page[~inside] == panels.BETWEEN).all(), "white between them, and where none is"


def test_the_colours_of_a_signal_span_its_range_or_99_percent_of_all_models(monkeypatch):
    large, small = 10 * SIGNAL - 5, SIGNAL
    rows = {
        "trained": {"i": (SIGNAL, (0, 1), "a"), "c": (large, None, "b")},
        "random": {"i": (SIGNAL, (0, 1), "c"), "c": (small, None, "d")},
    }
    figure = drawn(monkeypatch, lambda: activity(rows, None))
    images = [a.images[0] for a in figure.axes[:4]]
    assert [image.get_clim() for image in images[::2]] == [(0, 1), (0, 1)]
    most = np.quantile(np.abs([large, small]), 0.99)
    for image in images[1::2]:
        np.testing.assert_allclose(image.get_clim(), (-most, most))
    np.testing.assert_array_equal(images[1].get_array(), large.T)
    assert figure.axes[0].get_title() == "i\na" and figure.axes[2].get_title() == "c"


def test_a_histogram_counts_every_value_and_names_every_model_with_its_number(monkeypatch):
    values = {"trained": (np.array([0.0, 0.0, 1.0, 0.5]), (0, 1), "75 %")}
    figure = drawn(monkeypatch, lambda: histograms({"encoder": {"i": values}}, None))
    heights = figure.axes[0].patches[0].get_data().values
    assert heights.sum() == pytest.approx(1) and heights[0] == 0.5 and heights[-1] == 0.25
    (name,) = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert name == "trained: 75 %"


def test_a_confusion_matrix_shows_shares_of_its_rows_and_leaves_zeros_out(monkeypatch):
    counts = np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]])  # no clip of the third class
    figure = drawn(monkeypatch, lambda: confusion(counts, ("a", "b", "c"), None))
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "75", (1, 0): "25", (1, 1): "100"}  # (column, row)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
