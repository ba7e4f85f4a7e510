"""Diagrams of the slides and the paper: cells, unrolled networks, models, streams.

    diagrams.draw("paper-lstm", "lstm.png")

Blue arrows go forward, orange arrows carry gradients back. Round signs are elementwise products and
sums. Gates have the letters of layers/cells.py; h' and c' are the states of the step before. The
background is opaque, so that a diagram is legible on a dark page too.

Slides: "Recurrent Neural Networks", "Cells", "Recurrent AutoEncoders?", "Recurrent
Encoder-Decoder", "Predicting The Future", Figure 11. Read next: style.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .style import FAINT, INK, PALETTE, own_settings, write_figure

FORWARD, BACK = PALETTE[0], PALETTE[1]
BACKGROUND, CELL, GATE, DATA, CODE = "#fcfcfa", "#dbe9f5", "#cfe8df", "#f1f1ec", "#f6e3ee"
INCHES, DPI = 0.62, 150  # of one unit; of the file
LETTERS = 11  # points
APART = 0.16  # units between an arrow and its gradient


class Canvas:
    """A drawing in units: boxes, signs, and arrows along straight lines."""

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(INCHES * width, INCHES * height), dpi=DPI)
        self.figure.set_facecolor(BACKGROUND)
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def text(self, x, y, words, colour=INK, size=LETTERS, **keywords):
        """Write words; (x, y) is their middle."""
        style = {"ha": "center", "va": "center"} | keywords
        self.axes.text(x, y, words, color=colour, fontsize=size, zorder=6, **style)

    def box(self, x, y, words, colour=CELL, width=1.1, height=0.8, size=LETTERS):
        """Draw a box with words; (x, y) is its middle."""
        from matplotlib.patches import FancyBboxPatch

        self.axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - height / 2), width, height, zorder=4, linewidth=1,
                boxstyle="round,pad=0,rounding_size=0.1", facecolor=colour, edgecolor=INK,
            )
        )  # fmt: skip
        self.text(x, y, words, size=size)

    def sign(self, x, y, words):
        """Draw a round sign: a product or a sum."""
        from matplotlib.patches import Circle

        self.axes.add_patch(
            Circle((x, y), 0.27, facecolor="white", edgecolor=INK, linewidth=1, zorder=4)
        )
        self.text(x, y, words, size=LETTERS + 1)

    def line(self, points, colour=FORWARD, dashed=False, arrow=True):
        """Draw straight lines through the points, with an arrow at the last one."""
        xs, ys = zip(*points, strict=True)
        style = (0, (4, 2)) if dashed else "-"
        self.axes.plot(xs, ys, color=colour, lw=1.7, ls=style, zorder=3, solid_joinstyle="round")
        if arrow:
            (x0, y0), (x1, y1) = points[-2:]
            length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
            back = (x1 - 0.1 * (x1 - x0) / length, y1 - 0.1 * (y1 - y0) / length)
            self.axes.annotate(
                "", xy=(x1, y1), xytext=back, zorder=5,
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.7,
                            "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13},
            )  # fmt: skip

    def wire(self, *points, back=True, side=1):
        """Draw an arrow forward and, beside it, the arrow of its gradient."""
        self.line(points)
        if back:
            self.line(beside(points, side * APART)[::-1], BACK)

    def legend(self, x, y, back=True):
        """Explain the two colours."""
        self.text(x, y, "forward", FORWARD, ha="left")
        if back:
            self.text(x + 1.6, y, "gradient, back", BACK, ha="left")


def beside(points: list, apart: float) -> list:
    """Return the corners of a path that runs `apart` to the left of straight lines.

    Every line is horizontal or vertical. The first and last points are moved sideways only.
    """
    normals = []
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
        length = abs(x1 - x0) + abs(y1 - y0)
        normals.append((-(y1 - y0) / length, (x1 - x0) / length))
    moved = []
    for k, (x, y) in enumerate(points):
        around = normals[max(0, k - 1) : k + 1]
        sides = around if len(around) == 1 or around[0] != around[1] else around[:1]
        moved.append(
            (x + apart * sum(side[0] for side in sides), y + apart * sum(side[1] for side in sides))
        )
    return moved


# ---------------------------------------------------------------- cells


def simple_rnn() -> Canvas:
    """The simple RNN: as the slides write it, and the standard one."""
    c = Canvas(13, 5.6)
    c.axes.set_ylim(-0.5, 5.1)
    for x0, title in ((0, "slides, read literally"), (6.8, "standard (Elman)")):
        c.text(x0 + 2.8, 4.7, title, size=LETTERS + 1)
        literal = x0 == 0
        c.box(x0 + 1.7, 3.2, "$W_h$" if not literal else "$W$")
        c.sign(x0 + 3.4, 3.2 if not literal else 1.9, "+")
        c.wire((x0 + 0.5, 3.2), (x0 + 1.15, 3.2))
        c.text(x0 + 0.25, 3.2, "$h'$")
        c.box(x0 + 1.7, 0.8, "$W_x$" if not literal else "$W^i$")
        c.wire((x0 + 0.5, 0.8), (x0 + 1.15, 0.8))
        c.text(x0 + 0.25, 0.8, "$x$")
        if literal:
            c.wire((x0 + 2.25, 3.2), (x0 + 5.4, 3.2))
            c.text(x0 + 5.65, 3.2, "$h$")
            c.wire((x0 + 3.4, 3.2), (x0 + 3.4, 2.17))
            c.wire((x0 + 2.25, 0.8), (x0 + 3.4, 0.8), (x0 + 3.4, 1.63), side=-1)
            c.box(x0 + 4.5, 1.9, "$s$", GATE, 0.8)
            c.wire((x0 + 3.67, 1.9), (x0 + 4.1, 1.9))
            c.wire((x0 + 4.9, 1.9), (x0 + 5.4, 1.9))
            c.text(x0 + 5.65, 1.9, "$o$")
            c.text(x0 + 2.8, 4.1, "$x$ never reaches the next state", FAINT, LETTERS - 1)
        else:
            c.wire((x0 + 2.25, 3.2), (x0 + 3.13, 3.2))
            c.wire((x0 + 2.25, 0.8), (x0 + 3.4, 0.8), (x0 + 3.4, 2.93), side=-1)
            c.box(x0 + 4.5, 3.2, "tanh", GATE, 0.8)
            c.wire((x0 + 3.67, 3.2), (x0 + 4.1, 3.2))
            c.wire((x0 + 4.9, 3.2), (x0 + 5.5, 3.2))
            c.text(x0 + 5.75, 3.2, "$h$")
    c.legend(0.3, -0.25)
    return c


def _gates(c, at, letters):
    for x, letter in zip(at, letters, strict=True):
        squash = "tanh" if letter in "gn" else "$s$"
        c.box(x, 2.7, f"${letter}$", GATE, 1.1, 0.8, LETTERS + 3)
        c.text(x + 0.42, 2.02, squash, FAINT, LETTERS - 2, ha="left")


def _lstm(c, slides):
    """Draw the cell line above, the gates in a row, and the bus of x and h' below."""
    f, i, g, o, out = 2.9, 4.9, 6.9, 9.1, 10.7
    _gates(c, (f, i, g, o), "figo")
    top, mix = 6.2, 4.5
    c.text(0.25, top, "$c'$")
    c.wire((0.5, top), (f - 0.27, top))
    c.wire((f + 0.27, top), (5.9 - 0.27, top))
    c.wire((5.9 + 0.27, top), (12.3, top))
    c.text(12.6, top, "$c$")
    c.sign(f, top, "×")
    c.sign(5.9, top, "+")
    c.sign(5.9, mix, "×")
    c.wire((f, 3.1), (f, top - 0.27))
    c.wire((i, 3.1), (i, mix), (5.9 - 0.27, mix))
    c.wire((g, 3.1), (g, mix), (5.9 + 0.27, mix), side=-1)
    c.wire((5.9, mix + 0.27), (5.9, top - 0.27))
    c.sign(out, 3.7, "×")
    c.wire((o, 3.1), (o, 3.7), (out - 0.27, 3.7))
    if slides:
        c.wire((out, top), (out, 3.97))
        c.box(out, 2.4, "tanh", GATE, 0.9, 0.6)
        c.wire((out, 3.43), (out, 2.7))
        c.wire((out, 2.1), (out, 1.2), (12.3, 1.2))
    else:
        c.box(out, 4.95, "tanh", GATE, 0.9, 0.6)
        c.wire((out, top), (out, 5.25))
        c.wire((out, 4.65), (out, 3.97))
        c.wire((out, 3.43), (out, 1.2), (12.3, 1.2))
    c.text(12.6, 1.2, "$h$")
    bus = 1.2
    c.text(0.25, bus, "$h'$")
    c.line([(0.5, bus), (o, bus)], arrow=False)
    c.line([(o, bus - APART), (0.5, bus - APART)], BACK)
    for x in (f, i, g, o):
        c.wire((x, bus), (x, 2.3))
    if slides:
        c.box(1.4, 0.4, "$I$", CELL, 0.8, 0.55)
        c.wire((0.5, 0.4), (1.0, 0.4), side=-1)
        c.wire((1.8, 0.4), (2.3, 0.4), (2.3, bus), side=-1)
    else:
        c.wire((1.6, 0.35), (1.6, bus), side=-1)
    return f, i, o, top


def paper_lstm() -> Canvas:
    """The LSTM of the paper, section 2.1, with its peepholes."""
    c = Canvas(13, 7)
    f, i, o, top = _lstm(c, slides=False)
    c.text(1.65, 0.17, "$x$")
    c.line([(1.2, top), (1.2, 3.75), (i - 0.35, 3.75), (i - 0.35, 3.1)], PALETTE[3], dashed=True)
    c.line([(f - 0.35, 3.75), (f - 0.35, 3.1)], PALETTE[3], dashed=True)
    c.line([(o - 0.35, top), (o - 0.35, 3.1)], PALETTE[3], dashed=True)
    words = "peepholes:\n$i$ and $f$ see $c'$,\n$o$ sees $c$"
    c.text(0.2, 3.35, words, PALETTE[3], LETTERS - 1, ha="left", va="top")
    c.text(5.4, 0.55, "$x W_x + h' W_h + b$", INK, ha="left")
    c.legend(8.6, 0.3)
    return c


def slides_lstm() -> Canvas:
    """The LSTM of the slides: no bias, no peepholes, tanh around the gated cell."""
    c = Canvas(13, 7)
    _lstm(c, slides=True)
    c.text(0.25, 0.4, "$x$")
    c.text(
        3.4, 0.5, "$W\\,[I x, h']$;  the slides call $i\\,f\\,g\\,o$:  $u\\,f\\,c\\,o$", ha="left"
    )
    c.legend(8.8, 0.3)
    return c


def gru() -> Canvas:
    """A gated recurrent unit."""
    c = Canvas(13, 7)
    r, z, n, top, mix = 2.9, 5.6, 9.6, 6.2, 4.6
    _gates(c, (r, z, n), "rzn")
    c.text(0.25, top, "$h'$")
    c.sign(z, top, "×")
    c.sign(n, top, "+")
    c.wire((0.5, top), (z - 0.27, top))
    c.wire((z + 0.27, top), (n - 0.27, top))
    c.wire((n + 0.27, top), (12.3, top))
    c.text(12.6, top, "$h$")
    c.wire((z, 3.1), (z, top - 0.27))
    c.box(7.6, mix, "$1-z$", DATA, 1.1, 0.6)
    c.wire((z, mix), (7.05, mix))
    c.sign(n, mix, "×")
    c.wire((8.15, mix), (n - 0.27, mix))
    c.wire((n, 3.1), (n, mix - 0.27))
    c.wire((n, mix + 0.27), (n, top - 0.27))
    c.sign(r, 4.6, "×")
    c.wire((r, 3.1), (r, 4.33))
    c.wire((1.5, top), (1.5, 4.6), (r - 0.27, 4.6))
    c.wire((r + 0.27, 4.6), (4.2, 4.6), (4.2, 3.7), (n - 0.4, 3.7), (n - 0.4, 3.1), side=-1)
    c.text(7.6, 3.3, "$r \\odot h'$", size=LETTERS - 1)
    c.text(0.25, 1.4, "$h'$")
    c.wire((0.5, 1.4), (z - 0.3, 1.4), (z - 0.3, 2.3), side=-1)
    c.wire((r - 0.3, 1.4), (r - 0.3, 2.3))
    c.text(0.25, 0.7, "$x$")
    c.wire((0.5, 0.7), (n, 0.7), (n, 2.3), side=-1)
    c.wire((r + 0.25, 0.7), (r + 0.25, 2.3))
    c.wire((z + 0.25, 0.7), (z + 0.25, 2.3))
    c.legend(10.0, 0.6, back=False)
    c.text(10.0, 0.25, "gradient, back", BACK, ha="left")
    return c


# ---------------------------------------------------------------- networks

WIDE = 1.5  # units from one time step to the next


def _row(c, x, y, count):
    """Draw boxes side by side with the state going from one to the next; return their middles."""
    at = [x + k * WIDE for k in range(count)]
    for k, place in enumerate(at):
        c.box(place, y, "LSTM", CELL, 1.05, 0.75, LETTERS - 1)
        if k:
            c.wire((at[k - 1] + 0.525, y), (place - 0.525, y))
    return at


def _in(c, at, y, names):
    for x, name in zip(at, names, strict=True):
        c.text(x, y - 1.35, name)
        c.wire((x, y - 1.1), (x, y - 0.375), back=False)


def _out(c, at, y, names):
    for x, name in zip(at, names, strict=True):
        c.wire((x, y + 0.375), (x, y + 1.05))
        c.text(x, y + 1.35, name)


def _frames(*numbers, hat=False):
    return [f"$\\hat x_{n}$" if hat else f"$x_{n}$" for n in numbers]


def _code(c, start, end, y):
    """Draw the code: the final state of the encoder on its way to a decoder."""
    c.wire((start + 0.525, y), (end - 0.525, y))
    c.text((start + end) / 2, y + 0.42, "code", size=LETTERS - 1)


def network() -> Canvas:
    """A network of two layers and its loss, forward and backward."""
    c = Canvas(12.4, 2.6)
    words = ("$x$", "$x W_1 + b_1$", "tanh", "$h W_2 + b_2$", "loss")
    colours = (DATA, CELL, GATE, CELL, CODE)
    at = (0.7, 3.3, 6.0, 8.6, 11.5)
    for x, word, colour in zip(at, words, colours, strict=True):
        c.box(x, 1.3, word, colour, 1.8 if "W" in word else 1.0)
    for k, letter in enumerate("xahz"):
        wide = [0.9 if "W" in words[n] else 0.5 for n in (k, k + 1)]
        left, right = at[k] + wide[0], at[k + 1] - wide[1]
        c.wire((left, 1.4), (right, 1.4), side=-1)
        c.text((left + right) / 2, 1.75, f"${letter}$", FORWARD)
        c.text((left + right) / 2, 0.85, f"$d{letter}$", BACK)
    c.legend(4.0, 0.3)
    return c


def unrolling() -> Canvas:
    """A recurrent network, folded and unrolled over three steps."""
    c = Canvas(12, 5)
    c.box(1.9, 2.5, "RNN", CELL, 1.05, 0.75, LETTERS - 1)
    c.wire((1.9, 1.4), (1.9, 2.125), back=False)
    c.wire((1.9, 2.875), (1.9, 3.55), back=False)
    c.text(1.9, 1.15, "$x$")
    c.text(1.9, 3.85, "$y$")
    c.line([(2.425, 2.6), (3.0, 2.6), (3.0, 3.3), (0.9, 3.3), (0.9, 2.5), (1.375, 2.5)])
    c.text(0.6, 2.9, "$h$")
    c.text(4.0, 2.5, "=", size=LETTERS + 8)
    at = [6.0 + 2.0 * k for k in range(3)]
    for k, x in enumerate(at):
        c.box(x, 2.5, "RNN", CELL, 1.05, 0.75, LETTERS - 1)
        c.wire((x, 1.4), (x, 2.125))
        c.text(x, 1.15, f"$x[{k}]$")
        c.wire((x, 2.875), (x, 3.55))
        c.text(x, 3.85, f"$y[{k}]$")
    for k, x in enumerate([4.7, *(place + 0.525 for place in at)]):
        c.wire((x, 2.5), (x + (0.775 if k == 0 else 0.95), 2.5))
        c.text(x + 0.45, 2.05, f"$h[{k}]$", size=LETTERS - 1)
    c.text(7.5, 4.6, "three copies of one network: the same weights at every step", size=LETTERS)
    c.legend(6.0, 0.4)
    return c


def autoencoder() -> Canvas:
    """An LSTM autoencoder: the past in, the past out in reverse order."""
    c = Canvas(12, 5)
    y = 2.4
    enc, dec = _row(c, 1.2, y, 3), _row(c, 7.1, y, 3)
    _in(c, enc, y, _frames(1, 2, 3))
    _out(c, dec, y, _frames(3, 2, 1, hat=True))
    _code(c, enc[-1], dec[0], y)
    c.text(enc[1], 4.3, "encoder", size=LETTERS + 1)
    c.text(dec[1], 4.55, "decoder: the past, in reverse order", size=LETTERS + 1)
    c.text(dec[1], 1.5, "no inputs: all it knows is the code", FAINT, LETTERS - 1)
    c.legend(7.0, 0.5)
    return c


def encoder_decoder() -> Canvas:
    """An encoder-decoder that predicts the future."""
    c = Canvas(12, 5)
    y = 2.4
    enc, dec = _row(c, 1.2, y, 3), _row(c, 7.1, y, 3)
    _in(c, enc, y, _frames(1, 2, 3))
    _out(c, dec, y, _frames(4, 5, 6, hat=True))
    _code(c, enc[-1], dec[0], y)
    c.text(enc[1], 4.3, "encoder", size=LETTERS + 1)
    c.text(dec[1], 4.55, "decoder: the future", size=LETTERS + 1)
    c.text(dec[1], 1.5, "an LSTM with weights of its own", FAINT, LETTERS - 1)
    c.legend(7.0, 0.5)
    return c


def composite() -> Canvas:
    """The composite model: one encoder, two decoders, whose gradients add at the code."""
    c = Canvas(12, 7.4)
    enc = _row(c, 1.2, 3.7, 3)
    _in(c, enc, 3.7, _frames(1, 2, 3))
    up, down = _row(c, 7.4, 5.3, 3), _row(c, 7.4, 1.6, 3)
    _out(c, up, 5.3, _frames(3, 2, 1, hat=True))
    _out(c, down, 1.6, _frames(4, 5, 6, hat=True))
    c.wire((enc[-1] + 0.525, 3.7), (5.7, 3.7), (5.7, 5.3), (up[0] - 0.525, 5.3))
    c.wire((5.7, 3.7), (5.7, 1.6), (down[0] - 0.525, 1.6), side=-1)
    c.text(5.05, 4.35, "code", size=LETTERS - 1)
    c.text(5.95, 3.7, "the two\ngradients add", BACK, LETTERS - 2, ha="left")
    c.text(up[1], 7.15, "reconstruction, in reverse order", size=LETTERS + 1)
    c.text(down[1], 0.75, "prediction of the future", size=LETTERS + 1)
    c.text(enc[1], 4.6, "encoder", size=LETTERS + 1)
    c.legend(0.7, 0.5)
    return c


def conditional() -> Canvas:
    """A conditional decoder: in training it is given true frames, running free its own."""
    c = Canvas(13, 5.8)
    y = 2.7
    for x0, title, free in (
        (1.6, "teacher forcing: the true previous frame", False),
        (8.2, "free-running: its own previous frame", True),
    ):
        at = [x0 + 1.9 * k for k in range(3)]
        for k, x in enumerate(at):
            c.box(x, y, "LSTM", CELL, 1.05, 0.75, LETTERS - 1)
            c.wire((x - (1.375 if k else 1.0), y), (x - 0.525, y))
            c.wire((x, y + 0.375), (x, y + 1.05))
            c.text(x, y + 1.35, f"$\\hat x_{4 + k}$")
            if k == 0 or not free:
                c.wire((x, y - 1.1), (x, y - 0.375), back=False)
                c.text(x, y - 1.4, f"$x_{3 + k}$" if k else "0")
            else:
                before = at[k - 1]
                c.wire((before + 0.3, y + 1.35), (before + 0.95, y + 1.35),
                       (before + 0.95, y - 0.9), (x, y - 0.9), (x, y - 0.375), side=-1)  # fmt: skip
        c.text(x0 - 1.2, y + 0.45, "code", size=LETTERS - 1)
        c.text(at[1], 5.3, title, size=LETTERS + 1)
    c.legend(1.0, 0.4)
    return c


def classifier() -> Canvas:
    """The LSTM classifier of Figure 11: two layers, probabilities at every step, their mean."""
    c = Canvas(12, 7)
    below, above = _row(c, 2.2, 1.9, 4), _row(c, 2.2, 3.4, 4)
    _in(c, below, 1.9, [*_frames(1, 2, 3), "$x_T$"])
    for x in below:
        c.wire((x, 2.275), (x, 3.025))
    for k, x in enumerate(above):
        c.wire((x, 3.775), (x, 4.4))
        c.box(x, 4.7, "softmax", GATE, 1.2, 0.6, LETTERS - 2)
        c.wire((x, 5.0), (x, 5.55))
        c.text(x, 5.85, f"$p_{k + 1}$" if k < 3 else "$p_T$")
        c.line([(x, 6.1), (x, 6.5)], arrow=False)
    for y in (0.55, 5.85):
        c.text((below[2] + below[3]) / 2, y, "…", FAINT)
    c.text(0.8, 1.9, "LSTM 1\nfrom the\nencoder", FAINT, LETTERS - 2)
    c.text(0.8, 3.4, "LSTM 2\nfrom the\nencoder", FAINT, LETTERS - 2)
    c.line([(above[0], 6.5), (8.6, 6.5)])
    c.box(9.7, 6.5, "mean over steps", DATA, 2.2, 0.7, LETTERS - 1)
    c.line([(9.7, 6.15), (9.7, 4.6)])
    c.text(9.7, 4.3, "class of the clip")
    c.text(9.7, 3.3, "in training every\nstep has its loss", FAINT, LETTERS - 1)
    c.legend(8.3, 0.55)
    return c


def two_streams() -> Canvas:
    """Two streams: a classifier on frames and one on optical flow, whose answers are averaged."""
    c = Canvas(12, 4.8)
    for y, words, stream in ((3.6, "frames (RGB)", "what it looks like"),
                             (1.3, "optical flow", "how it moves")):  # fmt: skip
        c.box(1.5, y, words, DATA, 2.2, 0.8, LETTERS - 1)
        c.text(1.5, y - 0.68, stream, FAINT, LETTERS - 1)
        c.line([(2.6, y), (3.3, y)])
        c.box(4.3, y, "convolutional\nnetwork", DATA, 2.0, 0.9, LETTERS - 2)
        c.line([(5.3, y), (6.0, y)])
        c.box(6.8, y, "LSTM\nclassifier", CELL, 1.6, 0.9, LETTERS - 2)
        c.text(4.3, y - 0.72, "fixed", FAINT, LETTERS - 2)
        c.text(6.8, y - 0.72, "trained", FAINT, LETTERS - 2)
    c.line([(7.6, 3.6), (9.2, 3.6), (9.2, 2.9)])
    c.line([(7.6, 1.3), (9.2, 1.3), (9.2, 2.0)])
    c.box(9.2, 2.45, "mean of the\nprobabilities", DATA, 1.9, 0.9, LETTERS - 2)
    c.line([(10.15, 2.45), (10.8, 2.45)])
    c.text(11.3, 2.45, "class")
    return c


DIAGRAMS: dict[str, Callable[[], Canvas]] = {
    "simple-rnn": simple_rnn,
    "slides-lstm": slides_lstm,
    "paper-lstm": paper_lstm,
    "gru": gru,
    "network": network,
    "unrolling": unrolling,
    "autoencoder": autoencoder,
    "encoder-decoder": encoder_decoder,
    "composite": composite,
    "conditional": conditional,
    "classifier": classifier,
    "two-streams": two_streams,
}


@own_settings()
def draw(name: str, path: str | os.PathLike) -> None:
    """Draw the diagram of this name, one of DIAGRAMS, as PNG or PDF. Raises RunError."""
    write_figure(DIAGRAMS[name]().figure, path)
