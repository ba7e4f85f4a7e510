"""Recurrent layers: a cell unrolled through time, and back-propagation through it.

`Recurrent` has the loop over time, forward and backward, which all cells share. Here are the
slides' literal RNN and the standard (Elman) RNN; the LSTMs are in lstm.py.

Four functions here come from the folder gpu/. With NumPy they do nothing else than this:

    project_all(self, run)                      self.project(run, all time steps)
    each_step(self, steps)                      steps
    project_all_backward(self, run, want_dx)    self.project_backward(run, all time steps, want_dx)
    aside(f, ...)                               f(...)

Slides: "Recurrent Neural Networks: Unrolling Recurrent Networks", "Cells: Simple RNN".
Read next: lstm.py.
"""

from __future__ import annotations

import inspect

import numpy as np

from ..backend import xp
from ..gpu.side_by_side import aside
from ..gpu.wavefront import each_step, project_all, project_all_backward
from . import cells, samples
from .init import PAPER_INIT, Init
from .layer import Cache, Layer, expect, expect_entries
from .linear import add_product, affine, affine_dw, affine_dx
from .memory_order import matmul
from .unrolled import Unrolled, UnrolledSlidesRNN


class Recurrent(Layer, abstract=True, sample=samples.recurrent, variants=samples.recurrents):
    """A cell unrolled through time: x (T, B, D) and a start state -> y (T, B, H) and a final state.

    A state is a tuple of (B, H) arrays: (h,) of an RNN, (h, c) of an LSTM. `None` is all zeros.

    A new cell is a subclass. Its class attributes:

    num_gates      G. A step has G*H pre-activations: G is 4 for an LSTM and 1 for a simple RNN
    state_names    names of the states, "h" first. Default: ("h",)
    gate_ranges    {name: (low, high)}: the name and the range of each of the G gates in run.a[t],
                   in their order, such as {"r": (0, 1)}. minilstm.visualize draws them.
                   Default: {}
    unrolled       the class of `run`, below. Default: Unrolled. A cell with more arrays declares
                   a subclass of it: a dataclass with one field for each array, None at first. A
                   state "c" needs the fields c and dc

    __init__(D, H, rng, init=PAPER_INIT) sets self.D, self.H and the parameters, usually
    self.Wx = init.input_weight(rng, D, G*H), self.Wh = init.recurrent(rng, H, G) and
    self.b = init.bias(G*H). Of these, project uses Wx and b, project_backward uses Wx, and
    accumulate uses all three. A cell without one of them defines the methods that use it. A cell
    with one more weight defines accumulate: it calls super().accumulate(run) and adds to the
    gradient of that weight. Other parameters are made by init.weight(rng, D, K), or by
    Param(array) for any array. Weight decay (--l2) shrinks every parameter except biases: make
    every bias by init.bias(K), under any name.

    These methods are called in this order. A cell must define the methods marked with *. The
    methods without * assume the weights Wx, Wh and b and the output h. A cell with different
    weights or outputs extends or replaces them. `steps` is a slice of the time steps.

    forward
      begin(x, state) -> run            Keep x as run.x (T, B, D). Allocate run.a (T, B, G*H),
                                        run.product (B, G*H), run.h (T+1, B, H) with the start
                                        state at index 0, run.y (T, B, H). For a cell's own
                                        arrays, run.array(K) allocates (T, B, K). An array holds
                                        arbitrary numbers until it is written. Every state is
                                        (B, H).
      project(run, steps)               run.a[steps] = run.x[steps] Wx + b.
    * step(run, t)                      Use run.a[t] (B, G*H) and the state run.h[t] (B, H). Write
                                        the new state to run.h[t+1]. Keep in run.a[t] what
                                        step_backward will need, for example the gates.
      final_state(run) -> state         The states after the last step.

    backward
      begin_backward(run, dfinal)       run.dh (B, H) = gradient of the final state, or zeros.
    * step_backward(run, t, dy)         run.dh is the gradient of run.h[t+1] from later steps. dy
                                        (B, H) is the gradient of the output of step t, or None for
                                        zeros. Add dy to run.dh. Write da, the gradient of the
                                        pre-activations, to run.a[t]. Write the gradient of run.h[t]
                                        to run.dh, in place.
      project_backward(run, steps, want_dx) -> dx
                                        run.a[steps] Wx^T, or None if it is not wanted.
      accumulate(run)                   With da of all steps in run.a add to the gradients of the
                                        weights: dWx += x^T da, dWh += h_prev^T da, db += sum of da.
      start_gradient(run) -> dstate     run.dh after step_backward of step 0.

    All arrays have the dtype of x. Every other state, such as c, is handled like h. linear.py has
    the matrix products, for all steps or one: add_product(h, W, out) for out += h W (with
    scratch=run.product it allocates nothing),
    affine_dx(da, W) for da W^T, affine_dw(h, da, dW, db) for the gradients of a weight and a bias.
    cells.sigmoid(a, out=...) needs the array for its result.

    minilstm.gradcheck FILE.py:CLASS tests these rules (promises.py), then every gradient.

    If all inputs are known beforehand, `forward` and `backward` call `project` and
    `project_backward` once for all steps, which is ONE matrix product each. They are called for one
    step at a time in two cases: in a decoder whose inputs are its own outputs (feedback.py), and on
    a GPU that computes two small layers at the same time (gpu/wavefront.py). Both may write only to
    elements of `steps`, because a GPU may be computing other steps meanwhile.
    """

    num_gates: int
    state_names: tuple[str, ...] = ("h",)
    gate_ranges: dict[str, tuple[float, float]] = {}
    unrolled = Unrolled

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        """Set D and H. A cell also makes its parameters here."""
        self.D, self.H = D, H

    def __init_subclass__(cls, abstract: bool = False, **kwargs):
        """Raise TypeError unless the cell defines what the loop over time needs."""
        super().__init_subclass__(abstract=abstract, **kwargs)
        missing = [] if hasattr(cls, "num_gates") else ["num_gates"]
        for name in ("step", "step_backward"):
            if getattr(cls, name) is getattr(Recurrent, name):
                missing.append(name)
        if not abstract:
            _expect_attributes(cls)
        for name in cls.state_names:
            if not {name, "d" + name} <= set(cls.unrolled.__dataclass_fields__):
                missing.append(f"the fields {name} and d{name} of {cls.unrolled.__name__}")
        if cls.gate_ranges and len(cls.gate_ranges) != getattr(cls, "num_gates", 0):
            missing.append("one range in gate_ranges for each of num_gates")
        if missing and not abstract:
            raise TypeError(
                f"expected the cell {cls.__name__} to define {', '.join(missing)}, got none: see "
                "the docstring of Recurrent"
            )

    def forward(self, x, state=None):
        """x (T, B, D), state of (B, H) arrays -> (y (T, B, H), final state), cache."""
        run = self.begin(x, state)
        project_all(self, run)
        for t in each_step(self, range(len(x))):
            self.step(run, t)
        return (run.y, self.final_state(run)), Cache(run=run, has_state=state is not None)

    def backward(self, doutputs, cache, want_dx=True):
        """(dy, dfinal_state), either of them None for zero -> dx (T, B, D), dstate.

        Without `want_dx` dx is None. Training needs no gradient of its data, and computing it
        takes a large matrix product.
        """
        expect_entries("gradients, dy and that of the final state", doutputs, 2)
        dy, dfinal = doutputs
        values = cache.consume()
        run = values.run
        if dy is not None:
            expect("dy", dy, run.y.shape, run.y.dtype)
        self.begin_backward(run, dfinal)
        for t in each_step(self, reversed(range(len(run.x)))):
            self.step_backward(run, t, None if dy is None else dy[t])
        run.end_loop()
        dx = project_all_backward(self, run, want_dx)
        aside(self.accumulate, run)  # on a GPU at the same time as the layers below this one
        return dx, self.start_gradient(run) if values.has_state else None

    def begin(self, x, state):
        """x (T, B, D), whose frames may be filled in later, and a state or None -> run."""
        H, width = self.H, self.num_gates * self.H
        expect(f"{type(self).__name__} input x", x, ("T", "B", self.D), self.dtype)
        expect_entries("start states", state, len(self.state_names))
        T, B, _ = x.shape
        run = self.unrolled(x)
        run.a = run.array(width)
        run.product = run.array_of_one_step(width)
        for k, name in enumerate(self.state_names):
            states = run.array(H, steps=T + 1)
            if state is None:
                states[0].fill(0)
            else:
                expect(f"start state {name}", state[k], (B, H), x.dtype)
                states[0] = state[k]
            setattr(run, name, states)
        run.y = run.h[1:]
        return run

    def project(self, run, steps):
        """a = x Wx + b for a slice of steps."""
        affine(run.x[steps], self.Wx.value, self.b.value, out=run.a[steps])

    def step(self, run, t):
        """Compute the state after step t from run.a[t] and the state before."""
        raise NotImplementedError  # every cell defines its own

    def final_state(self, run):
        """Return the states after the last step, (B, H) each."""
        return tuple(getattr(run, name)[-1] for name in self.state_names)

    def begin_backward(self, run, dfinal):
        """Start the gradients of the states, run.dh and others: dfinal or zeros."""
        expect_entries("gradients of the final state", dfinal, len(self.state_names))
        for k, final in enumerate(self.final_state(run)):
            name = self.state_names[k]
            dstate = run.array_of_one_step(self.H)
            if dfinal is None:
                dstate.fill(0)
            else:
                expect(f"gradient of the final state {name}", dfinal[k], final.shape, final.dtype)
                dstate[...] = dfinal[k]
            setattr(run, "d" + name, dstate)

    def step_backward(self, run, t, dy):
        """Turn run.a[t] into da and run.dh into the gradient of the state before step t."""
        raise NotImplementedError  # every cell defines its own

    def project_backward(self, run, steps, want_dx):
        """dx = da Wx^T for a slice of steps, (steps, B, D); None if it is not wanted."""
        return affine_dx(run.a[steps], self.Wx.value) if want_dx else None

    def accumulate(self, run):
        """Add to the gradients of the weights; run.a holds da of all steps."""
        # On a GPU this product is computed at the same time as the one in the next line.
        aside(affine_dw, run.h[:-1], run.a, self.Wh.grad, None)
        affine_dw(run.x, run.a, self.Wx.grad, self.b.grad)

    def start_gradient(self, run):
        """Return the gradients of the start states, (B, H) each."""
        return tuple(getattr(run, "d" + name) for name in self.state_names)


def _expect_attributes(cls):
    """Raise TypeError unless a cell's methods and class attributes have the form of Recurrent's."""
    for name, method in vars(Recurrent).items():
        own = vars(cls).get(name)  # a static method is left alone
        if inspect.isfunction(method) and inspect.isfunction(own) and name != "__init_subclass__":
            ours, theirs = (inspect.signature(getattr(of, name)) for of in (Recurrent, cls))
            for arguments in (ours.parameters, _without_defaults(ours)):
                try:
                    theirs.bind(*arguments)
                except TypeError:
                    raise TypeError(
                        f"expected {cls.__name__}.{name} to take {_listed(ours)}, got "
                        f"{_listed(theirs)}: write these arguments"
                    ) from None
    names, gates = cls.state_names, getattr(cls, "num_gates", 1)
    if not isinstance(names, tuple) or names[:1] != ("h",):
        raise TypeError(
            f'expected state_names to be a tuple that begins with "h", got {names!r}: write ("h",)'
        )
    if not isinstance(gates, int) or gates < 1:
        raise TypeError(
            f"expected num_gates to be a whole number >= 1, got {gates!r}: count the gates"
        )
    ranges = cls.gate_ranges
    if not isinstance(ranges, dict) or not all(
        isinstance(pair, tuple) and len(pair) == 2 and pair[0] < pair[1] for pair in ranges.values()
    ):
        raise TypeError(
            f"expected gate_ranges to be {{name: (low, high)}}, got {ranges!r}: mend it"
        )


def _without_defaults(signature):
    return [name for name, one in signature.parameters.items() if one.default is one.empty]


def _listed(signature):
    names = (
        name if one.default is one.empty else f"{name}=..."
        for name, one in signature.parameters.items()
    )  # fmt: skip
    return f"({', '.join(names)})"


def has_shared_loop(cls: type[Recurrent]) -> bool:
    """Return True if a cell has the loops of Recurrent, and no forward or backward of its own."""
    return cls.forward is Recurrent.forward and cls.backward is Recurrent.backward


class ElmanRNN(Recurrent):
    """The standard RNN: h = tanh(x Wx + h_prev Wh + b), output h; PyTorch's `nn.RNN`."""

    num_gates = 1

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, H)
        self.Wh = init.recurrent(rng, H)
        self.b = init.bias(H)

    def step(self, run, t):
        """a += h_prev Wh, h = tanh(a)."""
        add_product(run.h[t], self.Wh.value, out=run.a[t], scratch=run.product)
        cells.elman_cell(run.a[t], out=run.h[t + 1])

    def step_backward(self, run, t, dy):
        """da = (dh + dy) (1 - h^2), dh_prev = da Wh^T."""
        if dy is not None:
            run.dh += dy
        da = cells.elman_cell_backward(run.dh, run.h[t + 1], out=run.a[t])
        affine_dx(da, self.Wh.value, out=run.dh)


class SlidesRNN(Recurrent):
    """The slides' RNN, read literally: h = h_prev W, o = sigmoid(x Wi + h + b), output o.

    The input reaches the output but never the next state: this cell can't remember what it saw.
    """

    num_gates = 1
    unrolled = UnrolledSlidesRNN

    def __init__(self, D: int, H: int, rng: np.random.Generator, init: Init = PAPER_INIT):
        self.D, self.H = D, H
        self.Wi = init.input_weight(rng, D, H)
        self.W = init.recurrent(rng, H)
        self.b = init.bias(H)

    def begin(self, x, state):
        """Allocate the outputs o too, because they are not the states."""
        run = super().begin(x, state)
        run.y = run.array(self.H)
        return run

    def project(self, run, steps):
        """a = x Wi + b for a slice of steps."""
        affine(run.x[steps], self.Wi.value, self.b.value, out=run.a[steps])

    def step(self, run, t):
        """h = h_prev W, o = sigmoid(a + h)."""
        matmul(run.h[t], self.W.value, out=run.h[t + 1])
        cells.slides_rnn_cell(run.a[t], run.h[t + 1], out=run.y[t])

    def begin_backward(self, run, dfinal):
        """Allocate the gradients of the states after all steps: the gradient of W needs them."""
        super().begin_backward(run, dfinal)
        run.dhs = run.array(self.H)

    def step_backward(self, run, t, dy):
        """da = do o (1 - o), dh += da, dh_prev = dh W^T."""
        if dy is None:
            run.a[t].fill(0)
        else:
            cells.slides_rnn_cell_backward(dy, run.y[t], out=run.a[t])
        xp.add(run.dh, run.a[t], out=run.dhs[t])
        affine_dx(run.dhs[t], self.W.value, out=run.dh)

    def project_backward(self, run, steps, want_dx):
        """dx = da Wi^T for a slice of steps, (steps, B, D); None if it is not wanted."""
        return affine_dx(run.a[steps], self.Wi.value) if want_dx else None

    def accumulate(self, run):
        """dWi += x^T da, db += sum of da, dW += h_prev^T dh."""
        affine_dw(run.x, run.a, self.Wi.grad, self.b.grad)
        affine_dw(run.h[:-1], run.dhs, self.W.grad, None)
