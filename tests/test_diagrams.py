"""The diagrams of the slides: each is drawn, small, and legible on a dark page."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from minilstm.figures import diagrams


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_a_diagram_is_wide_opaque_light_and_small(name, tmp_path):
    path = tmp_path / f"{name}.png"
    diagrams.draw(name, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    assert pixels.shape[1] > 1000  # twice what a page of 700 pixels needs, for sharp letters
    assert (pixels[..., 3] == 255).all() and pixels[0, 0].min() > 240
    assert path.stat().st_size < 60_000


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_nothing_is_drawn_outside_the_page(name):
    canvas = diagrams.DIAGRAMS[name]()
    (left, right), (low, high) = canvas.axes.get_xlim(), canvas.axes.get_ylim()
    for line in canvas.axes.lines:
        assert (line.get_xdata() > left).all() and (line.get_xdata() < right).all()
        assert (line.get_ydata() > low).all() and (line.get_ydata() < high).all()
    renderer = FigureCanvasAgg(canvas.figure).get_renderer()
    page = canvas.figure.bbox
    for words in canvas.axes.texts:
        box = words.get_window_extent(renderer)
        assert page.x0 < box.x0 and box.x1 < page.x1, words.get_text()
        assert page.y0 < box.y0 and box.y1 < page.y1, words.get_text()


def test_a_gradient_runs_beside_its_arrow():
    assert diagrams.beside([(0, 0), (4, 0)], 1) == [(0, 1), (4, 1)]
    assert diagrams.beside([(0, 0), (0, 4)], 1) == [(-1, 0), (-1, 4)]
    corner = diagrams.beside([(0, 0), (4, 0), (4, 4)], 1)
    assert corner == [(0, 1), (3, 1), (3, 4)]
