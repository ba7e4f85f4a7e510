"""The gradient check: compare every backward pass with two independent derivatives.

The outputs of a layer, weighted by random numbers, sum to one number L. Its backward pass claims
dL/dv for every element v of every parameter and input. There are two other ways to compute it:

    central difference   [8 L(v+h) - 8 L(v-h) - L(v+2h) + L(v-2h)] / 12h    float64, h = 1e-4
    complex step         imaginary part of L(v + ih) / h                    h = 1e-30: exact to
                         rounding, because nothing is subtracted

The error of a gradient a against n is max|a - n| / max(max|a|, max|n|). For a sequence (T, B, D)
it is computed for each time step, and the largest counts. A gradient or a time step of it that is
zero everywhere is an error too, unless the sample declares that time step to be zero. The same
backward pass in float32 is compared with the one in float64.

Slides: "Neural Networks". Read next: tests/test_gradients.py.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from dataclasses import dataclass

import numpy as np

from .backend import asarray, current_backend, to_numpy, use_backend
from .errors import ConfigError, MinilstmError
from .layers.layer import Layer, Sample, expect_all_found

TOLERANCE = {"difference": 1e-6, "complex": 1e-12, "float32": 1e-4}


@dataclass(frozen=True)
class Comparison:
    """Errors of one gradient, that of the parameter or input `array` of a layer."""

    layer: str
    array: str
    size: int
    difference: float
    complex: float
    float32: float
    why: str = ""  # for a gradient that is zero or not a number

    @property
    def passed(self) -> bool:
        """True if every error is below its limit in TOLERANCE."""
        return all(getattr(self, name) < limit for name, limit in TOLERANCE.items())


def layer_classes() -> list[type[Layer]]:
    """Return every concrete Layer of the package, found by importing all its modules."""
    package = importlib.import_module("minilstm")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {
        cls
        for cls in _below(Layer)
        if not cls.is_abstract and cls.__module__.startswith("minilstm.")
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def _below(cls):
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _below(subclass)


def check(sample: Sample, name: str = "", seed: int = 0) -> list[Comparison]:
    """Return one Comparison for every parameter and differentiable input of a sample.

    A parameter whose gradient changes with want_dx=False has another row for that gradient. Raises
    ConfigError for what is no Sample(layer, inputs).
    """
    if not isinstance(sample, Sample) or not isinstance(sample.inputs, tuple | list):
        raise ConfigError(
            f"expected Sample(layer, (x, ...)), got {type(sample).__name__}: pass the layer and a "
            "tuple of all inputs of its forward"
        )
    layer = copy.deepcopy(sample.layer)  # its dtype will change
    inputs = _by_name(layer, sample.inputs)
    expect_all_found(layer)
    claimed, doutputs = analytic_gradients(layer, inputs, "float64", seed)
    in_training = _other_gradients_in_training(layer, inputs, claimed, seed)
    difference = {
        array: numeric_gradient(layer, inputs, array, doutputs, 1e-4) for array in claimed
    }
    complex_step = {
        array: numeric_gradient(layer, inputs, array, doutputs, 1e-30j) for array in claimed
    }
    float32, _ = analytic_gradients(
        layer, inputs, "float32", seed
    )  # last, because it rounds the weights
    layer_name = name or type(layer).__name__
    rows = []
    for array, a in claimed.items():
        others = difference[array], complex_step[array], float32[array]
        rows.append(_compare(layer_name, array, a, others, sample.zeros.get(array, ())))
    for array, a in in_training.items():
        others = difference[array], complex_step[array], float32[array]
        rows.append(_compare(layer_name, f"{array}, want_dx=False", a, others))
    return rows


def analytic_gradients(
    layer: Layer, inputs: dict, dtype: str, seed: int = 0, of_inputs: bool = True
) -> tuple[dict, list]:
    """Return all gradients by `backward`, by name, and the weights of the outputs.

    `seed` draws the weights. Without `of_inputs` the result has only the gradients of
    parameters, computed with want_dx=False where `backward` has this option. Raises MinilstmError
    if `backward` returns a gradient too many or too few.
    """
    layer.astype(dtype)
    layer.zero_grad()
    arguments = {name: cast_arrays(value, dtype) for name, value in inputs.items()}
    outputs, cache = layer.forward(*arguments.values())
    rng = np.random.default_rng(seed)
    doutputs = [rng.standard_normal(output.shape) for output in _leaves(outputs).values()]
    weights = iter(doutputs)
    doutputs_tree = map_arrays(lambda output: asarray(next(weights), dtype), outputs)
    options = {} if of_inputs else _without_inputs(layer)
    dinputs = layer.backward(doutputs_tree, cache, **options)
    if not of_inputs:
        return {name: to_numpy(param.grad) for name, param in layer.params().items()}, doutputs
    dinputs = dinputs if isinstance(dinputs, tuple) and len(inputs) > 1 else (dinputs,)
    found = {name: to_numpy(param.grad) for name, param in layer.params().items()}
    for (name, value), dvalue in zip(arguments.items(), dinputs, strict=True):
        wanted = {} if name in layer.constants else _leaves(value, name, kinds="fc")
        given = _leaves(dvalue, name)
        if wanted.keys() != given.keys():
            raise MinilstmError(
                f"expected gradients of {sorted(wanted)} from {type(layer).__name__}.backward, "
                f"got {sorted(given)}: return None only for inputs that have no gradient"
            )
        found |= {key: to_numpy(d) for key, d in given.items()}
    return found, doutputs


def _without_inputs(layer):
    """Return options of `backward` that leave out gradients of inputs, such as want_dx=False."""
    names = inspect.signature(layer.backward).parameters
    return {name: False for name in names if name.startswith("want_")}


def _other_gradients_in_training(layer, inputs, claimed, seed):
    """Return the gradients of parameters that change when `backward` gets want_dx=False.

    Training needs no gradient of its data. A correct layer gives an empty dict.
    """
    found, _ = analytic_gradients(layer, inputs, "float64", seed, of_inputs=False)
    return {
        name: d
        for name, d in found.items()
        if not np.allclose(d, claimed[name], rtol=1e-9, atol=1e-12, equal_nan=True)
    }


def numeric_gradient(layer: Layer, inputs: dict, array: str, doutputs: list, h: float | complex):
    """Return dL/dv for every element v of one array, by differences of step h.

    A complex h, such as 1e-30j, gives complex steps. `doutputs` are the weights of the outputs.
    """
    dtype = "complex128" if isinstance(h, complex) else "float64"
    layer.astype(dtype)
    arguments = {name: cast_arrays(value, dtype) for name, value in inputs.items()}
    places = {name: param.value for name, param in layer.params().items()}
    for name, value in arguments.items():
        places |= _leaves(value, name)
    flat = places[array].reshape(-1)
    derivative = np.empty(places[array].shape)

    def weighted_sum():
        outputs, _ = layer.forward(*arguments.values())
        outputs = _leaves(outputs).values()
        return sum((w * to_numpy(y)).sum() for w, y in zip(doutputs, outputs, strict=True))

    def at(k, offset):
        """Return the weighted sum with `offset` added to element k."""
        value = flat[k].copy()
        flat[k] = value + offset
        found = weighted_sum()
        flat[k] = value
        return found

    for k in range(flat.size):
        if isinstance(h, complex):
            slope = at(k, h).imag / h.imag
        else:
            slope = (8 * (at(k, h) - at(k, -h)) - (at(k, 2 * h) - at(k, -2 * h))) / (12 * h)
        derivative.reshape(-1)[k] = slope
    return derivative


def _compare(layer, array, a, others, zeros=()):
    """Compare a gradient `a` with those by differences, by complex steps, and in float32."""
    by_difference, by_complex, single = (error(a, n, zeros) for n in others)
    why = _why(a, others[0])
    return Comparison(layer, array, a.size, by_difference, by_complex, single, why)


def _why(a, n):
    """Say what is special about a gradient `a` by `backward` and `n` by differences, or nothing."""
    if not np.isfinite(n).all():
        return "forward gives NaN or inf"
    if not np.isfinite(a).all():
        return "backward gives NaN or inf"
    if a.size and not a.any():
        return "backward gives zeros" if n.any() else "this array has no effect on the outputs"
    return ""


def error(a: np.ndarray, n: np.ndarray, zero_slices: tuple[int, ...] = ()) -> float:
    """Return max|a-n| / max(max|a|, max|n|); for (T, B, D) arrays that of the worst time slice.

    It is infinite for a gradient that is zero and should not be, or should be zero and is not.
    """
    if a.ndim == 3:
        return max(_error(a[t], n[t], t in zero_slices) for t in range(len(a)))
    return _error(a, n, False)


def _error(a, n, must_be_zero):
    if a.size == 0:  # input weights of a decoder without input
        return 0.0
    largest = max(np.abs(a).max(), np.abs(n).max())
    if must_be_zero or largest == 0:
        return 0.0 if must_be_zero and largest == 0 else np.inf
    worst = np.abs(a - n).max() / largest
    return float(worst) if np.isfinite(worst) else np.inf


def check_samples(cls: type[Layer], seed: int = 0) -> list[Comparison]:
    """The rows of every sample of one layer class."""
    with use_backend(current_backend().name, "float64"):
        samples = cls.samples(np.random.default_rng(seed))
        return [
            row
            for variant, sample in samples.items()
            for row in check(sample, f"{cls.__name__} {variant}".strip(), seed)
        ]


def _by_name(layer, inputs):
    """Return all inputs of `forward` by name, defaults included."""
    bound = inspect.signature(layer.forward).bind(*inputs)
    bound.apply_defaults()
    return bound.arguments


def _leaves(tree, name="output", kinds="fciub"):
    """Return the arrays in nested tuples, by names such as state.0.1."""
    if isinstance(tree, (tuple, list)):
        found = {}
        for k, item in enumerate(tree):
            found |= _leaves(item, f"{name}.{k}", kinds)
        return found
    return {name: tree} if hasattr(tree, "ndim") and tree.dtype.kind in kinds else {}


def map_arrays(function, tree):
    """Apply `function` to every array in nested tuples. Other values stay as they are."""
    if isinstance(tree, (tuple, list)):
        return tuple(map_arrays(function, item) for item in tree)
    return function(tree) if hasattr(tree, "ndim") else tree


def cast_arrays(tree, dtype: str):
    """Copy arrays in nested tuples to the backend in use; floats become `dtype`."""

    def cast(array):
        return asarray(array, dtype if array.dtype.kind == "f" else array.dtype).copy()

    return map_arrays(cast, tree)
