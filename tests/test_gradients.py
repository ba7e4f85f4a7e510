"""The gradient-check suite: every gradient of every layer is right, and the check is not fooled.

The second half plants bugs, among them those that admired code has really shipped, and asserts
that the check names the arrays that are wrong. A check that can't fail proves nothing.
"""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minilstm
from minilstm.backend import use_backend
from minilstm.checker import TOLERANCE, check_samples, error, layer_classes, numeric_gradient
from minilstm.errors import ConfigError, MinilstmError
from minilstm.gradcheck import check, main
from minilstm.layers import cells, linear, lstm, rnn
from minilstm.layers.dropout import Dropout
from minilstm.layers.layer import Cache, Layer, Param, Sample
from minilstm.layers.linear import Linear
from minilstm.layers.losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.rnn import ElmanRNN, Recurrent, SlidesRNN
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.models import Composite, Decoder, FuturePredictor, composite

PACKAGE = Path(minilstm.__file__).parent


def floats(tree, name):
    """The floating arrays in nested tuples, by names such as state.0.1."""
    if isinstance(tree, tuple):
        found = {}
        for k, item in enumerate(tree):
            found |= floats(item, f"{name}.{k}")
        return found
    return {name: tree} if getattr(getattr(tree, "dtype", None), "kind", "") == "f" else {}


def inputs_of(sample):
    """Forward's arguments by name."""
    code = type(sample.layer).forward.__code__
    return dict(zip(code.co_varnames[1 : code.co_argcount], sample.inputs, strict=True))


# ---------------------------------------------------------------- every gradient is right


def test_the_tolerances_are_the_promised_ones():
    assert TOLERANCE == {"difference": 1e-6, "complex": 1e-12, "float32": 1e-4}


def test_every_gradient_of_every_parameter_and_input_is_right(sample):
    expected = {name: param.value.shape for name, param in sample.layer.params().items()}
    for name, value in inputs_of(sample).items():
        if name not in sample.layer.constants:
            expected |= {key: array.shape for key, array in floats(value, name).items()}
    rows = check(sample)
    sizes = {row.array: row.size for row in rows}
    assert sizes == {name: int(np.prod(shape)) for name, shape in expected.items()}
    wrong = [
        row for row in rows
        if not (row.difference < 1e-6 and row.complex < 1e-12 and row.float32 < 1e-4)
    ]  # fmt: skip
    assert not wrong, "\n".join(map(str, wrong))
    assert all(row.passed for row in rows)


def test_only_one_kind_of_gradient_may_be_empty(sample):
    """Nothing hides behind a size of zero but the input weights of a decoder without input."""
    empty = {name for name, param in sample.layer.params().items() if param.value.size == 0}
    assert all(name.endswith("stack.0.Wx") or name == "stack.0.Wx" for name in empty), empty


def test_samples_leave_no_place_to_hide(sample):
    """Three steps or more, sizes that differ, and nothing zero."""
    for name, value in inputs_of(sample).items():
        for key, array in floats(value, name).items():
            assert array.ndim < 3 or len(array) >= 3, f"{key}: T = {len(array)}"
            assert len(set(array.shape)) == array.ndim, f"{key}: equal sizes {array.shape}"
            assert np.count_nonzero(array) == array.size, f"{key} holds zeros"
    for name, param in sample.layer.params().items():
        assert np.count_nonzero(param.value) == param.value.size, f"{name} holds zeros"


def test_samples_of_recurrent_layers_have_a_start_state_and_of_decoders_a_code():
    for cls in layer_classes():
        for variant, sample in cls.samples(np.random.default_rng(0)).items():
            found = inputs_of(sample)
            for name in {"state", "code"} & set(found):
                assert floats(found[name], name), f"{cls.__name__} {variant}: no {name}"


def test_declared_zeros_are_few():
    """The only time slice without a gradient is the last true frame: it is never fed."""
    for cls in layer_classes():
        for variant, sample in cls.samples(np.random.default_rng(0)).items():
            present = {name: value for name, value in inputs_of(sample).items()}
            for name, slices in sample.zeros.items():
                assert name in ("truth", "future"), f"{cls.__name__} {variant}"
                if present[name] is not None:
                    assert slices == (len(present[name]) - 1,), f"{cls.__name__} {variant}"


@pytest.mark.parametrize("feed_truth", [True, False])
def test_the_slides_lstm_computes_the_gradient_of_the_projected_input_once(feed_truth, monkeypatch):
    rng, T, H = np.random.default_rng(4), 5, 3
    decoder = Decoder(2, H, 1, rng, True, cell=SlidesLSTM)
    steps = []

    def affine_dx(f, dy, W, out=None):
        if dy.ndim == 3:  # da of some steps -> dIx; dIx -> dx has another weight
            steps.extend(range(len(dy)) if W.shape == (H, 4 * H) else ())
        return f(dy, W, out)

    wrap(monkeypatch, lstm, "affine_dx", affine_dx)
    code = (tuple(rng.standard_normal((2, 2, H)).astype("float32")),)
    truth = rng.random((T, 2, 2)).astype("float32")
    logits, cache = decoder.forward(code, T, truth, feed_truth)
    decoder.backward(logits, cache)
    assert len(steps) == T


# ---------------------------------------------------------------- nothing is forgotten


def test_a_layer_without_a_sample_cannot_be_defined():
    with pytest.raises(TypeError, match=r"Silent must define sample\(rng\)"):

        class Silent(Layer):
            pass


def test_a_layer_that_only_inherits_a_sample_cannot_be_defined():
    with pytest.raises(TypeError, match=r"Heir must define sample\(rng\)"):

        class Heir(Linear):
            pass


def test_the_checker_finds_every_layer_that_the_source_text_defines():
    trees = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(
            path.read_text("utf-8")
        )
        for path in PACKAGE.rglob("*.py")
    }
    classes = {
        (module, node.name): node
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }

    def is_layer(module, name):
        if (module, name) == ("layers.layer", "Layer"):
            return True
        if (module, name) in classes:
            bases = classes[module, name].bases
            return any(is_layer(module, ast.unparse(base)) for base in bases)
        origins = (  # from .layer import Layer in layers.rnn -> layers.layer
            ".".join([*module.split(".")[: -node.level], node.module])
            for node in trees[module].body
            if isinstance(node, ast.ImportFrom) and node.level and node.module
            if name in [alias.name for alias in node.names]
        )
        return any((origin, name) in classes and is_layer(origin, name) for origin in origins)

    expected = {
        name
        for (module, name), node in classes.items()
        if is_layer(module, name) and "abstract" not in {keyword.arg for keyword in node.keywords}
    } - {"Layer"}
    assert {cls.__name__ for cls in layer_classes()} == expected
    assert {"LSTM", "PeepholeLSTM", "Linear", "Composite"} <= expected


def test_a_new_file_with_a_layer_is_found(tmp_path):
    (tmp_path / "novel.py").write_text(
        "from minilstm.layers.linear import Linear\n"
        "class Novel(Linear):\n"
        "    @classmethod\n"
        "    def sample(cls, rng):\n"
        "        return super().sample(rng)\n"
    )
    code = (
        "import sys, minilstm; minilstm.__path__.append(sys.argv[1])\n"
        "from minilstm.checker import layer_classes\n"
        "print(*(cls.__name__ for cls in layer_classes()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {cls.__name__ for cls in layer_classes()} | {"Novel"}


def test_layers_defined_in_tests_are_not_listed():
    assert Softmax not in layer_classes()
    assert all(cls.__module__.startswith("minilstm.") for cls in layer_classes())


# ---------------------------------------------------------------- planted bugs are caught


def wrong(sample):
    """The arrays whose gradient the check refuses."""
    return {row.array for row in check(sample) if not row.passed}


def of(cls, variant=""):
    """A way to make the sample of a class."""

    def make():
        with use_backend("numpy", "float64"):
            return cls.samples(np.random.default_rng(0))[variant]

    make.__name__ = f"{cls.__name__} {variant}".strip()
    return make


def small_stack():
    rng = np.random.default_rng(1)
    with use_backend("numpy", "float64"):
        layer = randomize(Stack(3, 2, 2, rng, cell=LSTM, dropout=0.3), rng)
        state = tuple(tuple(rng.standard_normal((2, 4, 2))) for _ in range(2))
        masks = (rng.random((3, 4, 2)) < 0.5,)
        return Sample(layer, (rng.standard_normal((3, 4, 3)), state, masks))


def small_composite():
    rng = np.random.default_rng(2)
    with use_backend("numpy", "float64"):
        model = randomize(Composite(2, 1, 1, rng), rng)
        return Sample(model, (rng.random((3, 4, 2)), None, 5, False, None))


def small_decoder(feed_truth=False, start="step"):
    def make():
        rng = np.random.default_rng(3)
        with use_backend("numpy", "float64"):
            decoder = randomize(Decoder(2, 3, 1, rng, True, start, BernoulliCrossEntropy()), rng)
            code = (tuple(rng.standard_normal((2, 2, 3))),)
            truth = rng.random((4, 2, 2)) if feed_truth else None
            return Sample(decoder, (code, 4, truth, feed_truth, None), {"truth": (3,)})

    make.__name__ = f"small Decoder, feed_truth={feed_truth}"
    return make


def wrap(patch, owner, name, planted):
    """`owner.name` becomes `planted(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: planted(original, *args, **kwargs))


def zero_backward(patch):
    wrap(patch, Linear, "backward", lambda f, self, dy, cache: np.zeros_like(cache.consume().x))


def ignored_start_state(patch):
    # backward uses zeros at t = 0 where forward had the start state
    def accumulate(f, self, run):
        run.h[0] = 0
        f(self, run)

    wrap(patch, LSTM, "accumulate", accumulate)


def ignored_start_cell(patch):
    def slopes(f, a, c_prev, *rest):
        c_prev = c_prev.copy()
        c_prev[0] = 0
        f(a, c_prev, *rest)

    wrap(patch, cells, "lstm_slopes", slopes)


def time_index_late(patch):
    # the recurrent weight sees h(t) where it should see h(t-1)
    def affine_dw(f, x, dy, dW, db):
        f(x if db is not None else np.roll(x, -1, axis=0), dy, dW, db)

    wrap(patch, rnn, "affine_dw", affine_dw)


def dropped_start_gradient(patch):
    def start_gradient(f, self, run):
        return tuple(np.zeros_like(d) for d in f(self, run))

    wrap(patch, Recurrent, "start_gradient", start_gradient)


def dropped_final_gradient(patch):
    wrap(patch, Recurrent, "begin_backward", lambda f, self, run, dfinal: f(self, run, None))


def first_step_forgotten(patch):
    def step_backward(f, self, run, t, dy):
        f(self, run, t, dy)
        if t == 0:
            run.a[t] = 0

    wrap(patch, ElmanRNN, "step_backward", step_backward)


def overwritten_dc(patch):
    # the bug of the paper's public code: one decoder's dc replaces the other's
    def added(f, codes):
        total, *others = codes
        for code in others:
            for layer_total, layer in zip(total, code, strict=True):
                layer_total[0][...] += layer[0]
                layer_total[1][...] = layer[1]
        return total

    wrap(patch, composite, "_added", added)


def one_decoder_forgotten(patch):
    wrap(patch, composite, "_added", lambda f, codes: codes[0])


def without_peepholes(*which):
    def plant(patch):
        def slopes(f, a, c_prev, Wp, *rest):
            Wp = Wp.copy()
            Wp[list(which)] = 0
            f(a, c_prev, Wp, *rest)

        wrap(patch, cells, "lstm_slopes", slopes)

    plant.__name__ = f"slopes_without_peepholes_of_{'-'.join('ifo'[k] for k in which)}"
    return plant


def peephole_gradient_of_the_new_cell(patch):
    def accumulate(f, self, run):
        before = self.Wp.grad.copy()
        f(self, run)
        di, df, _, _ = cells.split_gates(run.a)
        self.Wp.grad[:2] = before[:2]
        self.Wp.grad[:2] += [(d * run.c[1:]).sum((0, 1)) for d in (di, df)]

    wrap(patch, PeepholeLSTM, "accumulate", accumulate)


def peepholes_never_learn(patch):
    # another bug of the 2015 code
    patch.setattr(PeepholeLSTM, "accumulate_peepholes", lambda self, run: None)


def peephole_of_unit_zero_for_all(patch):
    # the bug of the 2015 code: every unit back-propagates through unit 0's peephole
    def slopes(f, a, c_prev, Wp, *rest):
        f(a, c_prev, np.repeat(Wp[:, :1], Wp.shape[1], axis=1), *rest)

    wrap(patch, cells, "lstm_slopes", slopes)


def output_gate_sees_the_old_cell(patch):
    # forward is another network than the one that backward differentiates
    def cell(f, a, c_prev, Wp, c, h):
        cells.split_gates(a)[3][...] += Wp[2] * c_prev
        return f(a, c_prev, Wp * [[1], [1], [0]], c, h)

    wrap(patch, cells, "lstm_cell", cell)


def wrong_sign(patch):
    def backward(f, dh, h, out):
        return np.negative(f(dh, h, out), out=out)

    wrap(patch, cells, "elman_cell_backward", backward)


def factor_two(patch):
    def backward(f, self, doutputs, cache):
        dlogits, none = f(self, doutputs, cache)
        return 2 * dlogits, none

    wrap(patch, SquaredError, "backward", backward)


def transposed_weight(patch):
    def affine_dx(f, dy, W, out=None):
        return f(dy, W.T if W.shape[0] == W.shape[1] else W, out)

    wrap(patch, rnn, "affine_dx", affine_dx)


def swapped_gates(patch):
    def backward(f, dh, dc, slopes, h_to_c, c_to_c):
        f(dh, dc, slopes, h_to_c, c_to_c)
        i, f_, _, _ = cells.split_gates(slopes)
        i[...], f_[...] = f_.copy(), i.copy()

    wrap(patch, cells, "lstm_cell_backward", backward)


def mask_in_backward_only(patch):
    # as in the public code, which draws no dropout masks and uses them in its backward pass
    def forward(self, x, mask=None):
        return x, Cache(mask=mask, shape=x.shape, dtype=x.dtype)

    patch.setattr(Dropout, "forward", forward)


def mask_in_forward_only(patch):
    patch.setattr(Dropout, "backward", lambda self, dy, cache: (dy, None))


def mask_of_the_wrong_gap(patch):
    def backward(f, self, doutputs, cache, *rest):
        for dropout_cache in cache._values["dropouts"]:
            dropout_cache._values["mask"] = np.roll(dropout_cache._values["mask"], 1, axis=0)
        return f(self, doutputs, cache, *rest)

    wrap(patch, Stack, "backward", backward)


def fed_back_gradient_dropped(patch):
    wrap(patch, BernoulliCrossEntropy, "mean_backward", lambda f, self, d, m: np.zeros_like(d))


def double_sigmoid_in_feedback(patch):
    # as in the 2016 code, which fed a squashed frame through the sigmoid again
    def mean(f, self, logits, out):
        return cells.sigmoid(f(self, logits, out), out=out)

    wrap(patch, BernoulliCrossEntropy, "mean", mean)


def fed_frame_off_by_one(patch):
    # teacher forcing: the gradient of the true frame lands on its neighbour
    def backward(f, self, dlogits, cache, *rest):
        dcode, _, dtruth, *others = f(self, dlogits, cache, *rest)
        return (dcode, None, np.roll(dtruth, 1, axis=0), *others)

    wrap(patch, Decoder, "backward", backward)


def read_start_forgotten(patch):
    def backward(f, self, dlogits, cache, *rest):
        dcode, *others = f(self, dlogits, cache, *rest)
        dcode[-1][0][...] -= dlogits[0] @ self.readout.W.value.T
        return (dcode, *others)

    wrap(patch, Decoder, "backward", backward)


def softmax_without_the_label(patch):
    def backward(f, self, dloss, cache):
        cache._values["target"] = np.full_like(cache._values["target"], -1)
        return f(self, dloss, cache)

    wrap(patch, SoftmaxCrossEntropy, "backward", backward)


def slides_projection_forgotten(patch):
    def accumulate(f, self, run):
        f(self, run)
        self.Wi.grad.fill(0)

    wrap(patch, SlidesLSTM, "accumulate", accumulate)


def one_slice_slightly_wrong(patch):
    def backward(f, self, doutputs, cache, *rest):
        dx, dstate = f(self, doutputs, cache, *rest)
        dx[0] *= 1 + 3e-6
        return dx, dstate

    wrap(patch, ElmanRNN, "backward", backward)


def half_precision_in_float32(patch):
    def sigmoid(f, a, out):
        f(a, out)
        if out.dtype == "float32":
            out[...] = out.astype("float16")
        return out

    wrap(patch, cells, "sigmoid", sigmoid)


BUGS = [
    (zero_backward, of(Linear), {"W", "b", "x"}),
    (ignored_start_state, of(LSTM), {"Wh"}),
    (ignored_start_cell, of(PeepholeLSTM), {"Wx", "Wh", "b", "x", "state.0"}),
    (time_index_late, of(ElmanRNN), {"Wh"}),
    (dropped_start_gradient, of(LSTM), {"state.0", "state.1"}),
    (dropped_start_gradient, of(SlidesRNN), {"state.0"}),
    (dropped_final_gradient, of(LSTM), {"Wx", "Wh", "b", "x"}),
    (first_step_forgotten, of(ElmanRNN), {"Wx", "Wh", "b", "x"}),
    (overwritten_dc, small_composite, {"past", "encoder.0.Wx", "encoder.0.Wp"}),
    (one_decoder_forgotten, small_composite, {"past", "encoder.0.Wx", "encoder.0.Wp"}),
    (without_peepholes(0, 1), of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (without_peepholes(0), of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (without_peepholes(1), of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (without_peepholes(2), of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (peephole_gradient_of_the_new_cell, of(PeepholeLSTM), {"Wp"}),
    (peepholes_never_learn, of(PeepholeLSTM), {"Wp"}),
    (peephole_of_unit_zero_for_all, of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (output_gate_sees_the_old_cell, of(PeepholeLSTM), {"Wx", "Wh", "Wp", "b", "x", "state.1"}),
    (wrong_sign, of(ElmanRNN), {"Wx", "Wh", "b", "x", "state.0"}),
    (factor_two, of(SquaredError), {"logits"}),
    (transposed_weight, of(ElmanRNN), {"x", "Wx", "Wh", "b", "state.0"}),
    (swapped_gates, of(LSTM), {"Wx", "Wh", "b", "x", "state.0"}),
    (mask_in_backward_only, of(Dropout), {"x"}),
    (mask_in_forward_only, of(Dropout), {"x"}),
    (mask_of_the_wrong_gap, small_stack, {"0.Wx", "x", "state.0.1"}),
    (fed_back_gradient_dropped, small_decoder(), {"code.0.0", "readout.W", "stack.0.Wx"}),
    (double_sigmoid_in_feedback, small_decoder(), {"code.0.0", "readout.W", "stack.0.Wx"}),
    (fed_frame_off_by_one, small_decoder(feed_truth=True), {"truth"}),
    (read_start_forgotten, small_decoder(True, "read"), {"code.0.0"}),
    (softmax_without_the_label, of(SoftmaxCrossEntropy), {"logits"}),
    (slides_projection_forgotten, of(SlidesLSTM), {"Wi"}),
    (one_slice_slightly_wrong, of(ElmanRNN), {"x"}),
    (half_precision_in_float32, of(SlidesRNN), {"Wi", "b", "x"}),
]


@pytest.mark.parametrize(
    ("plant", "make", "arrays"), BUGS, ids=[f"{bug[0].__name__}-{bug[1].__name__}" for bug in BUGS]
)
def test_a_planted_bug_is_caught_where_it_was_planted(plant, make, arrays, monkeypatch):
    plant(monkeypatch)
    found = wrong(make())
    assert found >= arrays, f"the check let {sorted(arrays - found)} pass"


@pytest.mark.parametrize(
    "make", [small_composite, small_stack, small_decoder(), small_decoder(True, "read")]
)
def test_without_the_bug_the_small_samples_pass(make):
    assert wrong(make()) == set()


def test_a_zero_start_state_would_hide_a_wrong_time_index(monkeypatch):
    """Why samples start from random states: brainstorm's check started from zeros and passed."""
    sample = of(LSTM)()
    x, state = sample.inputs
    from_zero = Sample(sample.layer, (x, tuple(np.zeros_like(part) for part in state)))
    ignored_start_state(monkeypatch)
    assert "Wh" not in wrong(from_zero)
    assert "Wh" in wrong(sample)


def test_one_decoder_alone_would_hide_the_overwritten_dc(monkeypatch):
    """Why the whole composite is checked, not only its parts."""
    rng = np.random.default_rng(4)
    with use_backend("numpy", "float64"):
        alone = randomize(FuturePredictor(2, 1, 1, rng), rng)
    overwritten_dc(monkeypatch)
    assert wrong(Sample(alone, (rng.random((3, 4, 2)), None, 5, False, None))) == set()
    assert wrong(small_composite()) != set()


class Softmax(Layer):
    """p = softmax(x) over the last axis; `right` says whether backward is."""

    def __init__(self, right):
        self.right = right

    def forward(self, x):
        p = np.exp(x)
        p /= p.sum(axis=-1, keepdims=True)
        return p, Cache(p=p)

    def backward(self, dp, cache):
        p = cache.consume().p
        return p * (dp - (p * dp).sum(axis=-1, keepdims=True)) if self.right else np.zeros_like(p)

    @classmethod
    def sample(cls, rng):
        return Sample(cls(right=True), (rng.standard_normal((3, 2, 4)),))


def test_a_softmax_without_backward_does_not_pass_because_the_weights_of_outputs_are_random():
    """With weights of one the true gradient is zero, and a backward of zeros would look right."""
    sample = Softmax.sample(np.random.default_rng(5))
    of_ones = numeric_gradient(
        sample.layer, {"x": sample.inputs[0]}, "x", [np.ones((3, 2, 4))], 1e-30j
    )
    assert np.abs(of_ones).max() < 1e-15
    assert wrong(sample) == set()
    assert wrong(Sample(Softmax(right=False), sample.inputs)) == {"x"}


class ReturnsNone(Linear):
    def backward(self, dy, cache):
        super().backward(dy, cache)

    @classmethod
    def sample(cls, rng):
        return Sample(cls(4, 5, rng), (rng.standard_normal((3, 2, 4)),))


def test_none_for_a_floating_input_is_an_error():
    with pytest.raises(MinilstmError, match="expected gradients of .'x'.*ReturnsNone.*got ..:"):
        check(ReturnsNone.sample(np.random.default_rng(6)))


class BothWaysSquaredError(SquaredError):
    def backward(self, dloss, cache):
        dlogits, _ = super().backward(dloss, cache)
        return dlogits, -dlogits

    @classmethod
    def sample(cls, rng):
        return Sample(cls(), (rng.standard_normal((4, 2, 5)), rng.standard_normal((4, 2, 5))))


def test_a_gradient_of_a_constant_is_an_error():
    with pytest.raises(MinilstmError, match="target"):
        check(BothWaysSquaredError.sample(np.random.default_rng(7)))


class Unused(Linear):
    """A parameter on which nothing depends, whose gradient is zero both ways."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.spare = Param(np.ones(3))

    @classmethod
    def sample(cls, rng):
        return Sample(cls(4, 5, rng), (rng.standard_normal((3, 2, 4)),))


def test_a_parameter_that_nothing_depends_on_does_not_pass():
    assert wrong(Unused.sample(np.random.default_rng(8))) == {"spare"}


# ---------------------------------------------------------------- the measure of error


def test_the_error_is_relative_to_the_largest_element():
    a = np.array([[100.0, 1.0], [0.5, -200.0]])
    assert error(a, a) == 0
    assert error(a, a + [[0, 0.02], [0, 0]]) == pytest.approx(0.02 / 200)
    assert error(1e-9 * a, 2e-9 * a) == pytest.approx(0.5), "there is no additive constant"


def test_the_error_of_a_sequence_is_that_of_its_worst_time_slice():
    a = np.ones((4, 2, 3))
    a[1] = 1e-8
    n = a.copy()
    n[1] *= 2
    assert error(a, n) == pytest.approx(0.5)


def test_zero_slices_and_nonnumbers_are_infinitely_wrong_unless_declared():
    a = np.ones((4, 2, 3))
    a[2] = 0
    assert error(a, a) == np.inf
    assert error(a, a, zero_slices=(2,)) == 0
    assert error(a + 1, a + 1, zero_slices=(2,)) == np.inf, "declared zero, but it isn't"
    assert error(np.zeros((2, 3)), np.zeros((2, 3))) == np.inf
    for bad in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):  # inf / inf
            assert error(np.full((2, 3), bad), np.ones((2, 3))) == np.inf
            assert error(np.ones((2, 3)), np.full((2, 3), bad)) == np.inf


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_succeeds():
    command = [sys.executable, "-m", "minilstm.gradcheck", "Linear"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["layer", "gradient", "of", "size", *TOLERANCE]
    assert [line.split()[-5] for line in lines[2:5]] == ["W", "b", "x"]
    assert lines[2].startswith("Linear ")
    assert lines[-1] == "3 gradients of 1 layer, 0 wrong"


def test_the_command_fails_and_points_at_a_wrong_gradient(monkeypatch, capsys):
    said = set()
    for seed in ("0", "1"):
        assert main(["Linear", "--seed", seed]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 2 and not any("WRONG" in text for text in said)
    wrap(monkeypatch, linear, "affine_dx", lambda f, dy, W: -f(dy, W))
    assert main(["Linear"]) == 1
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split()[-5] for line in lines if "WRONG" in line]
    assert len(marked) == 1 and lines[-1].endswith("1 wrong")


def test_the_command_refuses_a_name_that_no_layer_has():
    with pytest.raises(ConfigError, match="no-such-layer.*PeepholeLSTM"):
        main(["no-such-layer"])


class WrongIfNoInputGradientIsWanted(LSTM):
    """Training wants no gradient of its data, so each of its steps would be wrong."""

    def project_backward(self, run, steps, want_dx):
        if not want_dx:
            run.a[steps] *= 3
        return super().project_backward(run, steps, want_dx)


class WrongForLargeBatches(LSTM):
    """The cell of a user who tried two sequences."""

    def accumulate(self, run):
        run.a[:, 2:] *= 2
        super().accumulate(run)


@pytest.mark.parametrize("cell", [WrongIfNoInputGradientIsWanted, WrongForLargeBatches])
def test_a_gradient_that_is_wrong_only_in_training_is_found(cell):
    wrong_rows = [row for row in check_samples(cell) if not row.passed]
    names = {row.array.split(",")[0] for row in wrong_rows}
    assert {"Wx", "Wh", "b"} <= names
    assert all("want_dx=False" in row.array for row in wrong_rows) == (
        cell is WrongIfNoInputGradientIsWanted
    )


@pytest.mark.parametrize(
    "hide", [lambda p: [p], lambda p: [[p]], lambda p: {p}, lambda p: {1: (p,)}]
)
def test_a_parameter_that_would_not_be_trained_ends_the_check(hide):
    sample = LSTM.sample(np.random.default_rng(0))
    sample.layer.hidden = hide(Param(np.ones(3)))
    with pytest.raises(ConfigError, match="which would not be trained"):
        check(sample)
