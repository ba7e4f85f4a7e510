"""The promises that every layer makes, tried on every sample of every layer of the package.

A test with the argument `sample` runs once for every sample (see conftest.py). At the end of the
file each promise is broken once, and its test must notice.

`pytest tests/test_contracts.py --cell mycell.py:GRU` tries them on a cell of the user's own. So
every assertion says what is expected, what was found, and what to do.
"""

import copy
import inspect
import itertools
import re

import numpy as np
import pytest
from conftest import cells_to_try

from minilstm.backend import use_backend
from minilstm.checker import analytic_gradients, layer_classes, numeric_gradient
from minilstm.errors import ConfigError, ShapeError, StaleCache
from minilstm.gradcheck import check
from minilstm.layers.init import Init
from minilstm.layers.layer import Cache, Layer, Param, Sample
from minilstm.layers.losses import SoftmaxCrossEntropy
from minilstm.layers.rnn import Recurrent
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.layers.workspace import Fresh, Reused, empty, use_workspace
from minilstm.models import STARTS, Decoder, Encoder, EncoderDecoder, FuturePredictor
from minilstm.promises import ADD, KEEP_IN_RUN, WRITE_NO_INPUT

CELLS = cells_to_try or [cls for cls in layer_classes() if issubclass(cls, Recurrent)]
MODELS = [cls for cls in layer_classes() if issubclass(cls, EncoderDecoder)]
POISONED = [Fresh, lambda: Reused(poison=True)]

# ---------------------------------------------------------------- what to do, in words

COPY_OUT = "write results into run's own arrays, and return no array that was given"
WRITE_FIRST = "arrays of run hold old numbers: write each whole (x[...] = ...) before you read it"
CHECK_SHAPES = "call super().begin(x, state) first, which checks shapes, or expect() of layer.py"
GRADCHECK = "see which by python -m minilstm.gradcheck, and mend its line of backward"
SIZES = (
    "mend what python -m minilstm.gradcheck finds; if that is nothing, read sizes from the arrays, "
    "and let no axis vanish that may have size 1"
)
FROM_STATE = "add to gradients (+=), and compute a step from run.a[t] and the state before it alone"


# ---------------------------------------------------------------- nested tuples of arrays


def is_array(item):
    return isinstance(item, np.ndarray | np.generic)


def arrays(tree, name=""):
    """All arrays in nested tuples and dicts, by names such as `.1.0` or `.Wh`."""
    if isinstance(tree, tuple | list | dict):
        found = {}
        for k, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            found |= arrays(item, f"{name}.{k}")
        return found
    return {name: tree} if is_array(tree) else {}


def changed(tree, change):
    """Return the tree with `change(array)` in place of every array."""
    if isinstance(tree, dict):
        return {name: changed(item, change) for name, item in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(changed(item, change) for item in tree)
    return change(tree) if is_array(tree) else tree


def copied(tree):
    return changed(tree, np.copy)


def cast(tree, dtype):
    return changed(tree, lambda a: a.astype(dtype) if a.dtype.kind == "f" else a.copy())


def other(tree):
    """Other inputs of the same shapes; masks and labels stay."""
    return changed(tree, lambda a: (1 - 0.7 * a).astype(a.dtype) if a.dtype.kind == "f" else a)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return changed(tree, lambda a: np.asarray(rng.standard_normal(a.shape), a.dtype))


def replaced(tree, name, array, at=""):
    """Return the tree with `array` in place of the one called `name`."""
    if isinstance(tree, tuple | list):
        return tuple(replaced(item, name, array, f"{at}.{k}") for k, item in enumerate(tree))
    return array if at == name else tree


def same_arrays(got, expected, of, remedy):
    """Yield (name, array, expected array). Both trees must have arrays of the same names."""
    got, expected = arrays(got), arrays(expected)
    assert got.keys() == expected.keys(), (
        f"{of}: expected arrays {list(expected)}, got {list(got)}: {remedy}"
    )
    for name, want in expected.items():
        have = got[name]
        assert have.shape == want.shape and have.dtype == want.dtype, (
            f"{of}{name}: expected {want.dtype} {want.shape}, got {have.dtype} {have.shape}: "
            f"{remedy}"
        )
        yield name, have, want


def assert_identical(got, expected, of, remedy):
    """Equal to the bit, array by array. `remedy` says what to do if they are not."""
    for name, have, want in same_arrays(got, expected, of, remedy):
        if have.tobytes() != want.tobytes():
            differs = ~((have == want) | (np.isnan(have) & np.isnan(want)))
            where = tuple(np.argwhere(differs)[0]) if differs.any() else (0,) * have.ndim
            raise AssertionError(
                f"{of}{name}{list(map(int, where))}: expected {want[where]}, got {have[where]}: "
                f"{remedy}"
            )


def assert_close(got, expected, of, remedy, tolerance=1e-12, relative=0):
    """Equal within a tolerance, array by array. `remedy` says what to do if they are not."""
    for name, have, want in same_arrays(got, expected, of, remedy):
        off = ~np.isclose(have, want, rtol=relative, atol=tolerance, equal_nan=False)
        if off.any():
            where = tuple(np.argwhere(off)[0])
            raise AssertionError(
                f"{of}{name}{list(map(int, where))}: expected {want[where]} within "
                f"{tolerance or relative:g}, got {have[where]}: {remedy}"
            )


def raised(kind, call, what, remedy):
    """Return the one line of the error that `call` must raise."""
    try:
        call()
    except kind as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(
            f"{what}: expected {kind.__name__}, got {type(error).__name__}, {error}: {remedy}"
        ) from error
    else:
        raise AssertionError(f"{what}: expected {kind.__name__}, got no error: {remedy}")
    assert "\n" not in said, f"{what}: expected an error of one line, got {said!r}: shorten it"
    return said


def name_of(layer):
    return type(layer).__name__


def inputs_of(layer):
    """The names of what forward takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(layer.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def grads(layer):
    return {name: param.grad.copy() for name, param in layer.params().items()}


def training_step(layer, inputs, seed=1):
    """Forward and backward once: outputs, gradients of the inputs and of the parameters."""
    layer.zero_grad()
    outputs, cache = layer.forward(*inputs)
    dinputs = layer.backward(random_like(outputs, seed), cache)
    return outputs, dinputs, grads(layer)


# ---------------------------------------------------------------- gradients and caches


def test_gradients_accumulate_over_two_forward_passes(sample):
    layer = sample.layer
    _, _, once = training_step(layer, sample.inputs)
    for name, grad in once.items():
        assert not grad.size or np.abs(grad).max() > 0, (
            f"gradient of {name}: expected other numbers than 0, got only 0: "
            f"add to self.{name}.grad in accumulate"
        )
    for param in layer.params().values():
        param.grad.fill(0)
    for _ in range(2):
        outputs, cache = layer.forward(*sample.inputs)
        layer.backward(random_like(outputs, 1), cache)
    twice = changed(once, lambda grad: 2 * grad)
    of = "gradients after two backward passes (twice those of one): "
    assert_close(grads(layer), twice, of, ADD, tolerance=0, relative=1e-13)


def test_a_gradient_that_is_not_wanted_changes_no_other_gradient(sample):
    """Training skips the gradient of its data; `backward` has a `want_...` for that."""
    layer = sample.layer
    parameters = inspect.signature(layer.backward).parameters
    switches = [name for name in parameters if name.startswith("want_")]
    outputs, wanted, expected = training_step(layer, sample.inputs)
    for switch in switches:
        layer.zero_grad()
        _, cache = layer.forward(*sample.inputs)
        got = layer.backward(random_like(outputs, 1), cache, **{switch: False})
        remedy = f"in backward let {switch} decide about that one gradient alone"
        of = f"{name_of(layer)} with {switch}=False, gradient of parameter "
        assert_identical(grads(layer), expected, of, remedy)
        for name, entry, want in zip(inputs_of(layer), got, wanted, strict=True):
            if entry is None:
                assert want is None or name in ("x", "past", "future", "truth"), (
                    f"d{name} with {switch}=False: expected an array, got None: {remedy}"
                )
            else:
                assert_identical(entry, want, f"{name_of(layer)} d{name} ", remedy)
    if isinstance(layer, Recurrent | Stack | EncoderDecoder):
        assert switches and got[0] is None, (
            f"dx with want_dx=False: expected None, got {'an array' if switches else 'no want_dx'}"
            ": return None from project_backward where want_dx is false"
        )


def test_zero_grad_forgets(sample):
    training_step(sample.layer, sample.inputs)
    sample.layer.zero_grad()
    left = [name for name, param in sample.layer.params().items() if param.grad.any()]
    assert not left, (
        f"after zero_grad: expected gradients of 0, got others in {left}: keep every parameter as "
        "an attribute, self.name = Param(...), once"
    )


def test_a_cache_serves_one_backward_pass_only(sample):
    outputs, cache = sample.layer.forward(*sample.inputs)
    doutputs = random_like(outputs, 1)
    sample.layer.backward(doutputs, cache)
    before = grads(sample.layer)
    remedy = "leave `backward` to Recurrent, or begin it with cache.consume()"
    what = "a second backward of one forward"
    said = raised(StaleCache, lambda: sample.layer.backward(doutputs, cache), what, remedy)
    assert re.match("expected .*, got .*: run forward again", said), f"{what}: got {said!r}"
    of = "gradients after a refused backward, of parameter "
    assert_identical(grads(sample.layer), before, of, remedy)


@pytest.mark.parametrize("workspace", POISONED, ids=["Fresh", "Reused"])
@pytest.mark.parametrize("first", ["A", "B"])
def test_two_live_caches_of_one_layer_do_not_disturb_each_other(sample, workspace, first):
    layer, inputs = sample.layer, {"A": sample.inputs, "B": other(sample.inputs)}
    order = "AB" if first == "A" else "BA"
    expected, layer_grads = {}, None
    layer.zero_grad()
    for which in order:
        outputs, cache = layer.forward(*inputs[which])
        dinputs = layer.backward(random_like(outputs, 1), cache)
        expected[which] = copied((outputs, dinputs))
    layer_grads = grads(layer)
    with use_workspace(workspace()):
        for _ in range(2):  # the second time in buffers that have been used
            layer.zero_grad()
            runs = {which: layer.forward(*inputs[which]) for which in "AB"}
            got = {}
            for which in order:
                outputs, cache = runs[which]
                got[which] = (outputs, layer.backward(random_like(outputs, 1), cache))
            for which in "AB":
                of = f"{name_of(layer)}, two forwards before their backwards, run {which} "
                assert_identical(got[which], expected[which], of, KEEP_IN_RUN)
            of = f"{name_of(layer)}, two forwards before their backwards, parameter "
            assert_identical(grads(layer), layer_grads, of, KEEP_IN_RUN)


def test_inputs_doutputs_and_parameters_survive_forward_and_backward_unchanged(sample):
    layer = sample.layer
    inputs, values = copied(sample.inputs), [p.value.copy() for p in layer.params().values()]
    outputs, cache = layer.forward(*inputs)
    of = f"{name_of(layer)} inputs after forward "
    assert_identical(inputs, sample.inputs, of, WRITE_NO_INPUT)
    doutputs = random_like(outputs, 1)
    given = copied(doutputs)
    layer.backward(given, cache)
    of = f"{name_of(layer)} inputs after backward "
    assert_identical(inputs, sample.inputs, of, WRITE_NO_INPUT)
    of = f"{name_of(layer)} doutputs (dy, dfinal) after backward "
    assert_identical(given, doutputs, of, WRITE_NO_INPUT)
    after = [param.value for param in layer.params().values()]
    remedy = "forward and backward must not write to a Param's value"
    assert_identical(after, values, f"{name_of(layer)} values of parameter ", remedy)


def test_outputs_survive_backward_unchanged(sample):
    outputs, cache = sample.layer.forward(*sample.inputs)
    before = copied(outputs)
    sample.layer.backward(random_like(outputs, 1), cache)
    remedy = "step_backward may write to run.a and run.dh; write to run.h and run.y in step only"
    of = f"{name_of(sample.layer)} outputs after backward "
    assert_identical(outputs, before, of, remedy)


def test_gradients_are_not_memory_of_the_inputs_or_of_the_doutputs(sample):
    """Whoever adds to a gradient must not thereby change an input."""
    outputs, cache = sample.layer.forward(*sample.inputs)
    doutputs = random_like(outputs, 1)
    dinputs = sample.layer.backward(doutputs, cache)
    given = arrays((sample.inputs, doutputs))
    for (name, dinput), (other_name, array) in itertools.product(
        arrays(dinputs).items(), given.items()
    ):
        assert not np.shares_memory(dinput, array), (
            f"dinputs{name}: expected memory of its own, got that of {other_name}: {COPY_OUT}"
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept_by_outputs_gradients_caches_and_buffers(sample, dtype):
    layer = sample.layer.astype(dtype)
    inputs = cast(sample.inputs, dtype)
    with use_workspace(Reused()) as pool:
        outputs, cache = layer.forward(*inputs)
        kept = {f"cache {n}": a for n, a in within(cache).items() if a.dtype.kind == "f"}
        dinputs = layer.backward(random_like(outputs, 1), cache)
    kept |= {f"output{name}": array for name, array in arrays(outputs).items()}
    kept |= {f"dinput{name}": array for name, array in arrays(dinputs).items()}
    kept |= {f"gradient of {name}": param.grad for name, param in layer.params().items()}
    wrong = {name: str(array.dtype) for name, array in kept.items() if array.dtype != dtype}
    remedy = "make arrays by run.array(K) or in the dtype of x, never by a plain np.zeros"
    assert not wrong, f"{name_of(layer)}: expected {dtype}, got {wrong}: {remedy}"
    lent = {buffer_dtype for _, buffer_dtype in pool._buffers}
    assert lent <= {np.dtype(dtype), np.dtype(bool)}, (
        f"buffers: expected {dtype} or bool, got {sorted(map(str, lent))}: {remedy}"
    )


def within(thing, name=""):
    """All arrays in a cache, whatever they lie in."""
    if isinstance(thing, tuple | list):
        items = [(f"{name}.{k}", item) for k, item in enumerate(thing)]
    elif isinstance(thing, dict):
        items = [(f"{name}.{k}", item) for k, item in thing.items()]
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        items = [(f"{name}.{k}", item) for k, item in vars(thing).items()]
    else:
        return {name: thing} if is_array(thing) else {}
    found = {}
    for item_name, item in items:
        found |= within(item, item_name)
    return found


# ---------------------------------------------------------------- buffers


def test_reused_poisoned_buffers_change_no_bit_of_any_step(sample):
    layer = sample.layer
    steps = [sample.inputs, other(sample.inputs), sample.inputs, other(sample.inputs)]
    expected = [copied(training_step(layer, inputs)) for inputs in steps]
    with use_workspace(Reused(poison=True)):
        for k, inputs in enumerate(steps):
            got = copied(training_step(layer, inputs))
            assert_identical(got, expected[k], f"{name_of(layer)} step {k}: ", WRITE_FIRST)


def test_the_pool_allocates_nothing_after_the_first_training_step(sample):
    counts = []
    with use_workspace(Reused()) as pool:
        for k in range(4):
            training_step(sample.layer, sample.inputs if k % 2 else other(sample.inputs))
            counts.append((pool.allocated, pool.nbytes))
    assert counts == counts[:1] * 4, (
        f"{name_of(sample.layer)}: expected as many (buffers, bytes) in all four steps, got "
        f"{counts}: keep no array of run in self, and take no other array in later steps"
    )


def test_what_a_user_keeps_is_his(sample):
    """Outputs and gradients kept from one step are not overwritten by the next."""
    layer = sample.layer
    with use_workspace(Reused(poison=True)):
        kept = training_step(layer, sample.inputs)
        before = copied(kept)
        for _ in range(3):
            training_step(layer, other(sample.inputs))
            assert_identical(kept, before, f"{name_of(layer)} kept ", KEEP_IN_RUN)


@pytest.mark.parametrize("model", MODELS)
def test_what_rollout_and_reconstruction_return_is_the_users(model):
    layer, inputs, _ = in_float64(model)
    past = inputs[0]
    calls = {
        "rollout": lambda past: layer.rollout(past, 4) if layer.predict else None,
        "reconstruction": lambda past: layer.reconstruction(past) if layer.reconstruct else None,
    }
    with use_workspace(Reused(poison=True)):
        for name, call in calls.items():
            kept = call(past)
            before = copied(kept)
            for _ in range(2):
                call(other(past))
                training_step(layer, inputs)
            assert_identical((kept,), (before,), f"{model.__name__}.{name}", KEEP_IN_RUN)


# ---------------------------------------------------------------- shapes


def test_backward_returns_one_entry_per_input_in_the_shape_of_the_input(sample):
    layer, inputs = sample.layer, sample.inputs
    names = inputs_of(layer)
    outputs, cache = layer.forward(*inputs)
    dinputs = layer.backward(random_like(outputs, 1), cache)
    if len(names) > 1:
        remedy = "return one entry for each input of forward from backward, in order"
        count = len(dinputs) if isinstance(dinputs, tuple) else "an array"
        assert count == len(names), f"expected gradients of {names}, got {count}: {remedy}"
    else:
        dinputs = (dinputs,)
    inputs = (*inputs, *(None,) * (len(names) - len(inputs)))
    for name, value, dvalue in zip(names, inputs, dinputs, strict=True):
        floating = {n: a for n, a in arrays(value, name).items() if a.dtype.kind == "f"}
        expected = {} if name in layer.constants else floating
        got = arrays(dvalue, name)
        found = {n: a.shape for n, a in got.items()}
        wanted = {n: a.shape for n, a in expected.items()}
        assert found == wanted, (
            f"gradient of the input {name}: expected shapes {wanted}, got {found}: a gradient has "
            "the shape of its array; project_backward returns dx, start_gradient dstate"
        )


def refused(layer, inputs, what):
    what = f"{name_of(layer)}.forward with {what}"
    said = raised(ShapeError, lambda: layer.forward(*inputs), what, CHECK_SHAPES)
    assert re.match("expected .*, got ", said), (
        f"{what}: expected an error 'expected ..., got ...', got {said!r}: word it so"
    )


def ignored(layer, inputs, path):
    """Return True if no output depends on this input, for example truth that is never fed."""
    array = arrays(inputs)[path]
    if array.dtype.kind not in "fb":
        return False
    opposite = ~array if array.dtype.kind == "b" else other(array)
    before, _ = layer.forward(*inputs)
    after, _ = layer.forward(*replaced(inputs, path, opposite))
    after = arrays(after)
    return all(y.tobytes() == after[name].tobytes() for name, y in arrays(before).items())


def paths_of_used_inputs(layer, inputs):
    """(path, name, array) of every array that has something else to be compared with."""
    found = {p: a for p, a in arrays(inputs).items() if not ignored(layer, inputs, p)}
    if len(found) == 1 and not layer.params():
        return []
    names = inputs_of(layer)
    return [(path, names[int(path.split(".")[1])], array) for path, array in found.items()]


def test_an_input_of_another_width_or_rank_is_refused_in_one_line(sample):
    layer, inputs = sample.layer, sample.inputs
    for path, name, array in paths_of_used_inputs(layer, inputs):
        wrong = [array[None], array[..., 0]]
        if (type(layer), name) != (SoftmaxCrossEntropy, "logits"):  # labels allow more classes
            wrong.append(np.concatenate((array, array[..., -1:]), axis=-1))
        for other_array in wrong:
            what = f"{name} of shape {other_array.shape} for {array.shape}"
            refused(layer, replaced(inputs, path, other_array), what)


def test_an_input_of_another_batch_size_is_refused_in_one_line(sample):
    layer, inputs = sample.layer, sample.inputs
    used = paths_of_used_inputs(layer, inputs)
    for path, name, array in used if len(used) > 1 else ():
        axis = 0 if array.ndim == 2 and array.dtype.kind == "f" else 1  # states are (B, H)
        for size in (1, array.shape[axis] + 1):
            wrong = np.take(array, np.zeros(size, int), axis)
            what = f"{name} of shape {wrong.shape} for {array.shape}"
            refused(layer, replaced(inputs, path, wrong), what)


def test_an_input_of_another_length_is_refused_in_one_line(sample):
    layer, inputs = sample.layer, sample.inputs
    timed = [
        (path, name, array)
        for path, name, array in paths_of_used_inputs(layer, inputs)
        if array.ndim == 3 or array.dtype.kind in "bi"
    ]
    lengths = [len(array) for _, _, array in timed] + [T for T in inputs if type(T) is int]
    for path, name, array in timed:
        if lengths.count(len(array)) == 1:
            continue  # of any length, because nothing else has one
        wrong = np.concatenate((array, array[-1:]))
        what = f"{name} of shape {wrong.shape} for {array.shape}"
        refused(layer, replaced(inputs, path, wrong), what)


def test_an_input_of_another_dtype_is_refused_in_one_line(sample):
    layer, inputs = sample.layer, sample.inputs
    used = paths_of_used_inputs(layer, inputs)
    floats = [path for path, _, array in used if array.dtype.kind == "f"]
    for path, name, array in used:
        if floats == [path] and not layer.params():
            continue  # of any dtype, because nothing else has one
        wrong = array.astype({"f": "float32", "b": "uint8", "i": "float64"}[array.dtype.kind])
        refused(layer, replaced(inputs, path, wrong), f"{name} of dtype {wrong.dtype}")


@pytest.mark.parametrize("cell", CELLS)
def test_a_start_state_with_a_part_too_few_or_too_many_is_refused(cell):
    layer, (x, state), _ = in_float64(cell)
    refused(layer, (x, state[:-1]), f"a state of {len(state) - 1} arrays")
    refused(layer, (x, (*state, state[0])), f"a state of {len(state) + 1} arrays")


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_of_the_final_state_that_does_not_fit_is_refused(cell):
    layer, (x, state), _ = in_float64(cell)
    fits = tuple(np.ones_like(part) for part in state)
    wrong = {
        "a part too few": fits[:-1],
        "a part too many": (*fits, fits[0]),
        "one sequence for all": (*fits[:-1], fits[-1][:1]),
        "no axis of sequences": (*fits[:-1], fits[-1][0]),
        "another dtype": (*fits[:-1], fits[-1].astype("float32")),
    }
    for what, dfinal in wrong.items():
        (y, _), cache = layer.forward(x, state)
        backward_refused(layer, (y, dfinal), cache, what)


def test_a_gradient_of_a_code_with_a_layer_too_few_or_too_many_is_refused():
    stack, (x, state, masks), _ = in_float64(Stack)
    for what, dfinal in {"too few": state[:-1], "too many": (*state, state[0])}.items():
        (y, _), cache = stack.forward(x, state, masks)
        backward_refused(stack, (y, dfinal), cache, f"gradients of a layer {what}")


def backward_refused(layer, doutputs, cache, what):
    what = f"{name_of(layer)}.backward, gradient of the final state: {what}"
    remedy = "call super().begin_backward(run, dfinal), which checks shapes"
    said = raised(ShapeError, lambda: layer.backward(doutputs, cache), what, remedy)
    assert "final state" in said, (
        f"{what}: expected an error that names the final state, got {said!r}: {remedy}"
    )


@pytest.mark.parametrize("feed_truth", [[True, False], [[True] * 3] * 5, 1, None, "own"])
def test_a_choice_of_frames_that_is_no_array_is_refused(feed_truth):
    decoder, (code, T, truth, _, masks), _ = in_float64(Decoder)
    refused(decoder, (code, T, truth, feed_truth, masks), f"feed_truth {feed_truth!r}")


def test_predicting_without_a_length_is_refused():
    predictor, (past, *_), _ = in_float64(FuturePredictor)
    refused(predictor, (past,), "neither a future nor T")


def test_a_code_with_a_layer_too_few_or_too_many_is_refused():
    stack, (x, state, masks), _ = in_float64(Stack)
    refused(stack, (x, state[:-1], masks), "states of a layer too few")
    refused(stack, (x, (*state, state[0]), masks), "states of a layer too many")
    refused(stack, (x, state, masks[:-1]), "masks of a gap too few")
    refused(stack, (x, state, (*masks, masks[0])), "masks of a gap too many")


def in_float64(cls):
    with use_backend("numpy", "float64"):
        sample = cls.sample(np.random.default_rng(0))
    return sample.layer, sample.inputs, sample.zeros


# ---------------------------------------------------------------- T = T1 + T2


def results_of(y, final, dx, dstate, layer):
    """The results of a forward and a backward pass, by their names."""
    return {"y": y, "final state": final, "dx": dx, "dstate": dstate, "gradient": grads(layer)}


@pytest.mark.parametrize("workspace", POISONED, ids=["Fresh", "Reused"])
@pytest.mark.parametrize("split", [1, 2, 4])
@pytest.mark.parametrize("cls", [*CELLS, Stack])
def test_two_runs_with_a_carried_state_equal_one_run_forward_and_backward(cls, split, workspace):
    layer, (x, state, *masks), _ = in_float64(cls)
    T = len(x)
    head, tail = slice(0, split), slice(split, T)

    def part(steps):
        return [tuple(mask[steps] for mask in per_layer) for per_layer in masks]

    rng = np.random.default_rng(3)
    dy = rng.standard_normal((T, x.shape[1], layer.layers[-1].H if cls is Stack else layer.H))
    (y, final), cache = layer.forward(x, state, *masks)
    dfinal = random_like(final, 4)
    dx, dstate, *_ = layer.backward((dy, dfinal), cache)
    expected = results_of(y, final, dx, dstate, layer)
    with use_workspace(workspace()):
        layer.zero_grad()
        (y1, carried), cache1 = layer.forward(x[head], state, *part(head))
        (y2, final), cache2 = layer.forward(x[tail], carried, *part(tail))
        dx2, dcarried, *_ = layer.backward((dy[tail], dfinal), cache2)
        dx1, dstate, *_ = layer.backward((dy[head], dcarried), cache1)
    got = results_of(np.concatenate((y1, y2)), final, np.concatenate((dx1, dx2)), dstate, layer)
    of = f"{cls.__name__} in {split} + {T - split} steps "
    assert_close(got, expected, of, FROM_STATE, 1e-13)


@pytest.mark.parametrize("cls", [*CELLS, Stack])
def test_no_start_state_means_a_start_of_zeros(cls):
    layer, (x, state, *masks), _ = in_float64(cls)
    zeros = changed(state, np.zeros_like)
    (y, final), cache = layer.forward(x, None, *masks)
    doutputs = random_like((y, final), 2)
    dx, dstate, *_ = layer.backward(doutputs, cache)
    assert dstate is None, (
        "gradient of the start state: expected None, because none was given, got an array: leave "
        "`backward` to Recurrent"
    )
    absent = results_of(y, final, dx, None, layer)
    layer.zero_grad()
    (y, final), cache = layer.forward(x, zeros, *masks)
    dx, _, *_ = layer.backward(doutputs, cache)
    of = f"{cls.__name__} with a start state of zeros, and with None: "
    remedy = "call super().begin(x, state), which fills the states with zeros"
    assert_identical(results_of(y, final, dx, None, layer), absent, of, remedy)


@pytest.mark.parametrize("cls", [*CELLS, Stack])
def test_none_among_the_doutputs_means_zeros(cls):
    layer, inputs, _ = in_float64(cls)
    (y, final), cache = layer.forward(*inputs)
    doutputs = random_like((y, final), 2)
    nothing = changed(doutputs, np.zeros_like)
    for with_none, with_zeros in (
        ((doutputs[0], None), (doutputs[0], nothing[1])),
        ((None, doutputs[1]), (nothing[0], doutputs[1])),
        ((None, None), nothing),
    ):
        results = []
        for given in (with_none, with_zeros):
            layer.zero_grad()
            _, cache = layer.forward(*inputs)
            dx, dstate, *_ = layer.backward(given, cache)
            results.append(results_of(None, None, dx, dstate, layer))
        remedy = "dy is None for zeros in step_backward: `if dy is not None: run.dh += dy`"
        of = f"{cls.__name__} with None for gradients of zeros: "
        assert_close(results[0], results[1], of, remedy, 0)


# ---------------------------------------------------------------- sizes of one and of nothing


def agree(sample, of):
    """Forward and backward run, and every gradient is the complex step's; zeros are allowed."""
    names = dict(zip(inputs_of(sample.layer), sample.inputs, strict=False))
    with use_backend("numpy", "float64"):
        analytic, doutputs = analytic_gradients(sample.layer, names, "float64")
        for array, a in analytic.items():
            n = numeric_gradient(sample.layer, names, array, doutputs, 1e-30j)
            assert_close(a, n, f"{of}, gradient of {array} ", SIZES, 1e-13)
        for dtype in ("float32", "float64"):
            sample.layer.astype(dtype)
            training_step(sample.layer, cast(sample.inputs, dtype))
    return analytic


ONES = ["none", "T", "B", "D", "H", "TBDH"]


def sizes_with_one(which):
    return [
        1 if letter in which else size for letter, size in zip("TBDH", (3, 2, 4, 3), strict=True)
    ]


@pytest.mark.parametrize("which", ONES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_size_one_passes_the_gradient_check(cell, which):
    T, B, D, H = sizes_with_one(which)
    rng = np.random.default_rng(5)
    with use_backend("numpy", "float64"):
        layer = randomize(cell(D, H, rng), rng)
        state = tuple(rng.standard_normal((B, H)) for _ in layer.state_names)
        rows = check(Sample(layer, (rng.standard_normal((T, B, D)), state)))
    wrong = [row.array for row in rows if not row.passed]
    assert not wrong, (
        f"T, B, D, H = {T}, {B}, {D}, {H}: expected right gradients, got wrong ones of {wrong}: "
        f"{GRADCHECK if which == 'none' else SIZES}"
    )
    assert all(row.size for row in rows), f"expected no empty array, got one in {rows}"


@pytest.mark.parametrize("which", ["none", "T", "B", "H", "TBH"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_without_input_passes_the_gradient_check(cell, which):
    T, B, _, H = sizes_with_one(which)
    rng = np.random.default_rng(6)
    with use_backend("numpy", "float64"):
        layer = randomize(cell(0, H, rng), rng)
        state = tuple(rng.standard_normal((B, H)) for _ in layer.state_names)
    found = agree(Sample(layer, (np.empty((T, B, 0)), state)), cell.__name__)
    assert found["x"].shape == (T, B, 0), (
        f"dx without inputs: expected shape {(T, B, 0)}, got {found['x'].shape}: {SIZES}"
    )


@pytest.mark.parametrize("layer_count", [1, 2, 3])
@pytest.mark.parametrize("D", [0, 1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_of_size_one_or_without_input_passes_the_gradient_check(cell, D, layer_count):
    rng = np.random.default_rng(7)
    with use_backend("numpy", "float64"):
        stack = randomize(Stack(D, 1, layer_count, rng, cell=cell), rng)
        parts = len(stack.layers[0].state_names)
        state = tuple(tuple(rng.standard_normal((parts, 1, 1))) for _ in range(layer_count))
        (y, final), _ = stack.forward(np.ones((1, 1, D)), state)
    assert y.shape == (1, 1, 1) and len(final) == layer_count, (
        f"stack of {layer_count}: expected y (1, 1, 1) and as many final states, got {y.shape} and "
        f"{len(final)}: {SIZES}"
    )
    agree(Sample(stack, (rng.standard_normal((2, 1, D)), state, None)), f"Stack of {cell.__name__}")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("feed_truth", [True, False, "mixed"])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("T", [1, 2])
def test_a_decoder_of_size_one_passes_the_gradient_check(cell, start, feed_truth, conditional, T):
    rng = np.random.default_rng(8)
    with use_backend("numpy", "float64"):
        decoder = randomize(Decoder(1, 1, 1, rng, conditional, start, cell=cell), rng)
        code = (tuple(rng.standard_normal((len(decoder.stack.layers[0].state_names), 1, 1))),)
    feed = rng.random((T, 1)) < 0.5 if feed_truth == "mixed" else feed_truth
    truth = rng.random((T, 1, 1)) if conditional and feed is not False else None
    of = f"Decoder of {cell.__name__}"
    found = agree(Sample(decoder, (code, T, truth, feed, None)), of)
    if T == 1 and start == "read":  # the first frame is read out of the code: no step is made
        moved = [name for name in found if name.startswith("stack.") and found[name].any()]
        remedy = "accumulate must add zeros where no step was made"
        assert not moved, f"without a step: expected gradients of 0, got others: {moved}: {remedy}"
        assert found["readout.W"].any(), "readout.W: expected a gradient, got zeros: mend Decoder"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("conditional", ["none", "both"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_size_one_passes_the_gradient_check(model, conditional, start):
    rng = np.random.default_rng(9)
    for T, feed in itertools.product((1, 2), (True, False)):
        with use_backend("numpy", "float64"):
            layer = randomize(model(1, 1, 1, rng, conditional, start), rng)
        needed = layer.predict is not None and layer.predict.conditional and feed
        past, future = rng.random((T, 1, 1)), rng.random((T, 1, 1)) if needed else None
        outputs, _ = layer.forward(past, future, T, feed)
        present = (layer.reconstruct, layer.predict)
        for decoder, logits in zip(present, outputs, strict=True):
            assert (logits is None) if decoder is None else logits.shape == (T, 1, 1)
        agree(Sample(layer, (past, future, T, feed, None)), model.__name__)


def test_an_encoder_of_size_one_passes_the_gradient_check():
    rng = np.random.default_rng(10)
    with use_backend("numpy", "float64"):
        encoder = randomize(Encoder(1, 1, 1, rng), rng)
    agree(Sample(encoder, (rng.random((1, 1, 1)), None)), "Encoder")


# ---------------------------------------------------------------- where weights start


@pytest.mark.parametrize("cell", CELLS)
def test_a_weak_recurrence_is_a_fifth_of_another_and_all_else_is_the_same(cell):
    H = 4
    strong, weak = (
        cell(3, H, np.random.default_rng(5), Init(weights, peephole_scale=0.1)).params()
        for weights in ("fan-in", "weak-recurrence")
    )
    recurrent = {"Wh": slice(None), "W": slice(-H, None)}  # of the slides' W the rows for h
    weaker = []
    for name, param in strong.items():
        before, after = param.value, weak[name].value
        fifth = before.copy()
        if name in recurrent:
            fifth[recurrent[name]] *= 0.2
        elif name not in ("Wx", "Wi") and before.ndim > 1:  # names of other weights are free
            fifth = np.where(after == before, before, 0.2 * before)
        remedy = "make recurrent weights by init.recurrent(rng, H, G), others by init.input_weight"
        assert_identical(after, fifth, f"{name} with weak-recurrence ", remedy)
        if (after != before).any():
            weaker.append(name)
    if not weaker and not set(strong) & set(recurrent):
        pytest.skip("this cell has no matrix of the state named Wh or W")
    assert weaker, (
        f"weak-recurrence: expected recurrent weights a fifth as large, got none in "
        f"{list(strong)}: make them by init.recurrent(rng, H, G)"
    )


# ---------------------------------------------------------------- one flat array


def test_all_parameters_are_views_into_one_array_and_all_gradients_into_another(sample):
    layer = sample.layer
    training_step(layer, sample.inputs)
    params = layer.params()
    before = {name: (p.value.copy(), p.grad.copy()) for name, p in params.items()}
    flat = layer.flat()
    remedy = "keep every parameter as an attribute, self.name = Param(...), once"
    assert (layer.flat() is flat or not params) and layer.params() == params, (
        f"expected the same parameters after flat(), got others than {list(params)}: {remedy}"
    )
    shapes = flat.value.shape, flat.grad.shape
    assert flat.value.ndim == 1 and shapes[0] == shapes[1], (
        f"flat arrays: expected one length of values and gradients, got {shapes}: {remedy}"
    )
    for name, param in params.items():
        of = f"{name} after flattening "
        assert_identical((param.value, param.grad), before[name], of, remedy)
    total = sum(param.value.size for param in params.values())
    assert flat.value.size == total, (
        f"flat array: expected the {total} numbers of {list(params)}, got {flat.value.size}: "
        f"{remedy}"
    )
    for places, kind in ((flat.value, "value"), (flat.grad, "grad")):
        places[:] = np.arange(len(places))
        seen = [getattr(param, kind).ravel() for param in params.values()]
        assert sorted(np.concatenate([*seen, []])) == list(range(len(places))), (
            f"{kind}: expected every number of the flat array in one parameter, got others: "
            f"{remedy}"
        )
        for name, param in params.items():
            getattr(param, kind)[...] = -1
            found, size = (places == -1).sum(), getattr(param, kind).size
            assert found == size, (
                f"{name}.{kind}: expected a view of {size} numbers of the flat array, got {found}: "
                f"{remedy}"
            )
            places[:] = np.arange(len(places))


def test_decayed_parameters_come_first_and_biases_last(sample):
    """A matrix is decayed. A vector whose name begins with b is a bias and is not.

    A vector of another name is as its Param says.
    """
    layer = sample.layer
    flat = layer.flat()
    flat.value[:] = np.arange(len(flat.value))
    for name, param in layer.params().items():
        if param.value.ndim > 1:
            assert param.decayed, (
                f"{name}, a matrix: expected weight decay (Param(..., decayed=True)), got none: "
                "make weights by init.weight, init.input_weight or init.recurrent"
            )
        elif name.split(".")[-1].startswith("b"):
            assert not param.decayed, (
                f"{name}, a bias by its name: expected no weight decay, got decayed=True: make "
                "biases by init.bias(K), or name a vector of weights without b at the start"
            )
        first = (param.value < flat.decayed).all()
        last = (param.value >= flat.decayed).all()
        assert first if param.decayed else last, (
            f"{name}: expected places {'before' if param.decayed else 'from'} {flat.decayed} on in "
            f"the flat array, got {param.value}: leave flat() to Layer"
        )


def test_flattening_changes_no_result_and_gradients_arrive_in_the_flat_array(sample):
    layer = sample.layer
    expected = copied(training_step(layer, sample.inputs))
    flat = layer.flat()
    got = training_step(layer, sample.inputs)
    remedy = "use self.name.value and .grad each time; keep no array of a parameter in self"
    assert_identical(got, expected, f"{name_of(layer)} after flat() ", remedy)
    total = sum(float(np.square(grad).sum()) for grad in expected[2].values())
    found = np.square(flat.grad).sum()
    assert np.isclose(found, total, rtol=1e-12), (
        f"squares of all gradients in the flat array: expected {total}, got {found}: {remedy}"
    )
    flat.grad.fill(0)
    left = [name for name, param in layer.params().items() if param.grad.any()]
    assert not left, f"expected gradients of 0 after fill(0), got others in {left}: {remedy}"


def test_another_dtype_makes_another_flat_array(sample):
    layer = sample.layer
    old = layer.flat()
    layer.astype("float32")
    flat = layer.flat()
    remedy = "keep every parameter as an attribute, self.name = Param(...), once"
    assert flat is not old, f"after astype: expected a new flat array, got the old one: {remedy}"
    if layer.params():
        assert flat.value.dtype == flat.grad.dtype == "float32", (
            f"after astype: expected float32, got {flat.value.dtype}, {flat.grad.dtype}: {remedy}"
        )
        for name, param in layer.params().items():
            assert np.shares_memory(param.value, flat.value) or not param.value.size, (
                f"{name}: expected a view of the flat array after astype, got a copy: {remedy}"
            )


def test_a_part_of_a_flat_model_and_a_model_of_flat_parts_are_refused():
    for first, second in (("whole", "part"), ("part", "whole")):
        decoder, _, _ = in_float64(Decoder)
        layer = {"whole": decoder, "part": decoder.stack}
        flat = layer[first].flat()
        with pytest.raises(ConfigError, match="call flat and astype on the whole model only"):
            layer[second].flat()
        assert layer[first].flat() is flat
    decoder.astype("float32")  # which makes all arrays anew
    assert decoder.flat().value.dtype == "float32"


def test_a_copy_of_a_flat_model_has_a_flat_array_of_its_own():
    decoder, _, _ = in_float64(Decoder)
    flat = decoder.flat()
    other = copy.deepcopy(decoder)
    assert not np.shares_memory(other.flat().value, flat.value)
    other.flat().value[...] = 7
    assert all((param.value == 7).all() for param in other.params().values())
    assert not (flat.value == 7).any() and decoder.flat() is flat


# ---------------------------------------------------------------- and each promise broken once


class Rogue(Layer, abstract=True):
    """y = 2 x w, and one promise broken."""

    def __init__(self):
        self.w = Param(np.ones(3))
        self.kept = []

    def forward(self, x, mask=None):
        return 2 * x * self.w.value, Cache(x=x)

    def backward(self, dy, cache):
        self.w.grad += (2 * cache.consume().x * dy).sum((0, 1))
        return 2 * dy * self.w.value, None


class Assigns(Rogue, abstract=True):
    def backward(self, dy, cache):
        self.w.grad[:] = (2 * cache.consume().x * dy).sum((0, 1))
        return 2 * dy * self.w.value, None


class ForgetsToConsume(Rogue, abstract=True):
    def backward(self, dy, cache):
        return super().backward(dy, Cache(**cache._values))


class KeepsInSelf(Rogue, abstract=True):
    def forward(self, x, mask=None):
        self.x = x
        return super().forward(x)

    def backward(self, dy, cache):
        cache.consume()
        return super().backward(dy, Cache(x=self.x))


class WritesInput(Rogue, abstract=True):
    def forward(self, x, mask=None):
        x *= 2
        return x * self.w.value, Cache(x=x / 2)


class WritesInputInBackward(Rogue, abstract=True):
    def backward(self, dy, cache):
        x = cache.consume().x
        x *= dy
        self.w.grad += 2 * x.sum((0, 1))
        return 2 * dy * self.w.value, None


class WritesDoutputs(Rogue, abstract=True):
    def backward(self, dy, cache):
        dy *= 2
        self.w.grad += (cache.consume().x * dy).sum((0, 1))
        return dy * self.w.value, None


class WritesOutputs(Rogue, abstract=True):
    def forward(self, x, mask=None):
        y = 2 * x * self.w.value
        return y, Cache(x=x, y=y)

    def backward(self, dy, cache):
        cache._values.pop("y").fill(0)
        return super().backward(dy, cache)


class HandsBackDoutputs(Rogue, abstract=True):
    def backward(self, dy, cache):
        super().backward(dy, cache)
        return dy, None


class HiddenFloat64(Rogue, abstract=True):
    def forward(self, x, mask=None):
        return (2.0 * x * self.w.value), Cache(x=x.astype("float64"))


class ReadsBeforeWriting(Rogue, abstract=True):
    def forward(self, x, mask=None):
        y = empty(x.shape, x.dtype)
        y *= 0
        y += 2 * x * self.w.value
        return y, Cache(x=x)


class Hoards(Rogue, abstract=True):
    def forward(self, x, mask=None):
        self.kept.append(empty(x.shape, x.dtype))
        return super().forward(x)


class OwnBuffer(Rogue, abstract=True):
    def forward(self, x, mask=None):
        self.kept = self.kept or [np.empty_like(x)]
        return np.multiply(2 * x, self.w.value, out=self.kept[0]), Cache(x=x)


class OneEntryTooFew(Rogue, abstract=True):
    def backward(self, dy, cache):
        return super().backward(dy, cache)[:1]


class FlatGradient(Rogue, abstract=True):
    def backward(self, dy, cache):
        dx, _ = super().backward(dy, cache)
        return dx.reshape(-1), None


class MasksAnything(Rogue, abstract=True):
    def forward(self, x, mask=None):
        y, cache = super().forward(x)
        return y * np.resize(mask, y.shape), cache


class WantsMore(Rogue, abstract=True):
    def backward(self, dy, cache, want_dx=True):
        if not want_dx:
            self.w.grad += 1
        dx, _ = super().backward(dy, cache)
        return dx if want_dx else None, None


class OwnCopyOfTheWeights(Rogue, abstract=True):
    def params(self, prefix=""):
        return {name: copy.copy(p) for name, p in super().params(prefix).items()}


class DecayedBias(Rogue, abstract=True):
    def __init__(self):
        super().__init__()
        self.b = Param(np.ones(3), decayed=True)


@pytest.mark.parametrize(
    ("rogue", "promise"),
    [
        (Assigns, test_gradients_accumulate_over_two_forward_passes),
        (ForgetsToConsume, test_a_cache_serves_one_backward_pass_only),
        (KeepsInSelf, test_two_live_caches_of_one_layer_do_not_disturb_each_other),
        (OwnBuffer, test_two_live_caches_of_one_layer_do_not_disturb_each_other),
        (WritesInput, test_inputs_doutputs_and_parameters_survive_forward_and_backward_unchanged),
        (
            WritesInputInBackward,
            test_inputs_doutputs_and_parameters_survive_forward_and_backward_unchanged,
        ),
        (
            WritesDoutputs,
            test_inputs_doutputs_and_parameters_survive_forward_and_backward_unchanged,
        ),
        (WritesOutputs, test_outputs_survive_backward_unchanged),
        (HandsBackDoutputs, test_gradients_are_not_memory_of_the_inputs_or_of_the_doutputs),
        (HiddenFloat64, test_the_dtype_is_kept_by_outputs_gradients_caches_and_buffers),
        (ReadsBeforeWriting, test_reused_poisoned_buffers_change_no_bit_of_any_step),
        (Hoards, test_the_pool_allocates_nothing_after_the_first_training_step),
        (OwnBuffer, test_what_a_user_keeps_is_his),
        (OneEntryTooFew, test_backward_returns_one_entry_per_input_in_the_shape_of_the_input),
        (FlatGradient, test_backward_returns_one_entry_per_input_in_the_shape_of_the_input),
        (Rogue, test_an_input_of_another_width_or_rank_is_refused_in_one_line),
        (Rogue, test_an_input_of_another_dtype_is_refused_in_one_line),
        (MasksAnything, test_an_input_of_another_batch_size_is_refused_in_one_line),
        (MasksAnything, test_an_input_of_another_length_is_refused_in_one_line),
        (WantsMore, test_a_gradient_that_is_not_wanted_changes_no_other_gradient),
        (
            OwnCopyOfTheWeights,
            test_all_parameters_are_views_into_one_array_and_all_gradients_into_another,
        ),
        (DecayedBias, test_decayed_parameters_come_first_and_biases_last),
    ],
)
def test_a_broken_promise_is_noticed(rogue, promise):
    with use_backend("numpy", "float64"):
        rng = np.random.default_rng(11)
        sample = Sample(rogue(), (rng.standard_normal((4, 2, 3)), rng.random((4, 2, 3)) < 0.5))
    others = {"workspace": Fresh, "first": "A", "dtype": "float32"}
    wanted = inspect.signature(promise).parameters
    others = {name: value for name, value in others.items() if name in wanted}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        promise(sample, **others)


def test_the_unbroken_promises_are_kept_by_the_layer_that_the_rogues_spoil():
    rng = np.random.default_rng(12)
    with use_backend("numpy", "float64"):
        sample = Sample(Rogue(), (rng.standard_normal((4, 2, 3)), rng.random((4, 2, 3)) < 0.5))
    for promise in (
        test_gradients_accumulate_over_two_forward_passes,
        test_a_cache_serves_one_backward_pass_only,
        test_inputs_doutputs_and_parameters_survive_forward_and_backward_unchanged,
        test_outputs_survive_backward_unchanged,
        test_gradients_are_not_memory_of_the_inputs_or_of_the_doutputs,
        test_reused_poisoned_buffers_change_no_bit_of_any_step,
        test_the_pool_allocates_nothing_after_the_first_training_step,
        test_what_a_user_keeps_is_his,
        test_backward_returns_one_entry_per_input_in_the_shape_of_the_input,
        test_all_parameters_are_views_into_one_array_and_all_gradients_into_another,
        test_decayed_parameters_come_first_and_biases_last,
    ):
        promise(sample)
    test_the_dtype_is_kept_by_outputs_gradients_caches_and_buffers(sample, "float32")
