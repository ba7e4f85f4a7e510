"""Mistakes in the use of layers from Python are refused in words, and never silently wrong."""

import copy
import dataclasses

import numpy as np
import pytest

import minilstm
from minilstm.checker import check
from minilstm.errors import ConfigError, DataError, ShapeError
from minilstm.layers.dropout import Dropout
from minilstm.layers.layer import Layer, Param, Sample
from minilstm.layers.linear import Linear
from minilstm.layers.losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from minilstm.layers.lstm import LSTM
from minilstm.layers.segments import SegmentedStack
from minilstm.layers.stack import Stack
from minilstm.layers.workspace import Reused, use_workspace
from minilstm.optim import SGD, Adam, RMSProp, clip_norm

T, B, D, H = 4, 2, 3, 5


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def rng():
    return np.random.default_rng(0)


def test_the_state_of_pytorch_is_not_taken_for_that_of_two_layers():
    """PyTorch's (h, c), each (2, B, H), would be read as layer 0 with (h_0, h_1)."""
    stack, x = Stack(D, H, 2, rng(), LSTM), numbers(T, B, D)
    h, c = numbers(2, 2, B, H)
    for state in ((h, c), np.stack((h, c))):
        with pytest.raises(ShapeError, match="expected a tuple"):
            stack.forward(x, state)
    stack.forward(x, tuple(zip(h, c, strict=True)))
    model = minilstm.Composite(D, H, 2, rng())
    with pytest.raises(ShapeError, match="expected a tuple"):
        model.predict.forward((h, c), 3)


def test_masks_in_one_array_are_refused():
    stack, x = Stack(D, H, 2, rng(), LSTM), numbers(T, B, D)
    with pytest.raises(ShapeError, match="expected a tuple of 1 dropout masks.*got"):
        stack.forward(x, None, np.ones((1, T, B, H), bool))


@pytest.mark.parametrize(
    "make", (lambda: LSTM(D, H, rng()), lambda: Stack(D, H, 2, rng())), ids=("cell", "stack")
)
def test_one_gradient_where_two_are_expected_is_refused(make):
    layer = make()
    (y, _), cache = layer.forward(numbers(T, B, D))
    with pytest.raises(ShapeError, match="expected a tuple of 2 gradients"):
        layer.backward(y, cache)
    layer.backward((y, None), cache)  # the cache was not consumed


def test_a_model_says_which_gradients_it_expects():
    predictor = minilstm.FuturePredictor(D, H, 1, rng())
    past, future = numbers(3, B, D), numbers(3, B, D)
    for doutputs, got in (((future, None), "reconstruct"), ((None, None), "none")):
        _, cache = predictor.forward(past, future)
        with pytest.raises(ShapeError, match=f"of predict, got gradients of {got}"):
            predictor.backward(doutputs, cache)
    _, cache = predictor.forward(past, future)
    with pytest.raises(ShapeError, match="expected a tuple of 2 gradients, one for each decoder"):
        predictor.backward(future, cache)


def test_lists_and_whole_numbers_are_no_logits():
    z, target = numbers(T, B, H), np.zeros((T, B), int)
    for loss, y in ((BernoulliCrossEntropy(), abs(z)), (SoftmaxCrossEntropy(), target)):
        with pytest.raises(ShapeError, match="expected logits of shape .*, got list"):
            loss.forward(z.tolist(), y)
        with pytest.raises(ShapeError, match="expected logits of floats, got int"):
            loss.forward(z.astype(int), y)
        with pytest.raises(ShapeError, match="expected target of shape .*, got list"):
            loss.forward(z, y.tolist())


def test_the_gradient_check_says_what_it_expects():
    layer, x = Linear(D, H, rng()), numbers(T, B, D)
    for given in (layer, Sample(layer, x)):
        with pytest.raises(ConfigError, match="pass the layer and a tuple of all inputs"):
            check(given)


def test_linear_and_dropout_refuse_a_gradient_of_another_shape():
    linear, dropout = Linear(D, H, rng()), Dropout(0.5)
    _, cache = linear.forward(numbers(T, B, D))
    with pytest.raises(ShapeError, match="expected dy of shape"):
        linear.backward(numbers(B, T, H), cache)
    _, cache = dropout.forward(numbers(T, B, D))
    with pytest.raises(ShapeError, match="expected dy of shape"):
        dropout.backward(numbers(B, T, D), cache)


def test_bytes_that_were_not_divided_by_255_are_no_targets():
    loss, z = BernoulliCrossEntropy(), numbers(T, B, D)
    loss.forward(z, np.full_like(z, 1.0000001))  # a rounded sum of products
    for target in (np.full_like(z, 255), np.full_like(z, -0.1)):
        with pytest.raises(
            DataError, match="expected target from 0 to 1.*scale it, bytes by 1 / 255"
        ):
            loss.forward(z, target)
    assert np.isnan(loss.forward(z, np.full_like(z, np.nan))[0])  # training has rules for NaN


def test_a_layer_without_parameters_has_the_dtype_of_the_backend():
    layers = LSTM(D, H, rng()), Dropout(0.5), Linear(H, D, rng())
    assert [layer.dtype for layer in layers] == [np.float32] * 3


@pytest.mark.parametrize("label", (-1, H))
def test_a_label_that_is_no_class_is_not_taken_for_another_class(label):
    with pytest.raises(DataError, match=f"expected labels from 0 to {H - 1}"):
        SoftmaxCrossEntropy().forward(numbers(T, B, H), np.full((T, B), label))


class Two(Layer, abstract=True):
    def __init__(self, **attributes):
        vars(self).update(attributes)


def test_two_tuples_of_layers_do_not_hide_parameters_behind_one_name():
    model = Two(down=(LSTM(D, H, rng()),), up=(LSTM(H, D, rng()),))
    with pytest.raises(ConfigError, match="two of the name 0.Wx"):
        model.params()


class Remembering(LSTM, abstract=True):
    """It has lists, dicts and tuples of things that are found elsewhere, or are no parameters."""

    def __init__(self, D, H, rng):
        super().__init__(D, H, rng)
        self.history, self.rates = [], {self: 0.1}
        self.by_name, self.pair = {"Wx": self.Wx}, (self.Wx, self.Wh)


def test_what_is_found_elsewhere_may_also_stand_in_a_list_or_a_dict():
    layers = Remembering(D, H, rng()), Remembering(H, H, rng())
    model = Two(layers=layers, top=layers[1:], back=layers[::-1], first={"layer": layers[0]})
    assert len(model.params()) == 6
    SGD(model.flat()).step(0.1)
    assert list(Two(keys={Linear(D, H, rng()): 1}, one=layers[0]).params()) == [
        "one.Wx", "one.Wh", "one.b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "hidden",
    (
        lambda: [Linear(D, H, rng())],
        lambda: {"first": Linear(D, H, rng())},
        lambda: (Param(np.ones(3)),),
        lambda: [Param(np.ones(3))],
    ),
    ids=("list", "dict", "tuple of parameters", "list of parameters"),
)
def test_parameters_where_they_are_not_found_are_refused(hidden):
    model = Two(whole=Linear(D, H, rng()), inside=hidden(), plain=[1, 2], named={"a": "b"})
    for found in (model, Two(parts=(model,))):
        with pytest.raises(ConfigError, match="Two.inside, which would not be trained"):
            found.flat()


def test_a_shared_parameter_counts_once_and_sums_both_gradients():
    one = Linear(D, H, rng())
    model = Two(first=one, second=one)
    assert list(model.params()) == ["first.W", "first.b"]
    optimizer = SGD(model.flat())
    assert model.flat().value.size == D * H + H
    _, a = model.first.forward(numbers(T, B, D))
    _, b = model.second.forward(numbers(T, B, D, seed=1))
    model.first.backward(numbers(T, B, H), a)
    alone = one.W.grad.copy()
    model.second.backward(numbers(T, B, H), b)
    assert not np.array_equal(alone, one.W.grad)
    norm, _ = optimizer.gradient_norms()
    assert float(norm) == pytest.approx(float(clip_norm(model.flat().grad.copy(), 0)))


def test_a_copied_cache_gives_the_same_gradients_once_more():
    """A decoder that sees its own frames had put them into copies of its layers."""
    model = minilstm.Composite(D, H, 2, rng(), "future")
    outputs, cache = model.forward(abs(numbers(3, B, D)), abs(numbers(3, B, D)))
    again = copy.deepcopy(cache)
    model.backward(outputs, cache)
    once = {name: param.grad.copy() for name, param in model.params().items()}
    assert all(grad.any() for name, grad in once.items() if name != "reconstruct.stack.0.Wx")
    model.backward(outputs, again)
    for name, param in model.params().items():
        np.testing.assert_allclose(param.grad, 2 * once[name], rtol=1e-5, atol=1e-6)


def test_a_copied_model_that_kept_its_cache_has_the_cache_of_its_own_layers():
    model = minilstm.Composite(D, H, 1, rng(), "future")
    outputs, model.last = model.forward(abs(numbers(3, B, D)), abs(numbers(3, B, D)))
    other = copy.deepcopy(model)
    other.backward(outputs, other.last)
    assert other.predict.stack.layers[0].Wh.grad.any()
    assert not model.predict.stack.layers[0].Wh.grad.any()


class Doubled(LSTM, abstract=True):
    """It changes the outputs outside of `step`, which a decoder that feeds itself does not see."""

    def forward(self, x, state=None):
        (y, final), cache = super().forward(x, state)
        return (2 * y, final), cache


def test_a_decoder_that_sees_its_own_frames_refuses_a_cell_with_a_forward_of_its_own():
    model = minilstm.FuturePredictor(D, H, 1, rng(), "future", cell=Doubled)
    past, future = abs(numbers(3, B, D)), abs(numbers(3, B, D))
    model.forward(past, future, feed_truth=True)
    with pytest.raises(ConfigError, match="got Doubled, which has its own"):
        model.forward(past, future)


def test_a_word_in_place_of_true_or_false_is_no_conditional_decoder():
    """A model's `conditional` is a word, and "none" would be true."""
    with pytest.raises(ConfigError, match="expected conditional True or False, got 'none'"):
        minilstm.Decoder(D, H, 1, rng(), conditional="none")


def test_a_transposed_array_as_a_parameter_passes_the_gradient_check():
    class Turned(Linear, abstract=True):
        def __init__(self):
            super().__init__(D, H, rng())
            self.W = Param(numbers(H, D).T)

    assert all(row.passed for row in check(Sample(Turned(), (numbers(T, B, D).astype(float),))))


def test_a_workspace_without_with_breaks_one_call_and_no_later_one():
    layer = Linear(D, H, rng())
    asked = use_workspace(Reused())
    assert not hasattr(asked, "_repr_html_")  # which a notebook asks for
    with pytest.raises(ConfigError, match="got use_workspace"):
        layer.forward(numbers(T, B, D))
    with use_workspace(Reused()):
        layer.forward(numbers(T, B, D))
    layer.forward(numbers(T, B, D))


def test_a_pixel_slightly_above_one_is_accepted_in_rollout():
    model = minilstm.FuturePredictor(D, H, 1, rng())
    past = np.full((T, B, D), np.float32(1.0000001))
    assert model.rollout(past, 2).shape == (2, B, D)


@pytest.mark.parametrize("labels", [np.uint8, np.int8])
def test_labels_beyond_the_classes_are_refused_without_a_warning(labels):
    with pytest.raises(DataError, match="got 10 to 120"):
        SoftmaxCrossEntropy().forward(numbers(1, 2, 4), np.array([[10, 120]], labels))


@pytest.mark.parametrize(
    "make",
    [
        lambda flat: RMSProp(flat, decay=0.5, epsilon=0.0),
        lambda flat: RMSProp(flat, decay=0.3, epsilon=1e-50),
        lambda flat: Adam(flat, epsilon=1e-50),
    ],
)
def test_an_epsilon_that_gives_nan_where_a_gradient_is_zero_is_refused(make):
    with pytest.raises(ConfigError, match="expected epsilon > 0 .*: set --epsilon"):
        make(Linear(D, H, rng()).flat())


def test_a_segmented_stack_that_refuses_its_gradients_keeps_the_cache():
    stack = SegmentedStack(D, H, 1, rng())
    stack.lengths = dataclasses.replace(stack.lengths, recompute=2)
    (y, final), cache = stack.forward(numbers(T, B, D))
    with pytest.raises(ShapeError):
        stack.backward(y, cache)
    stack.backward((y, None), cache)


@pytest.mark.parametrize("given", (0, np.random.RandomState(0), None))
def test_a_seed_in_place_of_a_generator_is_refused(given):
    for make in (LSTM, Linear, lambda D, H, rng: minilstm.Composite(D, H, 1, rng)):
        with pytest.raises(ConfigError, match="use np.random.default_rng"):
            make(D, H, given)


def test_a_function_that_makes_a_cell_serves_as_its_class():
    model = minilstm.Composite(D, H, 1, rng(), cell=lambda *sizes: LSTM(*sizes))
    assert isinstance(model.encoder.layers[0], LSTM)


def test_the_name_of_a_cell_in_place_of_its_class_is_refused():
    with pytest.raises(ConfigError, match="expected the class of a cell, got 'elman'"):
        minilstm.Composite(D, H, 1, rng(), cell="elman")


@pytest.mark.parametrize("loss", (BernoulliCrossEntropy(), SquaredError(), SoftmaxCrossEntropy()))
def test_the_mean_loss_of_no_frame_is_refused(loss):
    for empty in (numbers(0, B, D), numbers(T, 0, D)):
        with pytest.raises(ShapeError, match="expected logits with T, B >= 1"):
            loss.forward(empty, empty)


def test_sizes_may_be_numbers_of_numpy_and_must_be_whole():
    cells = [LSTM(np.int64(D), np.int32(H), rng()), LSTM(D, H, rng())]
    assert (cells[0].Wh.value == cells[1].Wh.value).all()
    minilstm.Composite(D, H, np.int64(2), rng()).set_segments(np.int64(2))
    for sizes in ((2.5, H, 1), (D, 2.5, 1), (D, H, 1.5), (D, H, True)):
        with pytest.raises(ConfigError, match="expected a whole number for"):
            minilstm.Composite(*sizes, rng())


def test_a_decoder_without_a_code_says_where_a_code_comes_from():
    for conditional in (False, True):
        decoder = minilstm.Composite(D, H, 1, rng(), "both" if conditional else "none").predict
        with pytest.raises(ShapeError, match="expected a code, got None"):
            decoder.forward(None, 3)


def test_a_loss_that_is_assigned_to_a_model_makes_the_frames_of_its_decoders():
    x = np.abs(numbers(T, B, D))
    given, assigned = (
        minilstm.Composite(D, H, 1, rng(), conditional="both", loss=loss)
        for loss in (SquaredError(), None)
    )
    assert assigned.loss is assigned.predict.loss is assigned.reconstruct.loss
    assigned.loss = SquaredError()
    for wanted, found in zip(given.forward(x, x)[0], assigned.forward(x, x)[0], strict=True):
        assert (wanted == found).all()
    assert assigned.loss is assigned.predict.loss is assigned.reconstruct.loss
