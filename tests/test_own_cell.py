"""A cell of one's own, written from the docstring of `Recurrent` alone.

The cell is a GRU (Cho et al. 2014, arXiv 1406.1078), whose reset gate r stands inside the product:

    r = s(x Wx_r + h_prev Wh_r + b_r)
    z = s(x Wx_z + h_prev Wh_z + b_z)
    n = tanh(x Wx_n + (r * h_prev) Wh_n + b_n)
    h = (1 - z) n + z h_prev
"""

import ast
import inspect
from dataclasses import dataclass

import numpy as np
import pytest
import strict_cupy
import test_contracts

from minilstm.backend import asarray, to_numpy, use_backend, xp
from minilstm.checker import check
from minilstm.errors import ConfigError, ShapeError
from minilstm.layers import cells, samples
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.layer import Param, Sample
from minilstm.layers.linear import add_product, affine_dw, affine_dx
from minilstm.layers.losses import BernoulliCrossEntropy
from minilstm.layers.lstm import LSTM, PeepholeLSTM
from minilstm.layers.rnn import Recurrent
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.layers.unrolled import Unrolled
from minilstm.models import Composite
from minilstm.optim import Adam


@dataclass
class UnrolledGRU(Unrolled):
    """The arrays of a GRU."""

    rh: np.ndarray | None = None  # (T, B, H) r * h_prev


class GRU(Recurrent):
    """Wx (D, 3H), Wh (H, 3H), b (3H,), in the order r z n. Output h, state (h,)."""

    num_gates = 3
    unrolled = UnrolledGRU

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 3 * H)
        self.Wh = init.recurrent(rng, H, 3)
        self.b = init.bias(3 * H)

    def begin(self, x, state):
        run = super().begin(x, state)
        run.rh = run.array(self.H)
        return run

    def step(self, run, t):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        a_rz, a_n = run.a[t, :, : 2 * H], run.a[t, :, 2 * H :]
        add_product(h_prev, Wh[:, : 2 * H], out=a_rz)
        cells.sigmoid(a_rz, out=a_rz)
        r, z = a_rz[:, :H], a_rz[:, H:]
        run.rh[t] = r * h_prev
        add_product(run.rh[t], Wh[:, 2 * H :], out=a_n)
        n = xp.tanh(a_n, out=a_n)
        run.h[t + 1] = (1 - z) * n + z * h_prev

    def step_backward(self, run, t, dy):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        if dy is not None:
            run.dh += dy
        r, z, n = (run.a[t, :, k * H : (k + 1) * H] for k in range(3))
        da_n = run.dh * (1 - z) * (1 - n * n)
        da_z = run.dh * (h_prev - n) * z * (1 - z)
        drh = affine_dx(da_n, Wh[:, 2 * H :])
        da_r = drh * h_prev * r * (1 - r)
        da_rz = xp.concatenate((da_r, da_z), axis=1)
        run.dh[...] = run.dh * z + drh * r + affine_dx(da_rz, Wh[:, : 2 * H])
        run.a[t] = xp.concatenate((da_rz, da_n), axis=1)

    def accumulate(self, run):
        H, da = self.H, run.a
        affine_dw(run.x, da, self.Wx.grad, self.b.grad)
        affine_dw(run.h[:-1], da[..., : 2 * H], self.Wh.grad[:, : 2 * H], None)
        affine_dw(run.rh, da[..., 2 * H :], self.Wh.grad[:, 2 * H :], None)


def sample_of(cls):
    with use_backend("numpy", "float64"):
        return cls.sample(np.random.default_rng(0))


def composite_of_grus(rng, D, H, layers, conditional, dtype):
    with use_backend("numpy", dtype):
        return Composite(D, H, layers, rng, conditional, cell=GRU)


# ---------------------------------------------------------------- it is right


def test_it_computes_the_equations():
    layer, (x, (h,)) = sample_of(GRU).layer, sample_of(GRU).inputs
    (y, (final,)), _ = layer.forward(x, (h,))
    Wx, Wh, b = (param.value for param in (layer.Wx, layer.Wh, layer.b))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    of_r, of_z, of_n = (slice(k * layer.H, (k + 1) * layer.H) for k in range(3))
    for t in range(len(x)):
        r = sigmoid(x[t] @ Wx[:, of_r] + h @ Wh[:, of_r] + b[of_r])
        z = sigmoid(x[t] @ Wx[:, of_z] + h @ Wh[:, of_z] + b[of_z])
        n = np.tanh(x[t] @ Wx[:, of_n] + (r * h) @ Wh[:, of_n] + b[of_n])
        h = (1 - z) * n + z * h
        np.testing.assert_allclose(y[t], h, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(final, y[-1])


def test_it_passes_the_gradient_check_with_the_sample_that_it_inherits():
    rows = check(sample_of(GRU))
    assert {row.array for row in rows} == {"Wx", "Wh", "b", "x", "state.0"}
    assert all(row.passed for row in rows), rows


@pytest.mark.parametrize("lengths", [{}, {"recompute": 2}])
def test_it_passes_the_gradient_check_inside_a_composite_that_feeds_on_its_output(lengths):
    rng = np.random.default_rng(1)
    model = composite_of_grus(rng, 3, 2, 1, "future", "float64")
    with use_backend("numpy", "float64"):
        randomize(model, rng)
    model.set_segments(**lengths)
    fed = np.array([[True, False]] * 4)
    inputs = rng.random((3, 2, 3)), rng.random((4, 2, 3)), 4, (False, fed), None
    rows = check(Sample(model, inputs, zeros={"future": (3,)}))
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


PROMISES = {
    name: test
    for name, test in vars(test_contracts).items()
    if name.startswith("test_") and "sample" in inspect.signature(test).parameters
}


@pytest.mark.parametrize("promise", PROMISES)
def test_it_keeps_every_promise_of_a_layer(promise):
    wanted = inspect.signature(PROMISES[promise]).parameters
    choices = {"workspace": test_contracts.POISONED[1], "first": "A", "dtype": "float32"}
    choices = {name: choice for name, choice in choices.items() if name in wanted}
    with use_backend("numpy", "float64"):
        PROMISES[promise](sample_of(GRU), **choices)


def test_there_are_promises_to_keep():
    assert len(PROMISES) > 15


def test_it_learns_inside_a_composite():
    rng = np.random.default_rng(2)
    model = composite_of_grus(rng, 4, 12, 2, "future", "float32")
    optimizer, loss = Adam(model.flat()), BernoulliCrossEntropy()
    past, future = ((rng.random((T, 8, 4)) < 0.5).astype("float32") for T in (3, 4))
    losses = []
    for _ in range(150):
        model.zero_grad()
        outputs, cache = model.forward(past, future, feed_truth=True)
        total, doutputs = 0.0, []
        for logits, target in zip(outputs, model.targets(past, future), strict=True):
            value, loss_cache = loss.forward(logits, target)
            doutputs.append(loss.backward(1.0, loss_cache)[0])
            total += float(value)
        model.backward(tuple(doutputs), cache, want_dinputs=False)
        optimizer.step(0.02)
        losses.append(total)
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- what a cell must have


def test_a_cell_without_a_step_is_refused_when_it_is_defined():
    with pytest.raises(TypeError) as caught:

        class Nothing(Recurrent):
            pass

    assert str(caught.value) == (
        "expected the cell Nothing to define num_gates, step, step_backward, got none: see the "
        "docstring of Recurrent"
    )


def test_a_cell_whose_states_have_no_arrays_is_refused_when_it_is_defined():
    with pytest.raises(TypeError, match="define the fields c and dc of UnrolledGRU, got none"):

        class TwoStates(GRU):
            state_names = ("h", "c")


def test_a_cell_may_be_abstract():
    class Unfinished(Recurrent, abstract=True):
        pass

    assert Unfinished.is_abstract and not GRU.is_abstract


class WithBias(GRU):
    """A GRU with one bias more, of whatever name, that shifts the pre-activations of n."""

    decayed = False

    def __init__(self, D, H, rng, init=PAPER_INIT):
        super().__init__(D, H, rng, init)
        self.bn = Param(np.zeros(H), decayed=self.decayed)

    def project(self, run, steps):
        super().project(run, steps)
        run.a[steps][..., 2 * self.H :] += self.bn.value

    def accumulate(self, run):
        super().accumulate(run)
        self.bn.grad += run.a[..., 2 * self.H :].sum((0, 1))


class WithDecayedBias(WithBias):
    decayed = True


def test_a_bias_has_any_name_and_one_that_is_decayed_is_told_how_to_be_made():
    promise = test_contracts.test_decayed_parameters_come_first_and_biases_last
    promise(sample_of(WithBias))
    assert all(row.passed for row in check(sample_of(WithBias)))
    with pytest.raises(AssertionError, match=r"^bn, .*: expected no weight decay.*init\.bias\(K\)"):
        promise(sample_of(WithDecayedBias))


class WithAnotherRecurrentWeight(GRU):
    def __init__(self, D, H, rng, init=PAPER_INIT):
        super().__init__(D, H, rng, init)
        self.U = init.recurrent(rng, H)


class StrongRecurrence(GRU):
    def __init__(self, D, H, rng, init=PAPER_INIT):
        super().__init__(D, H, rng, init)
        self.Wh = init.weight(rng, H, 3 * H)


def test_recurrent_weights_have_any_name_and_are_made_by_init_recurrent():
    promise = test_contracts.test_a_weak_recurrence_is_a_fifth_of_another_and_all_else_is_the_same
    promise(WithAnotherRecurrentWeight)
    with pytest.raises(AssertionError, match=r"^Wh .*: make .* by init\.recurrent"):
        promise(StrongRecurrence)


def test_every_assertion_that_a_cell_can_meet_has_a_message():
    tree = ast.parse(inspect.getsource(test_contracts))
    met = [
        function
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        and {"sample", "cell", "cls"} & {argument.arg for argument in function.args.args}
    ]
    assert len(met) > 25
    silent = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for function in met
        for node in ast.walk(function)
        if isinstance(node, ast.Assert) and node.msg is None
    ]
    assert not silent


def test_its_inputs_are_checked_as_those_of_any_layer():
    layer, (x, state) = sample_of(GRU).layer, sample_of(GRU).inputs
    with pytest.raises(ShapeError, match="GRU input x"):
        layer.forward(x[..., :-1], state)
    with pytest.raises(ConfigError, match="expected layers >= 1"):
        Stack(4, 3, 0, np.random.default_rng(0), cell=GRU)


def test_the_docstring_names_every_method_in_the_order_of_the_calls(monkeypatch):
    """Record the hooks that a forward and a backward pass call, and find them in the docstring."""
    hooks = [
        "begin", "project", "step", "final_state", "begin_backward", "step_backward",
        "project_backward", "accumulate", "start_gradient",
    ]  # fmt: skip
    called = []

    def record(name, original):
        def recorded(self, *arguments):
            called.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(GRU, name, recorded)

    for name in hooks:
        record(name, getattr(GRU, name))
    sample = sample_of(GRU)
    (y, final), cache = sample.layer.forward(*sample.inputs)
    first_calls = list(dict.fromkeys(called))
    called.clear()
    sample.layer.backward((y, final), cache)
    first_calls += [name for name in dict.fromkeys(called) if name not in first_calls]
    assert first_calls == hooks
    text = Recurrent.__doc__
    at = [
        text.index(f" {name}(run") if name != "begin" else text.index(" begin(x") for name in hooks
    ]
    assert at == sorted(at)
    own = {
        name for name in vars(Recurrent) if callable(getattr(Recurrent, name)) and name[0] != "_"
    }
    assert own - {"forward", "backward", "sample", "samples", "unrolled"} == set(hooks)


def test_it_computes_the_same_on_a_gpu(monkeypatch):
    """The GPU is an emulation that refuses what CuPy refuses."""
    strict_cupy.install(monkeypatch)
    found = []
    for backend in ("numpy", "cupy"):
        rng = np.random.default_rng(3)
        with use_backend(backend, "float32"):
            model = Composite(4, 3, 2, rng, "both", cell=GRU)
            past, future = (asarray(rng.random((T, 2, 4))) for T in (3, 4))
            for feed_truth in (True, False):
                outputs, cache = model.forward(past, future, 4, feed_truth)
                model.backward(outputs, cache)
            found.append([to_numpy(param.grad) for param in model.params().values()])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-6)


class WithoutTanh(LSTM, abstract=True):
    """LSTM whose output is h = o c. It has no kernels of its own."""

    def cell(self, run, t):
        super().cell(run, t)
        run.h[t + 1] = run.a[t, :, 3 * self.H :] * run.c[t + 1]

    def slopes(self, run, scratch):
        o = run.a[..., 3 * self.H :].copy()
        super().slopes(run, scratch)
        run.h_to_c[...] = o
        run.a[..., 3 * self.H :] = run.c[1:] * o * (1 - o)


def test_an_lstm_with_other_equations_and_no_kernels_of_its_own_is_the_same_on_a_gpu(monkeypatch):
    with use_backend("numpy", "float64"):
        rows = check(samples.recurrent(WithoutTanh, np.random.default_rng(0)))
    assert all(row.passed for row in rows)
    assert LSTM.has_kernels and PeepholeLSTM.has_kernels and not WithoutTanh.has_kernels
    strict_cupy.install(monkeypatch)
    found = []
    for backend in ("numpy", "cupy"):
        rng = np.random.default_rng(3)
        with use_backend(backend, "float32"):
            layer = randomize(WithoutTanh(3, 4, rng), rng)
            (y, _), cache = layer.forward(asarray(rng.standard_normal((5, 2, 3))))
            layer.backward((y.copy(), None), cache)
            found.append([to_numpy(y), *(to_numpy(p.grad) for p in layer.params().values())])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)
