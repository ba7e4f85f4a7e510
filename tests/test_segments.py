"""Unrolling in segments: recomputation changes no gradient, and truncation cuts where it says.

The gradient checks and contracts of all layers also run on recomputed samples: see `samples` of
Stack, Decoder and Composite. Here recomputation is compared with the whole run, over all cells,
modes and lengths, and the memory it takes with the formula in segments.py.
"""

import dataclasses
import inspect
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from covering import covering

from minilstm.backend import use_backend
from minilstm.checker import (
    TOLERANCE,
    analytic_gradients,
    error,
    layer_classes,
    numeric_gradient,
)
from minilstm.config import RunSettings, from_toml, load
from minilstm.errors import ConfigError, ShapeError, StaleCache
from minilstm.layers.losses import SquaredError
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.rnn import Recurrent
from minilstm.layers.samples import randomize
from minilstm.layers.segments import WHOLE, SegmentedStack, SegmentLengths, Segments
from minilstm.layers.workspace import Fresh, Reused, use_workspace
from minilstm.models import STARTS, Autoencoder, Composite, Decoder, Encoder, FuturePredictor
from minilstm.runs import build
from minilstm.training import resources
from minilstm.training.batches import draw_batch
from minilstm.training.step import training_step

CELLS = [cls for cls in layer_classes() if issubclass(cls, Recurrent)]
T, B, D, H = 6, 3, 4, 2
LENGTHS = [1, 3, 4, T, T + 3]  # the shortest, a divisor of T, none, all of T, and more


def random_like(tree, seed=1):
    rng = np.random.default_rng(seed)
    if isinstance(tree, tuple):
        return tuple(random_like(part, seed + k) for k, part in enumerate(tree))
    return None if tree is None else np.asarray(rng.standard_normal(tree.shape), tree.dtype)


def flat(tree, name):
    if isinstance(tree, tuple):
        return {
            key: array
            for k, part in enumerate(tree)
            for key, array in flat(part, f"{name}.{k}").items()
        }
    return {name: tree.copy()} if isinstance(tree, np.ndarray) else {}


def step(layer, inputs, doutputs=None):
    """Forward and backward: outputs, and all gradients, by name."""
    layer.zero_grad()
    outputs, cache = layer.forward(*inputs)
    found = flat(outputs, "output")
    dinputs = layer.backward(random_like(outputs) if doutputs is None else doutputs, cache)
    found |= flat(dinputs, "dinput")
    return found | {name: param.grad.copy() for name, param in layer.params().items()}


def agree(got, expected, tolerance=1e-12):
    """Every array within `tolerance` of its largest element."""
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        largest = np.abs(want).max() if want.size else 0
        np.testing.assert_allclose(
            got[name], want, rtol=0, atol=tolerance * largest, err_msg=name, strict=True
        )


def identical(got, expected):
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        assert got[name].tobytes() == want.tobytes(), name


def set_segments(layer, **lengths):
    """For any layer: all stacks in it."""
    if isinstance(layer, SegmentedStack):
        layer.lengths = SegmentLengths(**lengths)
    elif isinstance(layer, Decoder):
        layer.stack.lengths = SegmentLengths(**lengths)
    else:
        layer.set_segments(**lengths)


def kept_units(rng, steps, layer_count):
    return tuple(rng.random((layer_count - 1, steps, B, H)) < 0.7)


def stack_with_inputs(cell=PeepholeLSTM, layer_count=2, steps=T, start=True):
    rng = np.random.default_rng(0)
    with use_backend("numpy", "float64"):
        stack = randomize(SegmentedStack(D, H, layer_count, rng, cell, dropout=0.3), rng)
        state = code(rng, cell, layer_count) if start else None
        masks = kept_units(rng, steps, layer_count)
        return stack, (rng.standard_normal((steps, B, D)), state, masks)


def code(rng, cell, layer_count):
    parts = len(cell.state_names)
    return tuple(tuple(rng.standard_normal((parts, B, H))) for _ in range(layer_count))


MODES = ["unconditional", "forced", "free", "scheduled"]


def feeding(rng, mode, steps=T):
    mixed = rng.random((steps, B)) < 0.5
    return {"forced": True, "scheduled": mixed}.get(mode, False)


def decoder_with_inputs(mode, start, cell=PeepholeLSTM, layer_count=2, loss=None):
    rng = np.random.default_rng(0)
    with use_backend("numpy", "float64"):
        conditional = mode != "unconditional"
        decoder = Decoder(D, H, layer_count, rng, conditional, start, loss, cell, dropout=0.3)
        randomize(decoder, rng)
        fed = feeding(rng, mode)
        truth = rng.random((T, B, D)) if conditional and fed is not False else None
        masks = kept_units(rng, T - (start == "read"), layer_count)
        return decoder, (code(rng, cell, layer_count), T, truth, fed, masks)


# ---------------------------------------------------------------- which steps


@pytest.mark.parametrize(
    ("steps", "recompute", "tbptt", "lengths"),
    [
        (7, 0, 0, [7]),
        (7, 3, 0, [3, 3, 1]),
        (6, 3, 0, [3, 3]),
        (7, 1, 0, [1] * 7),
        (7, 7, 0, [7]),
        (7, 9, 0, [7]),
        (7, 0, 4, [4, 3]),
        (7, 3, 5, [3, 2, 2]),
        (7, 5, 3, [3, 3, 1]),
        (1, 2, 3, [1]),
        (0, 0, 0, [0]),
        (0, 2, 3, [0]),
    ],
)
def test_segments_follow_each_other_from_the_first_step_to_the_last(
    steps, recompute, tbptt, lengths
):
    chosen = SegmentLengths(recompute, tbptt)
    found = chosen.segments(steps)
    assert [part.stop - part.start for part in found] == lengths
    assert [step for part in found for step in range(part.start, part.stop)] == list(range(steps))
    starts = [part.start for part in found]
    cuts = [step for step in range(steps) if chosen.cuts(step)]
    assert cuts == (list(range(tbptt, steps, tbptt)) if tbptt else []) and set(cuts) <= set(starts)


@pytest.mark.parametrize("lengths", [{"recompute": -1}, {"tbptt": 2.0}, {"tbptt": True}])
def test_a_length_that_is_no_number_of_steps_is_refused(lengths):
    with pytest.raises(ConfigError, match="expected .*(recompute|tbptt).*, got"):
        SegmentLengths(**lengths)


# ---------------------------------------------------------------- recomputation is exact


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("layer_count", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recomputed_stack_has_the_gradients_of_a_whole_one(cell, layer_count, start):
    stack, inputs = stack_with_inputs(cell, layer_count, start=start)
    for state, masks in ((inputs[1], inputs[2]), (inputs[1], None)):
        given = (inputs[0], state, masks)
        stack.lengths = WHOLE
        expected = step(stack, given)
        for K in LENGTHS:
            stack.lengths = SegmentLengths(recompute=K)
            agree(step(stack, given), expected)


@pytest.mark.parametrize("K", LENGTHS)
@pytest.mark.parametrize("given", [(True, False), (False, True), (False, False)])
def test_a_gradient_of_none_means_zeros_in_segments_too(K, given):
    stack, inputs = stack_with_inputs()
    doutputs = random_like(stack.forward(*inputs)[0])
    doutputs = tuple(d if use else None for d, use in zip(doutputs, given, strict=True))
    expected = step(stack, inputs, doutputs)
    stack.lengths = SegmentLengths(recompute=K)
    agree(step(stack, inputs, doutputs), expected)


@pytest.mark.parametrize("layer_count", [1, 2])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_recomputed_decoder_has_the_gradients_of_a_whole_one(cell, mode, start, layer_count):
    decoder, inputs = decoder_with_inputs(mode, start, cell, layer_count)
    expected = step(decoder, inputs)
    for K in LENGTHS:
        decoder.stack.lengths = SegmentLengths(recompute=K)
        agree(step(decoder, inputs), expected)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize(
    ("model", "conditional"),
    [
        (Autoencoder, "reconstruction"),
        (FuturePredictor, "future"),
        (Composite, "none"),
        (Composite, "reconstruction"),
        (Composite, "future"),
        (Composite, "both"),
    ],
)
def test_a_recomputed_model_has_the_gradients_of_a_whole_one(model, conditional, mode, start):
    rng = np.random.default_rng(2)
    with use_backend("numpy", "float64"):
        layer = randomize(model(D, H, 2, rng, conditional, start, SquaredError(), dropout=0.3), rng)
    late = start == "read"
    masks = tuple(kept_units(rng, steps, 2) for steps in (T, T - late, T + 1 - late))
    past, future = rng.random((T, B, D)), rng.random((T + 1, B, D))
    feed = (feeding(rng, mode), feeding(rng, mode, T + 1))
    inputs = (past, future, T + 1, feed, masks)
    expected = step(layer, inputs)
    for K in LENGTHS:
        layer.set_segments(recompute=K)
        agree(step(layer, inputs), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start", STARTS)
def test_a_decoder_of_one_frame_is_recomputed_too(mode, start):
    decoder, (state, _, truth, fed, _) = decoder_with_inputs(mode, start)
    fed = fed if isinstance(fed, bool) else fed[:1]
    inputs = (state, 1, None if truth is None else truth[:1], fed, None)
    expected = step(decoder, inputs)
    decoder.stack.lengths = SegmentLengths(recompute=2, tbptt=3)
    identical(step(decoder, inputs), expected)


def samples_in_segments():
    """(what, layer, inputs) of a stack, an encoder and all decoders."""
    yield "stack", *stack_with_inputs()
    for mode, start in itertools.product(MODES, STARTS):
        yield f"{mode} {start}", *decoder_with_inputs(mode, start)


SAMPLES = {what: (layer, inputs) for what, layer, inputs in samples_in_segments()}


@pytest.fixture(params=SAMPLES)
def segmented(request):
    """A layer of which a run is in segments, with inputs; made anew for each test."""
    return next((layer, i) for what, layer, i in samples_in_segments() if what == request.param)


@pytest.mark.parametrize("K", [2, 4, T])
def test_what_is_recomputed_is_the_same_to_the_bit(segmented, K):
    """In segments of the same lengths: kept caches and recomputed ones, outputs and gradients."""
    layer, inputs = segmented
    set_segments(layer, tbptt=K)
    expected = step(layer, inputs)
    set_segments(layer, tbptt=K, recompute=K)
    identical(step(layer, inputs), expected)
    set_segments(layer, recompute=K)
    got = step(layer, inputs)
    outputs = [name for name in expected if name.startswith("output")]
    identical({n: got[n] for n in outputs}, {n: expected[n] for n in outputs})


def test_both_together_recompute_each_window_in_segments_of_its_own(segmented):
    layer, inputs = segmented
    set_segments(layer, tbptt=4)
    expected = step(layer, inputs)
    for K in (1, 3, 5):
        set_segments(layer, tbptt=4, recompute=K)
        agree(step(layer, inputs), expected)


# ---------------------------------------------------------------- the contract, in segments


def test_recomputation_in_reused_buffers_full_of_nan_changes_no_bit(segmented):
    layer, inputs = segmented
    for lengths in ({"recompute": 4}, {"tbptt": 4}, {"recompute": 2, "tbptt": 4}):
        set_segments(layer, **lengths)
        expected = step(layer, inputs)
        with use_workspace(Reused(poison=True)) as pool:
            counts = []
            for _ in range(3):
                identical(step(layer, inputs), expected)
                counts.append(pool.allocated)
        assert counts == counts[:1] * 3


@pytest.mark.parametrize("workspace", [Fresh, lambda: Reused(poison=True)], ids=["Fresh", "Reused"])
def test_two_live_caches_and_a_stale_one(segmented, workspace):
    layer, inputs = segmented
    set_segments(layer, recompute=4)
    expected = step(layer, inputs)
    before = flat(inputs, "input")
    with use_workspace(workspace()):
        layer.zero_grad()
        first, second = layer.forward(*inputs), layer.forward(*inputs)
        for outputs, cache in (first, second):
            dinputs = layer.backward(random_like(outputs), cache)
            found = flat(outputs, "output") | flat(dinputs, "dinput")
            identical(found, {name: expected[name] for name in found})
        twice = {name: param.grad for name, param in layer.params().items()}
        agree(twice, {name: 2 * expected[name] for name in twice})
        with pytest.raises(StaleCache):
            layer.backward(random_like(first[0]), first[1])
    identical(flat(inputs, "input"), before)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("mode", ["free", "scheduled"])
def test_the_logits_are_the_callers_and_recomputation_does_not_read_them(mode, start):
    decoder, inputs = decoder_with_inputs(mode, start)
    decoder.stack.lengths = SegmentLengths(recompute=2)
    expected = step(decoder, inputs)
    decoder.zero_grad()
    logits, cache = decoder.forward(*inputs)
    doutputs = random_like(logits)
    logits.fill(np.nan)
    dinputs = flat(decoder.backward(doutputs, cache), "dinput")
    assert np.isnan(logits).all()
    identical(dinputs, {name: expected[name] for name in dinputs})


def test_a_gradient_of_another_length_is_refused():
    stack, inputs = stack_with_inputs()
    stack.lengths = SegmentLengths(recompute=4)
    (y, _), cache = stack.forward(*inputs)
    with pytest.raises(ShapeError, match="dy"):
        stack.backward((np.concatenate((y, y)), None), cache)
    decoder, inputs = decoder_with_inputs("free", "step")
    logits, cache = decoder.forward(*inputs)
    with pytest.raises(ShapeError, match="dlogits"):
        decoder.backward(np.concatenate((logits, logits)), cache)


# ---------------------------------------------------------------- and can be wrong


def recomputed_samples():
    with use_backend("numpy", "float64"):
        found = {
            f"{cls.__name__} {variant}": sample
            for cls in layer_classes()
            for variant, sample in cls.samples(np.random.default_rng(0)).items()
            if "recompute" in variant
        }
    return found


def test_the_gradient_check_has_recomputed_samples_of_several_segments():
    found = recomputed_samples()
    kinds = {"SegmentedStack", "Encoder", "Decoder", "Composite"}
    assert {name.split()[0] for name in found} == kinds
    for name, sample in found.items():
        stacks = [item for item in vars(sample.layer).values() if isinstance(item, SegmentedStack)]
        stacks += [sample.layer] if isinstance(sample.layer, SegmentedStack) else []
        assert all(len(stack.lengths.segments(4)) > 1 for stack in stacks), name


def state_of_the_segment_after(patch):
    forward = Segments.forward

    def shifted(self, state):
        found = forward(self, state)
        states = [state for _, state in self.kept]
        for k, (steps, _) in enumerate(self.kept[:-1]):
            self.kept[k] = (steps, states[k + 1])
        return found

    patch.setattr(Segments, "forward", shifted)


def gradient_not_passed_on(patch):
    patch.setattr(SegmentLengths, "cuts", lambda self, step: step > 0)


def wrong_gradients(sample):
    """Yield the arrays whose gradient a complex step refuses, as `check` does, one by one."""
    bound = inspect.signature(sample.layer.forward).bind(*sample.inputs)
    bound.apply_defaults()
    inputs = dict(bound.arguments)
    claimed, doutputs = analytic_gradients(sample.layer, inputs, "float64")
    for array, a in claimed.items():
        n = numeric_gradient(sample.layer, inputs, array, doutputs, 1e-30j)
        if error(a, n, sample.zeros.get(array, ())) >= TOLERANCE["complex"]:
            yield array


@pytest.mark.parametrize("plant", [state_of_the_segment_after, gradient_not_passed_on])
def test_the_gradient_check_catches_segments_that_do_not_fit(plant, monkeypatch):
    samples = {name: s for name, s in recomputed_samples().items() if "Comp" not in name}
    plant(monkeypatch)
    for name, sample in samples.items():
        assert any(wrong_gradients(sample)), name


# ---------------------------------------------------------------- truncation


@pytest.mark.parametrize("K", [T, T + 1, 100])
def test_one_window_is_the_exact_gradient_to_the_bit(segmented, K):
    layer, inputs = segmented
    expected = step(layer, inputs)
    set_segments(layer, tbptt=K)
    identical(step(layer, inputs), expected)


@pytest.mark.parametrize("K", [1, 3, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_the_truncated_gradient_is_that_of_windows_whose_start_states_are_constants(cell, K):
    stack, (x, state, masks) = stack_with_inputs(cell)
    (y, final), _ = stack.forward(x, state, masks)
    dy, dfinal = random_like((y, final))
    stack.zero_grad()
    dx, dstate, carried = [], None, state
    for first in range(0, T, K):
        window = slice(first, first + K)
        given = (x[window], carried, tuple(mask[window] for mask in masks))
        (_, carried), cache = stack.forward(*given)
        last = first + K >= T
        dpart, dstart, _ = stack.backward((dy[window], dfinal if last else None), cache)
        dx.append(dpart)
        dstate = dstart if first == 0 else dstate
    expected = {"dinput.0": np.concatenate(dx)} | flat(dstate, "dinput.1")
    expected |= {name: param.grad.copy() for name, param in stack.params().items()}
    stack.lengths = SegmentLengths(tbptt=K)
    got = step(stack, (x, state, masks), (dy, dfinal))
    agree({"output.0": got["output.0"]}, {"output.0": y}, 1e-14)  # forward is not truncated
    agree({name: got[name] for name in expected}, expected)


@pytest.mark.parametrize("K", [1, 3, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_truncation_cuts_between_windows_and_is_exact_within_the_last(cell, K):
    stack, inputs = stack_with_inputs(cell)
    if cell.__name__ == "SlidesRNN":  # whose inputs never reach a later step in any case
        inputs = (inputs[0], inputs[1], None)
    exact, (outputs, _) = step(stack, inputs), stack.forward(*inputs)
    stack.lengths = SegmentLengths(tbptt=K)
    truncated = step(stack, inputs)
    last = (T - 1) // K * K
    agree({"x": truncated["dinput.0"][last:]}, {"x": exact["dinput.0"][last:]})
    recurrent = next(name for name in exact if name.startswith("0.W") and name[-1] in "hW")
    assert np.abs(truncated[recurrent] - exact[recurrent]).max() > 1e-3
    # where only the last step has a loss, nothing reaches the windows before
    dy = np.zeros_like(outputs[0])
    dy[-1] = 1
    found = step(stack, inputs, (dy, None))
    assert not found["dinput.0"][:last].any() and found["dinput.0"][-1].any()
    assert not any(array.any() for name, array in found.items() if name.startswith("dinput.1"))
    agree({"x": found["dinput.0"][T - 1 :]}, {"x": step_with(WHOLE, stack, inputs, dy)[T - 1 :]})


def step_with(lengths, stack, inputs, dy):
    stack.lengths = lengths
    return step(stack, inputs, (dy, None))["dinput.0"]


@pytest.mark.parametrize("K", [2, 4])
def test_what_decoders_send_into_the_code_reaches_the_last_window_of_the_encoder(K):
    rng = np.random.default_rng(3)
    with use_backend("numpy", "float64"):
        model = randomize(Composite(D, H, 2, rng), rng)
    past = rng.random((T, B, D))
    inputs, last = (past, None, 5, False, None), (T - 1) // K * K
    exact = step(model, inputs)["dinput.0"]
    # the decoders whole, the encoder truncated: within its last window the gradient is exact
    model.encoder.lengths = SegmentLengths(tbptt=K)
    found = step(model, inputs)["dinput.0"]
    agree({"past": found[last:]}, {"past": exact[last:]})
    assert found[last:].any() and not found[:last].any() and exact[:last].any()
    # the decoders truncated as well: only their first windows speak to the encoder
    model.set_segments(tbptt=K)
    outputs, _ = model.forward(*inputs)
    doutputs = random_like(outputs)
    for dlogits in doutputs:
        dlogits[:K] = 0
    assert not step(model, inputs, doutputs)["dinput.0"].any()
    doutputs[0][K - 1] = 1
    assert step(model, inputs, doutputs)["dinput.0"].any()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("K", [1, 2, 4])
def test_a_decoder_that_feeds_itself_is_cut_where_its_window_starts(K, start):
    """Every window is a decoder of its own, with a constant code and a constant first frame."""
    decoder, (code, _, _, _, _) = decoder_with_inputs("free", start)
    logits, cache = decoder.forward(code, T)
    _, kept = cache._values["feedback"]._values["segments"].kept[0]
    runs, own = kept._values["stack"].runs, kept._values["own"]
    dlogits = random_like(logits)

    decoder.zero_grad()
    expected_dcode = None
    late = start == "read"
    for first in range(0, T - late, K):
        made = dlogits[first + late : first + late + K]
        if first == 0:
            made = dlogits[: K + late]
            _, cache = decoder.forward(code, len(made))
        else:
            # "read" makes one frame without a step: the one that this window is fed
            state = tuple((run.h[first], run.c[first]) for run in runs)
            truth = np.empty((len(made) + 1, B, D))
            truth[0] = own[first - 1]
            feed_truth = np.zeros((len(made) + 1, B), bool)
            feed_truth[0] = True
            decoder.start = "read"
            _, cache = decoder.forward(state, len(made) + 1, truth, feed_truth)
            made = np.concatenate((np.zeros((1, B, D)), made))
        dcode, *_ = decoder.backward(made, cache)
        expected_dcode = dcode if first == 0 else expected_dcode
    decoder.start = start
    expected = {name: param.grad.copy() for name, param in decoder.params().items()}
    expected |= flat(expected_dcode, "dinput.0")
    exact = step(decoder, (code, T), dlogits)
    for lengths in ({"tbptt": K}, {"tbptt": K, "recompute": 1}):
        set_segments(decoder, **lengths)
        found = step(decoder, (code, T), dlogits)
        agree({name: found[name] for name in expected}, expected)
        assert np.abs(found["stack.0.Wh"] - exact["stack.0.Wh"]).max() > 1e-3


# ---------------------------------------------------------------- what it takes


def peak(stack, inputs, doutputs, lengths):
    """Bytes that one forward and backward take at their height, measured."""
    stack.lengths = lengths
    stack.zero_grad()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        outputs, cache = stack.forward(*inputs)
        stack.backward(doutputs, cache)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def formula(steps, batch, D, H, layer_count, K=0, itemsize=4):
    """Bytes by the formula in segments.py, and dx, which is made as well."""
    if K:
        units = (6 * layer_count + 4) * H * K + 2 * layer_count * H * steps / K + H * steps
    else:
        units = (6 * layer_count + 4) * H * steps
    return batch * (units + steps * D) * itemsize


def long_stack(cell, layer_count, steps, batch=24, D=1, H=24):
    rng = np.random.default_rng(4)
    stack = randomize(SegmentedStack(D, H, layer_count, rng, cell), rng)
    x = rng.standard_normal((steps, batch, D)).astype("float32")
    dy = rng.standard_normal((steps, batch, H)).astype("float32")
    return stack, (x,), (dy, None), (steps, batch, D, H, layer_count)


PEAKS = covering(itertools.product((PeepholeLSTM, LSTM), (1, 2), (0, 8, 32, 60, 100)), 2)


@pytest.mark.parametrize("cell, layer_count, K", PEAKS)
def test_the_measured_peak_is_the_computed_one(cell, layer_count, K):
    stack, inputs, doutputs, sizes = long_stack(cell, layer_count, 400)
    measured = peak(stack, inputs, doutputs, SegmentLengths(recompute=K))
    assert measured == pytest.approx(formula(*sizes, K), rel=0.1)


@pytest.mark.parametrize("cell, layer_count", [(PeepholeLSTM, 2), (LSTM, 1), (SlidesLSTM, 2)])
def test_a_thousand_steps_take_a_quarter_of_the_memory(cell, layer_count):
    stack, inputs, doutputs, sizes = long_stack(cell, layer_count, 1000)
    K = round(math.sqrt(1000))
    whole = peak(stack, inputs, doutputs, WHOLE)
    recomputed = peak(stack, inputs, doutputs, SegmentLengths(recompute=K))
    assert recomputed < whole / 4
    if cell is not SlidesLSTM:  # which also holds Ix
        assert recomputed == pytest.approx(formula(*sizes, K), rel=0.1)
        assert whole == pytest.approx(formula(*sizes), rel=0.1)


def test_the_measurement_notices_a_state_that_keeps_its_whole_segment(monkeypatch):
    stack, inputs, doutputs, sizes = long_stack(LSTM, 1, 400)
    monkeypatch.setattr("minilstm.layers.segments._copied", lambda state: state)
    measured = peak(stack, inputs, doutputs, SegmentLengths(recompute=20))
    assert measured > 1.1 * formula(*sizes, 20)


def test_near_the_square_root_of_the_length_takes_the_least():
    """resources.py announces it, of 40 steps and 30: a refusal recommends nearly the least."""
    needed = {}
    for K in (1, 2, 4, math.isqrt(40), 9, 13, 20, 30, 40):
        config = configured(memory=f"recompute={K}")
        needed[K] = resources.memory_of(build.build_model(config, 9), config).per_sequence
    assert needed[math.isqrt(40)] < 1.2 * min(needed.values())
    assert min(needed[1], needed[40]) > 1.3 * min(needed.values())


@pytest.mark.parametrize("mode", MODES)
def test_decoders_need_a_quarter_too(mode):
    rng = np.random.default_rng(5)
    steps, batch, D, H = 400, 16, 2, 32
    decoder = randomize(Decoder(D, H, 2, rng, mode != "unconditional"), rng)
    code = tuple(tuple(rng.standard_normal((2, batch, H)).astype("float32")) for _ in range(2))
    truth = rng.random((steps, batch, D), np.float32)
    feed = {"forced": True, "scheduled": rng.random((steps, batch)) < 0.5}.get(mode, False)
    dlogits = np.ones((steps, batch, D), "float32")
    inputs = (code, steps, truth, feed)
    whole, recomputed = (_decoder_peak(decoder, inputs, dlogits, K) for K in (0, 20))
    assert recomputed < whole / 4


def _decoder_peak(decoder, inputs, dlogits, K):
    with use_workspace(Reused()) as pool:
        set_segments(decoder, recompute=K)
        _, cache = decoder.forward(*inputs)
        decoder.backward(dlogits, cache)
        return pool.nbytes


# ---------------------------------------------------------------- the settings


def test_memory_is_full_or_recompute_with_a_length():
    assert RunSettings().recompute == RunSettings(memory="full").recompute == 0
    assert RunSettings(memory="recompute=1").recompute == 1
    assert from_toml('[run]\nmemory = "recompute=32"\ntbptt = 5').run.recompute == 32


@pytest.mark.parametrize(
    "memory",
    ["recompute=0", "recompute=x", "recompute=", "recompute", "recompute=-3", "recompute=1.5",
     "recompute=٣", "recompute=3 ", "recompute=" + "9" * 5000, "Full", ""],
    ids=lambda text: repr(text[:16]),
)  # fmt: skip
def test_any_other_memory_is_refused(memory):
    with pytest.raises(ConfigError, match="expected run.memory full or recompute=K .*--memory"):
        RunSettings(memory=memory)


def configured(**run):
    overrides = {
        "data": {"past": 40, "future": 30, "frame_size": 14},
        "model": {"hidden": 24, "layers": 2},
        "run": {"precision": "float64", "batch_size": 6} | run,
    }
    return load(overrides=overrides)


def test_a_model_is_built_with_the_lengths_of_its_settings():
    model = build.build_model(configured(memory="recompute=7", tbptt=3), 9)
    for stack in (model.encoder, model.reconstruct.stack, model.predict.stack):
        assert stack.lengths == SegmentLengths(recompute=7, tbptt=3)
    assert build.build_model(configured(), 9).encoder.lengths == WHOLE


@pytest.mark.parametrize(
    ("conditional", "inputs"),
    [("none", "truth"), ("both", "truth"), ("both", "own"), ("both", "scheduled")],
)
def test_the_memory_announced_of_a_recomputed_model_is_what_training_takes(conditional, inputs):
    announced = {}
    for memory in ("full", "recompute=6", "recompute=7"):
        config = configured(memory=memory)
        model = dataclasses.replace(config.model, conditional=conditional)
        fed = dataclasses.replace(config.feeding, inputs=inputs, truth_start=0.5, truth_end=0.5)
        config = dataclasses.replace(config, model=model, feeding=fed)
        source = build.open_source(config, "train")
        model = build.build_model(config, math.prod(source.frame_shape))
        optimizer = build.build_optimizer(model, config)
        with use_workspace(Reused()) as pool:
            for k in range(2):
                batch = draw_batch(source, config, k)
                training_step(model, optimizer, batch, config, 1e-3)
        taken = 4 * model.flat().value.nbytes + pool.nbytes
        taken += 4 * (batch.past.nbytes + batch.future.nbytes)
        announced[memory] = resources.memory_of(model, config).needed(config.run.batch_size)
        assert announced[memory] == pytest.approx(taken, rel=0.1)
    assert announced["recompute=6"] < announced["full"]


def test_recomputation_learns_what_a_whole_run_learns():
    learned = []
    for memory in ("full", "recompute=6"):
        config = configured(memory=memory)
        source = build.open_source(config, "train")
        model = build.build_model(config, math.prod(source.frame_shape))
        optimizer = build.build_optimizer(model, config)
        for k in range(3):
            training_step(model, optimizer, draw_batch(source, config, k), config, 1e-3)
        learned.append(model.flat().value.copy())
    np.testing.assert_allclose(learned[0], learned[1], rtol=1e-9, atol=1e-11)


def test_the_work_of_recomputation_is_counted():
    model = build.build_model(configured(), 9)
    full, again = (
        resources.gflop_per_step(model, configured(memory=memory))
        for memory in ("full", "recompute=6")
    )
    # the products of a step and a sequence: of 9 pixels, 24 units with 4 gates, and two layers
    pixels, units, readout = 9 * 96, 24 * 96, 24 * 9
    forward = 40 * (pixels + 3 * units) + 70 * 3 * units  # past 40, and then future 30
    once = 40 * (2 * pixels + 9 * units) + 70 * (9 * units + 3 * readout)
    assert full == pytest.approx(2 * 6 * once / 1e9, rel=1e-12)
    assert again == pytest.approx(2 * 6 * (once + forward) / 1e9, rel=1e-12)


def test_the_work_of_computing_own_frames_again_is_counted():
    """Only a decoder that gets its own frames computes its readout again."""
    counted = {}
    for conditional in ("none", "future"):
        settings = configured(memory="recompute=6")
        settings = dataclasses.replace(
            settings,
            model=dataclasses.replace(settings.model, conditional=conditional),
        )
        if conditional == "future":
            settings = dataclasses.replace(
                settings, feeding=dataclasses.replace(settings.feeding, inputs="own")
            )
        counted[conditional] = resources.gflop_per_step(build.build_model(settings, 9), settings)
    fed = 30 * 4 * 9 * 96  # the product with the frame: forward, again, and twice backward
    again = 30 * 24 * 9
    assert counted["future"] - counted["none"] == pytest.approx(
        2 * 6 * (fed + again) / 1e9, rel=1e-9
    )


def test_an_encoder_in_segments_needs_neither_masks_nor_state():
    rng = np.random.default_rng(6)
    with use_backend("numpy", "float64"):
        encoder = randomize(Encoder(D, H, 2, rng), rng)
    inputs = {"past": rng.random((T, B, D)), "masks": None}
    expected, _ = analytic_gradients(encoder, inputs, "float64")
    encoder.lengths = SegmentLengths(recompute=4)
    found, _ = analytic_gradients(encoder, inputs, "float64")
    agree(found, expected)
