"""Check that a recurrent cell keeps the rules of `Recurrent`, on small samples of it.

`minilstm.gradcheck FILE.py:CLASS` and `minilstm.train --cell FILE.py:CLASS` try a cell of the
user's own before they do anything else. The message names the method in which a mistake shows, and
what to do. The arrays of `run` hold NaN here, in place of the numbers of an earlier step. So a
number that was never written is found.

Read next: layers/rnn.py `Recurrent`, which says what each method must do.
"""

from __future__ import annotations

import functools
import sys
import traceback

import numpy as np

from .backend import use_backend
from .checker import cast_arrays, map_arrays
from .errors import ConfigError, MinilstmError, one_line
from .layers.init import PAPER_INIT
from .layers.layer import Cache, Param, expect_all_found
from .layers.rnn import Recurrent, has_shared_loop
from .layers.workspace import Reused, use_workspace

# What to do, in words. tests/test_contracts.py says the same of every layer.
ADD = "in accumulate add to .grad (+=, or affine_dw), and assign nothing"
KEEP_IN_RUN = "keep what backward needs in run (of begin), not in self"
WRITE_NO_INPUT = "copy an input before you change it; write only to arrays of run"
PURE = "draw no random numbers in forward, and keep nothing in self from one call to the next"
NEVER_WRITTEN = "write every element, and divide by no zero (arrays of run start as NaN)"
KEEP_ARRAYS = "write into the arrays of run, and replace none of them"
SAME_GRADIENTS = "the same gradients of the parameters if another forward came between"


class PromiseError(ConfigError):
    """A cell that does not do what `Recurrent` says. The message names the method."""


def expect_promises(cell: type[Recurrent], seed: int = 0) -> None:
    """Raise PromiseError, in one line, for the first promise that a cell breaks.

    Other errors that pass a line of the cell's file are not changed, except a MinilstmError.
    """
    with use_backend("numpy", "float64"), use_workspace(Reused(poison=True)):
        with _Blamed(cell, "__init__"):
            samples = cell.samples(np.random.default_rng(seed)).values()
        trials = [Trial(cell, sample.layer, sample.inputs) for sample in samples]
        for trial in trials:
            trial.tries_weights(seed)
        for trial in trials:
            for dtype in ("float64", "float32"):
                trial.tries_methods(dtype)
        with _Blamed(cell, "forward"):  # the decoder of a model that is not conditional has D = 0
            layer = cell(0, trials[0].H, np.random.default_rng(seed), PAPER_INIT)
            (y, _), cache = layer.forward(np.empty((3, 2, 0)))
            layer.backward((np.ones_like(y), None), cache)


class _Blamed:
    """Name the method in an error of minilstm, or in one from outside the cell's file."""

    def __init__(self, cell, method):
        self.cell, self.method = cell, method

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, PromiseError) or not isinstance(error, Exception):
            return
        own = getattr(sys.modules.get(self.cell.__module__), "__file__", None)
        if any(frame.filename == own for frame in traceback.extract_tb(trace)):
            if not isinstance(error, MinilstmError):
                return
        raise PromiseError(
            f"{self.cell.__name__}.{self.method}: expected what the docstring of Recurrent says of "
            f"this method, got {type(error).__name__} ({one_line(error)}): compare its arguments "
            "and results"
        ) from error


class Trial:
    """One small layer of the cell with inputs. Each of its methods is watched.

    The name of a method of `Recurrent` with an underscore, such as `_step`, is the method here that
    looks at what the cell's method returned and wrote.
    """

    def __init__(self, cell, layer, inputs):
        self.cell, self.layer, self.inputs = cell, layer, inputs
        for name in ("D", "H"):
            if not hasattr(layer, name):
                self.fail("__init__", f"self.{name}", "none", "begin it with self.D, self.H = D, H")
        self.H, self.states = layer.H, layer.state_names
        if layer.D != inputs[0].shape[2]:
            self.fail("__init__", f"self.D = {inputs[0].shape[2]}, the D that it was given",
                      layer.D, "begin it with self.D, self.H = D, H")  # fmt: skip
        self._watch_methods()

    def fail(self, method: str, expected: str, got: object, remedy: str) -> None:
        """Raise PromiseError about a method of the cell."""
        raise PromiseError(
            f"{self.cell.__name__}.{method}: expected {expected}, got {got}: {remedy}"
        )

    # ---------------------------------------------------------------- parameters

    def tries_weights(self, seed):
        """Look at the parameters. Those that methods of `Recurrent` use must have its shapes."""
        layer, width = self.layer, self.layer.num_gates * self.H
        for name in dir(type(layer)):
            if isinstance(getattr(type(layer), name, None), Param):
                self.fail(
                    "__init__", "each Param made in __init__", f"{name} of the class",
                    f"write self.{name} = Param(array) in __init__",
                )  # fmt: skip
        for name, item in vars(layer).items():
            if isinstance(item, np.ndarray) and item.dtype.kind in "fc":
                self.fail(
                    "__init__", f"a Param in self.{name}", "an array, which is not trained",
                    f"write self.{name} = Param(array); make an array of constants in begin",
                )  # fmt: skip
        expect_all_found(layer)
        wanted = {}
        for method, names in (
            ("project", ("Wx", "b")),
            ("project_backward", ("Wx",)),
            ("accumulate", ("Wx", "Wh", "b")),
        ):
            if has_shared_loop(self.cell) and getattr(self.cell, method) is getattr(
                Recurrent, method
            ):
                wanted |= {name: method for name in names}
        shapes = {"Wx": (layer.D, width), "Wh": (self.H, width), "b": (width,)}
        makers = {"Wx": "input_weight(rng, D, G*H)", "Wh": "recurrent(rng, H, G)", "b": "bias(G*H)"}
        for name, method in wanted.items():
            param = getattr(layer, name, None)
            got = param.value.shape if isinstance(param, Param) else type(param).__name__
            if got != shapes[name]:
                self.fail(
                    "__init__", f"a Param self.{name} of shape {shapes[name]}", got,
                    f"make it by init.{makers[name]}, with G = num_gates = {layer.num_gates}, or "
                    f"define {method} too",
                )  # fmt: skip
        with _Blamed(self.cell, "__init__"):
            first, second = (
                self.cell(layer.D, self.H, np.random.default_rng(seed), PAPER_INIT).params()
                for _ in range(2)
            )
            other = self.cell(layer.D, self.H, np.random.default_rng(seed + 1), PAPER_INIT).params()
        if all(np.array_equal(p.value, other[n].value) for n, p in first.items()) and any(
            np.ptp(param.value) for param in first.values() if param.value.size
        ):
            self.fail(
                "__init__", "other weights for another rng", "the same", "draw by rng or init"
            )
        for name, param in first.items():
            if name.startswith("b") and param.value.ndim == 1 and param.decayed:
                self.fail(
                    "__init__", f"no weight decay of the bias {name}", "decayed=True",
                    "make it by init.bias(K), or give a weight another name",
                )  # fmt: skip
            if not np.isfinite(param.value).all():
                self.fail("__init__", f"finite numbers in {name}", "NaN or inf",
                          "fill it by init.weight or init.bias")  # fmt: skip
            if not np.array_equal(param.value, second[name].value):
                self.fail(
                    "__init__", f"the same {name} for the same rng", "other numbers",
                    "draw by rng or init, and not by np.random",
                )  # fmt: skip

    # ---------------------------------------------------------------- what a method did

    def _watch_methods(self):
        """Look at what each method of the layer returned and wrote, after each call."""
        for name in (
            "begin", "project", "step", "final_state", "begin_backward", "step_backward",
            "project_backward", "accumulate", "start_gradient",
        ):  # fmt: skip
            setattr(self.layer, name, self._watch(name, getattr(self.layer, name)))

    def _watch(self, name, method):
        look = getattr(self, "_" + name)

        @functools.wraps(method)
        def call(*arguments):
            run = arguments[0]
            before = [] if name in ("begin", "begin_backward") else self._arrays(run)
            with _Blamed(self.cell, name):
                returned = method(*arguments)
            for k, (array, now) in enumerate(zip(before, self._arrays(run), strict=False)):
                if array is not now:
                    array = ["a", *self.states][k]
                    self.fail(
                        name, f"numbers written into run.{array}", "another array",
                        f"write into run.{array}, such as run.{array}[t] = ..., and keep the array",
                    )  # fmt: skip
            look(returned, *arguments)
            return returned

        return call

    def _arrays(self, run):
        return [getattr(run, name, None) for name in ("a", *self.states)]

    def _nothing(self, method, returned, where):
        if returned is not None:
            self.fail(method, "nothing returned", type(returned).__name__, f"write into {where}")

    def _array(self, method, what, array, shape, remedy, finite=True):
        """Expect an array of this shape, the dtype of x and, if `finite`, no NaN."""
        dtype = self.inputs[0].dtype
        if not isinstance(array, np.ndarray) or array.shape != shape:
            got = getattr(array, "shape", type(array).__name__)
            self.fail(method, f"{what} of shape {shape}", got, remedy)
        if array.dtype != dtype:
            self.fail(
                method, f"{what} of dtype {dtype}, as x", array.dtype,
                "make arrays by run.array(K) or in the dtype of x, never by a plain np.zeros",
            )  # fmt: skip
        if finite and not np.isfinite(array).all():
            self.fail(method, f"finite numbers in {what}", "NaN or inf", NEVER_WRITTEN)

    def _all_states(self, method, returned, what):
        """Expect a tuple with an array (B, H) of each state."""
        names = ", ".join(what.format(name) for name in self.states)
        remedy = f"return ({names},)" if len(self.states) == 1 else f"return ({names})"
        if not isinstance(returned, tuple | list) or len(returned) != len(self.states):
            got = type(returned).__name__
            wanted = f"a tuple with an array for each state ({', '.join(self.states)})"
            self.fail(method, wanted, got, remedy)
        for name, array in zip(self.states, returned, strict=True):
            self._array(method, what.format(name), array, (self.B, self.H), remedy)

    def _begin(self, run, x, state):
        T, B, H = len(x), x.shape[1], self.H
        remedy = "call super().begin(x, state), add to its run, and return it"
        if not isinstance(run, type(self.layer).unrolled):
            wanted = f"run, of type {type(self.layer).unrolled.__name__}"
            self.fail("begin", wanted, type(run).__name__, remedy)
        for name, item in vars(run).items():
            if isinstance(item, np.ndarray) and item.dtype == "float64":
                self._array("begin", f"run.{name}", item, item.shape, remedy, finite=False)
        self._array("begin", "run.a", run.a, (T, B, self.layer.num_gates * H), remedy, finite=False)
        self._array("begin", "run.y", run.y, (T, B, H), remedy, finite=False)
        for name in self.states:
            states = getattr(run, name)
            self._array("begin", f"run.{name}", states, (T + 1, B, H), remedy, finite=False)
            self._array("begin", f"run.{name}[0]", states[0], (B, H), remedy)

    def _project(self, returned, run, steps):
        self._nothing("project", returned, "run.a[steps]")
        a = run.a[steps]
        self._array("project", "run.a[steps]", a, a.shape, KEEP_ARRAYS, finite=False)

    def _step(self, returned, run, t):
        self._nothing("step", returned, "run.h[t+1]")
        for name in (*self.states, "y"):
            index, word = (t, "t") if name == "y" else (t + 1, "t+1")
            array = getattr(run, name)[index]
            self._array("step", f"run.{name}[{word}]", array, (self.B, self.H), KEEP_ARRAYS)

    def _final_state(self, returned, run):
        self._all_states("final_state", returned, "run.{}[-1]")

    def _begin_backward(self, returned, run, dfinal):
        self._nothing("begin_backward", returned, "run.dh")
        self._gradients("begin_backward", run)

    def _step_backward(self, returned, run, t, dy):
        self._nothing("step_backward", returned, "run.a[t] and run.dh")
        self._array("step_backward", "da in run.a[t]", run.a[t], run.a[t].shape, KEEP_ARRAYS)
        self._gradients("step_backward", run)

    def _gradients(self, method, run):
        for name in self.states:
            array = getattr(run, "d" + name)
            remedy = f"write the gradient of a state into run.d{name}, (B, H)"
            self._array(method, f"run.d{name}", array, (self.B, self.H), remedy)

    def _project_backward(self, dx, run, steps, want_dx):
        if not want_dx and dx is not None:
            self.fail(
                "project_backward", "None where want_dx is false", type(dx).__name__,
                "return dx if want_dx is true, else None",
            )  # fmt: skip
        if want_dx:
            shape = run.x[steps].shape
            self._array("project_backward", "dx", dx, shape, "return dx (steps, B, D) and no more")

    def _accumulate(self, returned, run):
        self._nothing("accumulate", returned, "the .grad of the parameters")
        for name, param in self.layer.params().items():
            if param.grad is not self.grads[name]:
                self.fail(
                    "accumulate", f"numbers added to self.{name}.grad", "another array",
                    f"write self.{name}.grad += ...",
                )  # fmt: skip
            self._array("accumulate", f"self.{name}.grad", param.grad, param.value.shape, ADD)

    def _start_gradient(self, returned, run):
        self._all_states("start_gradient", returned, "run.d{}")

    # ---------------------------------------------------------------- what all of them did

    def tries_methods(self, dtype):
        """Go forward and backward in several ways, and compare the results."""
        self.layer.astype(dtype)
        self.inputs = tuple(cast_arrays(item, dtype) for item in self._complete(self.inputs))
        self.T, self.B, _ = self.inputs[0].shape
        self.layer.zero_grad()
        self.grads = {name: param.grad for name, param in self.layer.params().items()}
        names = list(self.grads)
        layer, (x, state) = self.layer, _copies(self.inputs)
        near = 1e-12 if dtype == "float64" else 1e-4

        (y, final), cache = self._forward(x, state)
        if list(layer.params()) != names:
            new = [name for name in layer.params() if name not in names]
            self.fail("forward", f"the parameters {names}", f"{new} too", "make it in __init__")
        self._same(
            "forward", (x, state), self.inputs, "the inputs unchanged after forward", WRITE_NO_INPUT
        )
        kept = _copies((y, final))
        rng = np.random.default_rng(1)
        dy, dfinal = map_arrays(lambda a: rng.standard_normal(a.shape).astype(dtype), (y, final))
        given = _copies((dy, dfinal))
        dx, dstate = _copies(self._backward((dy, dfinal), cache))
        once = _copies(tuple(self.grads.values()))
        self._same(
            "backward",
            (dy, dfinal),
            given,
            "dy and dfinal unchanged after backward",
            WRITE_NO_INPUT,
        )
        self._same(
            "backward",
            (x, state),
            self.inputs,
            "the inputs unchanged after backward",
            WRITE_NO_INPUT,
        )
        self._same(
            "backward", (y, final), kept, "the outputs unchanged after backward",
            "write to run.h and run.y in step only; run.a and run.dh may be written to",
        )  # fmt: skip

        again, other = self._forward(x, state)
        self._same(
            "forward", again, kept, "the same outputs from a second forward of the same input", PURE
        )
        first, cache = self._forward(x, None)
        first = _copies(first)
        self._backward((dy, dfinal), cache)
        second, _ = self._forward(x, None)
        self._same(
            "forward",
            second,
            first,
            "the same outputs from a second forward of the same input",
            PURE,
        )
        self._forward(0.7 * x, None)  # between the forward and the backward pass of another input
        layer.zero_grad()
        self._same(
            "backward", self._backward((dy, dfinal), other), (dx, dstate),
            "the same dx and dstate if another forward came between", KEEP_IN_RUN, near,
        )  # fmt: skip
        self._same(
            "accumulate", tuple(self.grads.values()), once, SAME_GRADIENTS, KEEP_IN_RUN, near
        )
        self._backward((dy, dfinal), self._forward(x, state)[1])
        twice = map_arrays(lambda grad: 2 * grad, once)
        grads = tuple(self.grads.values())
        self._same("accumulate", grads, twice, "twice the gradients after two passes", ADD, near)

        self._backward((dy, dfinal), self._forward(x, state)[1], want_dx=False)

        self._tries_absent_gradients(x, state, dy, dfinal, near)
        if has_shared_loop(self.cell):
            self._tries_single_steps(x, state, dy, dfinal, near)
        self._tries_one_alone(x, state, dy, kept[0], near)

    def _tries_absent_gradients(self, x, state, dy, dfinal, near):
        """A gradient None, of the outputs or of the final state, counts as zeros."""
        zeros = map_arrays(np.zeros_like, (dy, dfinal))
        for method, absent, present in (
            ("step_backward", (None, dfinal), (zeros[0], dfinal)),
            ("begin_backward", (dy, None), (dy, zeros[1])),
        ):
            found = []
            for doutputs in (present, absent):
                self.layer.zero_grad()
                dinputs = self._backward(doutputs, self._forward(x, state)[1])
                found.append(_copies((dinputs, tuple(self.grads.values()))))
            what = "dy" if absent[0] is None else "dfinal"
            self._same(
                method, found[1], found[0], f"the same gradients for {what} = None as for zeros",
                f"write `if {what} is not None:` before you use it", near,
            )  # fmt: skip

    def _tries_one_alone(self, x, state, dy, y, near):
        """The output of one step of one sequence does not depend on the rest of the batch."""
        self.T = self.B = 1
        (first, _), cache = self._forward(x[:1, :1], tuple(array[:1] for array in state))
        self._same(
            "forward", first, y[:1, :1],
            "the same y for one step of one sequence alone as in a batch",
            "compute step t from run.a[t] and the state before it alone, and sizes from the arrays",
            near,
        )  # fmt: skip
        self._backward((dy[:1, :1], None), cache)

    def _tries_single_steps(self, x, state, dy, dfinal, near):
        """A decoder that gets its own outputs projects one time step at a time."""
        layer, T = self.layer, len(x)
        layer.zero_grad()
        whole = layer.begin(x, state)
        layer.project(whole, slice(0, T))
        a = whole.a.copy()
        for t in range(T):
            layer.step(whole, t)
        later = np.full_like(x, np.nan)
        run = layer.begin(later, state)
        for t in range(T):
            later[t] = x[t]  # known only now, as the own frames of a decoder
            before = run.a.copy()
            layer.project(run, slice(t, t + 1))
            before[t] = run.a[t]
            self._same(
                "project", run.a, before, "other steps than `steps` unchanged",
                "read run.x[steps] and write run.a[steps], and nothing else",
            )  # fmt: skip
            self._same(
                "project", run.a[t], a[t], "the same run.a[t] one step at a time as all at once",
                "keep x itself in begin, read run.x[steps] and write run.a[steps]", near,
            )  # fmt: skip
            layer.step(run, t)
        for r in (whole, run):
            layer.begin_backward(r, dfinal)
            for t in reversed(range(T)):
                layer.step_backward(r, t, dy[t])
        dx = layer.project_backward(whole, slice(0, T), True).copy()
        for t in reversed(range(T)):
            self._same(
                "project_backward", layer.project_backward(run, slice(t, t + 1), True)[0], dx[t],
                "the same dx one step at a time as all at once",
                "read run.a[steps] alone", near,
            )  # fmt: skip

    def _complete(self, inputs):
        """Return x and a start state: a sample may leave the state out."""
        x, state = (*inputs, None)[:2]
        if state is None:
            rng, shape = np.random.default_rng(2), (x.shape[1], self.H)
            state = tuple(rng.standard_normal(shape) for _ in self.states)
        return x, tuple(state)

    def _forward(self, x, state):
        with _Blamed(self.cell, "forward"):
            returned = self.layer.forward(x, state)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                self.fail("forward", "outputs, cache", type(returned).__name__, "return both")
            outputs, cache = returned
            if not isinstance(cache, Cache):
                self.fail("forward", "a Cache", type(cache).__name__, "return outputs, Cache(...)")
            if not (isinstance(outputs, tuple) and len(outputs) == 2):
                self.fail("forward", "outputs (y, final)", type(outputs).__name__, "return both")
            return outputs, cache

    def _backward(self, doutputs, cache, want_dx=True):
        with _Blamed(self.cell, "backward"):
            returned = self.layer.backward(doutputs, cache, want_dx=want_dx)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                self.fail("backward", "(dx, dstate)", type(returned).__name__, "return both")
            dx, dstate = returned
            shape = (self.T, self.B, self.layer.D)
            if want_dx:
                self._array("backward", "dx", dx, shape, "return dx, dstate")
            if dstate is not None:
                self._all_states("backward", dstate, "run.d{}")
            return returned

    def _same(self, method, got, wanted, what, remedy, near=0.0):
        """Expect two trees of arrays to be equal, or nearly equal."""
        got, wanted = _flat(got), _flat(wanted)
        if len(got) == len(wanted) and all(
            a.shape == b.shape and np.allclose(a, b, rtol=near, atol=near, equal_nan=True)
            for a, b in zip(got, wanted, strict=True)
        ):
            return
        self.fail(method, what, "other numbers", remedy)


def _copies(tree):
    return map_arrays(np.copy, tree)


def _flat(tree):
    """Return the arrays in nested tuples, in order."""
    if isinstance(tree, tuple | list):
        return [array for item in tree for array in _flat(item)]
    return [] if tree is None else [np.asarray(tree)]
