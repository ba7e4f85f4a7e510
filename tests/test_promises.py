"""Mistakes in a user's cell are named with the method where they show, and what to do.

Each mistake is one change of the text of a right cell, a GRU that defines every method.
"""

import functools
import re

import pytest

from minilstm import gradcheck, train
from minilstm.checker import layer_classes
from minilstm.command import run_command
from minilstm.config import cell_file
from minilstm.layers.rnn import Recurrent
from minilstm.promises import PromiseError, expect_promises
from minilstm.runs.own_cell import read_cell

TEXT = """
from dataclasses import dataclass

import numpy as np

from minilstm.backend import xp
from minilstm.layers import cells
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.layer import Param
from minilstm.layers.linear import add_product, affine, affine_dw, affine_dx
from minilstm.layers.rnn import Recurrent
from minilstm.layers.unrolled import Unrolled


@dataclass
class UnrolledMine(Unrolled):
    rh: np.ndarray | None = None


class Mine(Recurrent):
    num_gates = 3
    unrolled = UnrolledMine

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 3 * H)
        self.Wh = init.recurrent(rng, H, 3)
        self.b = init.bias(3 * H)

    def begin(self, x, state):
        run = super().begin(x, state)
        run.rh = run.array(self.H)
        return run

    def project(self, run, steps):
        affine(run.x[steps], self.Wx.value, self.b.value, out=run.a[steps])

    def step(self, run, t):
        H, Wh, hp = self.H, self.Wh.value, run.h[t]
        a_rz, a_n = run.a[t, :, : 2 * H], run.a[t, :, 2 * H :]
        add_product(hp, Wh[:, : 2 * H], out=a_rz)
        rz = cells.sigmoid(a_rz, out=a_rz)
        r, z = rz[:, :H], rz[:, H:]
        run.rh[t] = r * hp
        add_product(run.rh[t], Wh[:, 2 * H :], out=a_n)
        n = xp.tanh(a_n, out=a_n)
        run.h[t + 1] = (1 - z) * n + z * hp

    def final_state(self, run):
        return (run.h[-1],)

    def begin_backward(self, run, dfinal):
        super().begin_backward(run, dfinal)

    def step_backward(self, run, t, dy):
        H, Wh, hp = self.H, self.Wh.value, run.h[t]
        if dy is not None:
            run.dh += dy
        r, z, n = (run.a[t, :, k * H : (k + 1) * H] for k in range(3))
        da_n = run.dh * (1 - z) * (1 - n * n)
        da_z = run.dh * (hp - n) * z * (1 - z)
        drh = affine_dx(da_n, Wh[:, 2 * H :])
        da_r = drh * hp * r * (1 - r)
        da_rz = xp.concatenate((da_r, da_z), axis=1)
        run.dh[...] = run.dh * z + drh * r + affine_dx(da_rz, Wh[:, : 2 * H])
        run.a[t] = xp.concatenate((da_rz, da_n), axis=1)

    def project_backward(self, run, steps, want_dx):
        return affine_dx(run.a[steps], self.Wx.value) if want_dx else None

    def accumulate(self, run):
        H, da = self.H, run.a
        affine_dw(run.x, da, self.Wx.grad, self.b.grad)
        affine_dw(run.h[:-1], da[..., : 2 * H], self.Wh.grad[:, : 2 * H], None)
        affine_dw(run.rh, da[..., 2 * H :], self.Wh.grad[:, 2 * H :], None)

    def start_gradient(self, run):
        return (run.dh,)
"""

MADE = "self.D, self.H = D, H\n"
MISTAKES = {  # what is replaced: (by what, the method that is named, words of the message)
    "self.H = D, H": ("self.H = H, D", "__init__", "self.D"),
    MADE: ("pass\n", "__init__", "begin it with self.D, self.H = D, H"),
    "self.Wx = init.input_weight(rng, D, 3 * H)": (
        "self.Wx = Param(np.random.rand(D, 3 * H))", "__init__", "the same Wx"),
    "self.b = init.bias(3 * H)": (
        "self.b = init.bias(3 * H); self.g = np.ones(H)", "__init__", "Param in self.g"),
    "init.bias(3 * H)": (
        "Param(np.full(3 * H, np.nan), decayed=False)", "__init__", "finite numbers in b"),
    "num_gates = 3": ("num_gates = 3\n    g = Param(np.ones(2))", "__init__", "g of the class"),
    "return run\n": ("pass\n", "begin", "and return it"),
    "run.array(self.H)": (
        "np.zeros((len(x), x.shape[1], self.H))", "begin", "run.rh of dtype float32"),
    "out=run.a[steps])": ("out=run.a[steps] * 1)", "step", "finite numbers"),
    "affine(run.x[steps], self.Wx.value, self.b.value, out=run.a[steps])": (
        "return run.x[steps] @ self.Wx.value + self.b.value", "project", "nothing returned"),
    "run.h[t + 1] = (1 - z)": ("return (1 - z)", "step", "nothing returned"),
    "run.h[t + 1] =": ("run.h[t] =", "step", "run.h[t+1]"),
    "+ z * hp\n": ("+ z * hp / 0\n", "step", "divide by no zero"),
    "run.h[t + 1] = ": (
        "run.h = xp.concatenate((run.h[: t + 1], run.h[t:][:1], run.h[t + 2 :]))\n"
        "        run.h[t + 1] = ", "step", "numbers written into run.h"),
    "r * hp\n        add": ("r * hp * np.random.rand()\n        add", "forward", "no random"),
    "z * hp\n\n": ("z * hp\n        run.x[t] += 1\n\n", "forward", "inputs unchanged"),
    "+ z * hp": ("+ z * hp.mean(0)", "forward", "alone as in a batch"),
    "self.Wh.value, run.h[t]\n        a_rz": (
        "self.Wh.value, run.h[t]\n        self.extra = Param(hp)\n        a_rz",
        "forward", "make it in __init__"),
    "return (run.h[-1],)": ("return run.h[-1]", "final_state", "return (run.h[-1],)"),
    "super().begin_backward(run, dfinal)": (
        "super().begin_backward(run, dfinal or (1 + 0 * run.h[-1],))", "begin_backward",
        "if dfinal is not None"),
    "if dy is not None:\n            run.dh += dy": (
        "dy += run.dh\n        run.dh[...] = dy", "backward", "dy and dfinal unchanged"),
    "if dy is not None:": (
        "dy = run.h[t] if dy is None else dy\n        if dy is not None:", "step_backward",
        "if dy is not None"),
    "run.a[t] = xp.concatenate": (
        "run.a = run.a + xp.concatenate", "step_backward", "run.a"),
    "- n * n)": ("- n * n) / 0", "step_backward", "finite numbers"),
    "self.Wx.value) if want_dx else None": ("self.Wx.value)", "project_backward", "None where"),
    "affine_dx(run.a[steps], self.Wx.value) if": (
        "affine_dx(run.a, self.Wx.value) if", "project_backward", "shape (1, 2, 3)"),
    "self.Wx.grad, self.b.grad)": (
        "self.Wx.grad, None)\n        self.b.grad = da.sum((0, 1))", "accumulate",
        "write self.b.grad += ..."),
    "affine_dw(run.x, da, self.Wx.grad, self.b.grad)": (
        "affine_dw(run.x, da, self.Wx.grad, None)\n        self.b.grad[...] = da.sum((0, 1))",
        "accumulate", "and assign nothing"),
    "return (run.dh,)": ("return run.dh", "start_gradient", "return (run.dh,)"),
    "run = super().begin(x, state)": (
        "run = super().begin(x.copy(), state)", "project", "one step at a time"),
    "affine(run.x[steps]": (
        "run.a[steps.stop :] = 0; affine(run.x[steps]", "project", "other steps than `steps`"),
    "self.Wh = init.recurrent(rng, H, 3)\n        self.b = init.bias(3 * H)": (
        "self.Wh = init.recurrent(rng, H, 3)\n        self.b = Param(np.zeros(3 * H))",
        "__init__", "no weight decay of the bias b"),
    "self.D, self.H = D, H\n        self.Wx": (
        "self.D, self.H, rng = D, H, np.random.default_rng(0)\n        self.Wx",
        "__init__", "other weights for another rng"),
    "run.rh[t] = r * hp": ("run.rh[t] = r * hp; self.last = r", "", ""),  # allowed if never read
}  # fmt: skip


@pytest.fixture
def cell_of(tmp_path):
    """Return a function that writes a file with one change of TEXT and reads the cell in it."""

    def made(old="", new=""):
        assert old in TEXT
        path = tmp_path / "mine.py"
        path.write_text(TEXT.replace(old, new, 1) if old else TEXT, "utf-8")
        return read_cell(cell_file(f"{path}:Mine"))

    return made


def test_a_right_cell_keeps_every_promise(cell_of):
    expect_promises(cell_of())


@pytest.mark.parametrize(
    "cell", [cls for cls in layer_classes() if issubclass(cls, Recurrent)], ids=lambda c: c.__name__
)
def test_every_cell_of_the_package_keeps_every_promise(cell):
    expect_promises(cell)


RIGHT = {  # unusual, and right
    "    def final_state(self, run):": "    @staticmethod\n    def final_state(run):",
    "return run\n": "run.mask = np.ones(len(x), 'float32')\n        return run\n",
    "    def begin(self, x, state):": (
        "    @classmethod\n    def sample(cls, rng):\n"
        "        from minilstm.layers.layer import Sample\n"
        "        return Sample(cls(3, 4, rng), (rng.random((5, 1, 3)),))\n\n"
        "    def begin(self, x, state):"
    ),
}


@pytest.mark.parametrize(("old", "new"), RIGHT.items())
def test_an_unusual_cell_that_is_right_is_accepted(cell_of, old, new):
    expect_promises(cell_of(old, new))


def test_a_cell_with_a_loop_and_weights_of_its_own_is_accepted(cell_of):
    """The methods that its loop never calls are not tried."""
    text = (
        TEXT.split("class Mine")[0]
        + """
class Mine(Recurrent):
    num_gates = 1

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.U = init.input_weight(rng, D, H)

    def forward(self, x, state=None):
        from minilstm.layers.layer import Cache
        start = 0 * x[0] @ self.U.value if state is None else state[0]
        y = x @ self.U.value + start
        return (y, (y[-1].copy(),)), Cache(x=x, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        values = cache.consume()
        dy, dfinal = doutputs
        x = values.x
        da = np.zeros((*x.shape[:2], self.H), x.dtype) if dy is None else dy.copy()
        if dfinal is not None:
            da[-1] += dfinal[0]
        self.U.grad += np.tensordot(x, da, ((0, 1), (0, 1)))
        dx = da @ self.U.value.T if want_dx else None
        return dx, (da.sum(0),) if values.has_state else None

    def step(self, run, t):
        raise NotImplementedError

    def step_backward(self, run, t, dy):
        raise NotImplementedError
"""
    )
    expect_promises(cell_of(TEXT, text))


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("old", "mistake"), MISTAKES.items(), ids=lambda m: str(m)[:40].strip())
def test_a_mistake_is_named_with_a_method_and_what_to_do(cell_of, old, mistake):
    new, method, words = mistake
    if not method:
        expect_promises(cell_of(old, new))
        return
    with pytest.raises(PromiseError) as caught:
        expect_promises(cell_of(old, new))
    said = str(caught.value)
    assert said.startswith(f"Mine.{method}: expected ") and words in said, said
    assert re.search(", got .*: .", said) and "\n" not in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def step(self, run, t):", "def step(self, run):", "step to take (self, run, t), got"),
        ("rng, init=PAPER_INIT", "rng, init", "(self, D, H, rng, init=...), got (self, D"),
        ("num_gates = 3", "num_gates = 3.0", "num_gates to be a whole number >= 1, got 3.0"),
        ("num_gates = 3", 'num_gates = 3\n    state_names = "h"', "a tuple that begins with"),
        ("num_gates = 3", "num_gates = 3\n    gate_ranges = dict(r=1, z=1, n=1)", "(low, high)"),
    ],
)  # fmt: skip
def test_a_wrong_signature_or_attribute_is_refused_when_the_file_is_read(cell_of, old, new, words):
    with pytest.raises(Exception, match=re.escape(words)):
        cell_of(old, new)


def test_gradcheck_and_train_refuse_a_broken_promise_in_one_line(cell_of, tmp_path, capsys):
    cell_of("return (run.dh,)", "return run.dh")
    file = f"{tmp_path / 'mine.py'}:Mine"
    for command, arguments in (
        (gradcheck.main, [file]),
        (train.main, ["--cell", file, "--steps", "1", "--out", str(tmp_path / "run")]),
    ):
        assert run_command(functools.partial(command, arguments)) == 2
        said = capsys.readouterr().err
        assert (
            said.startswith("error: Mine.start_gradient: expected a tuple")
            and said.count("\n") == 1
        )
    assert not (tmp_path / "run").exists()


def test_gradcheck_says_why_a_gradient_is_infinitely_wrong(cell_of, tmp_path, capsys):
    cell_of("self.b = init.bias(3 * H)", "self.b = init.bias(3 * H); self.g = Param(np.ones(H))")
    assert gradcheck.main([f"{tmp_path / 'mine.py'}:Mine"]) == 1
    said = capsys.readouterr().out
    assert "WRONG: this array has no effect on the outputs" in said
