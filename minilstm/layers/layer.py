"""The base of all layers: parameters, the rule for forward and backward, and a sample to check.

    outputs, cache = layer.forward(*inputs)
    dinputs        = layer.backward(doutputs, cache)

`backward` takes the gradients of the outputs and returns those of the inputs: one entry per input,
in order, and `None` for inputs without a gradient (masks, labels, targets, absent inputs). `None`
among the doutputs means that the loss does not depend on that output. Gradients of parameters
accumulate (`+=`) until `zero_grad`. Random numbers are inputs, so `forward` is a pure function.

A cache may hold the inputs and outputs themselves, without a copy. Do not change them, nor a
parameter, before `backward`. To change an output, or a state for the next call, copy it first.

Read next: cells.py (the mathematics), then linear.py, rnn.py, lstm.py, stack.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from ..backend import asarray, current_backend, xp
from ..errors import ConfigError, ShapeError, StaleCache


class Param:
    """A trainable array `value` and the gradient `grad` of the loss with respect to it.

    An array of the backend's dtype is used itself: pass a copy if yours must not be trained.

    decayed    True for weights, which L2 regularisation shrinks; False for biases
    flat       None, until `Layer.flat` was called. Then value and grad are views into its arrays.
               Fill them; to replace them raises ConfigError
    """

    flat: Flat | None = None

    def __init__(self, value: np.ndarray, decayed: bool = True):
        value = asarray(value)  # checkpoints and the gradient check need C order
        self.value = value if value.flags.c_contiguous else xp.ascontiguousarray(value)
        self.grad = xp.zeros(self.value.shape, self.value.dtype)
        self.decayed = decayed

    def __setattr__(self, name, item):
        if self.flat is not None and name in ("value", "grad") and item is not getattr(self, name):
            raise ConfigError(
                f"expected numbers written into param.{name}, which is a part of the model's flat "
                "array, got another array: write param.grad += array in a backward pass, or "
                "param.value[...] = array"
            )
        super().__setattr__(name, item)

    def __getstate__(self):  # a copy is not a view into the flat arrays
        return {name: item for name, item in vars(self).items() if name != "flat"}


class Cache:
    """Named values that a forward pass stores for its backward pass, to be used once.

    The backward pass may overwrite them to save memory.
    """

    def __init__(self, **values):
        self._values = values

    def consume(self) -> SimpleNamespace:
        """Return the values as attributes. Raises StaleCache if called twice."""
        if self._values is None:
            raise StaleCache(
                "expected a cache straight from forward, got one that backward has consumed: "
                "run forward again for every backward"
            )
        values, self._values = self._values, None
        return SimpleNamespace(**values)


@dataclass(eq=False)
class Flat:
    """All parameters of a model in one array of values and one of gradients, both (N,).

    L2 regularisation acts on the first `decayed` elements. `parts` has (start, stop) of each
    parameter, in the order of `Layer.params`. After `Layer.astype` the model has other arrays, and
    `replaced` is True.
    """

    value: np.ndarray
    grad: np.ndarray
    decayed: int
    parts: tuple[tuple[int, int], ...] = ()
    replaced: bool = False


@dataclass
class Sample:
    """A small instance of a layer with inputs, for the gradient check and tests/test_contracts.py.

    `zeros` names time slices of input gradients that are zero by the layer's definition, for
    example {"future": (T - 1,)}. Any other slice of zeros is an error.
    """

    layer: Layer
    inputs: tuple
    zeros: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Layer:
    """Base of all layers, losses and models.

    `params` finds attributes that are `Param`s, `Layer`s or tuples of layers, in the order of
    their definition. Layers may share a parameter. `constants` names floating-point inputs that
    have no gradient by definition.
    """

    constants: tuple[str, ...] = ()

    is_abstract = True  # False for a class that can be used; every such class has a sample

    def __init_subclass__(cls, abstract: bool = False, sample=None, variants=None, **kwargs):
        """Refuse a layer without a sample, so that every layer is checked.

            class Linear(Layer, sample=samples.linear):

        sample(cls, rng) returns one Sample, variants(cls, rng) a dict of them by name. They become
        the class methods `sample` and `samples`, which a class may also define itself. An abstract
        class may give a sample for all classes below it.
        """
        super().__init_subclass__(**kwargs)
        cls.is_abstract = abstract
        if sample is not None:
            cls.sample = classmethod(sample)
        if variants is not None:
            cls.samples = classmethod(variants)
        giver: type[Layer] = next(base for base in cls.__mro__ if "sample" in vars(base))
        if not abstract and giver is not cls and (giver is Layer or not giver.is_abstract):
            raise TypeError(f"{cls.__name__} must define sample(rng), so that it is checked")

    def forward(self, *inputs):
        """Return outputs, cache."""
        raise NotImplementedError  # every layer defines its own

    def backward(self, doutputs, cache):
        """Return one gradient per input; add to the gradients of the parameters."""
        raise NotImplementedError  # every layer defines its own

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Sample:
        """Return a small instance with inputs: T >= 3, all sizes different, nothing zero."""
        raise NotImplementedError  # every layer defines its own

    @classmethod
    def samples(cls, rng: np.random.Generator) -> dict[str, Sample]:
        """Return samples by name, one for each choice of options that runs different code."""
        return {"": cls.sample(rng)}

    def params(self, prefix: str = "") -> dict[str, Param]:
        """Return all parameters by readable names such as `encoder.0.Wx`.

        A parameter that several layers share is listed once, by its first name. Raises ConfigError
        for two parameters of one name.
        """
        found, seen = {}, set()
        for name, param in self._named_params(prefix):
            if param in seen:
                continue
            if name in found:
                raise ConfigError(
                    f"expected one parameter of each name, got two of the name {name}: keep all "
                    "layers in one tuple, or make an attribute for each"
                )
            found[name] = param
            seen.add(param)
        return found

    def _named_params(self, prefix=""):
        for name, item in vars(self).items():
            if isinstance(item, Param):
                yield prefix + name, item
            elif isinstance(item, Layer):
                yield from item._named_params(f"{prefix}{name}.")
            elif isinstance(item, tuple):
                for k, layer in enumerate(item):  # the layers of a stack are known by their number
                    if isinstance(layer, Layer):
                        yield from layer._named_params(f"{prefix}{k}.")

    @property
    def dtype(self):
        """Return the dtype of the parameters, which inputs must share.

        A layer without parameters has the dtype of the backend.
        """
        for _, param in self._named_params():
            return param.value.dtype  # the first is enough, because all have one dtype
        return np.dtype(current_backend().dtype)

    def flat(self) -> Flat:
        """Join all parameters in one array and all gradients in another; params become views.

        A parameter can be a view into one array only, so call this on the whole model and never on
        its parts as well. Raises ConfigError, also for parameters that `params` does not find, such
        as those of layers in a list.
        """
        params = list(self.params().values())
        flat = params[0].flat if params else None
        whole = flat is None or flat.value.size == sum(param.value.size for param in params)
        if not whole or any(param.flat is not flat for param in params):
            raise ConfigError(
                "expected all parameters of one flat array, or parameters of none, got others: "
                "call flat and astype on the whole model only, and make parameters in __init__"
            )
        if flat is None:
            expect_all_found(self, set(params))
            flat = _flatten(params)
        return flat

    def zero_grad(self) -> None:
        """Set all accumulated gradients to zero."""
        for param in self.params().values():
            param.grad.fill(0)

    def astype(self, dtype) -> Layer:
        """Convert all parameters to `dtype`, in place: float32, float64 or complex128.

        An optimizer must be made anew, with `flat`. The old one refuses to make a step.
        """
        for param in self.params().values():
            if param.flat is not None:
                param.flat.replaced = True
                param.flat = None
            value = param.value if np.dtype(dtype).kind == "c" else param.value.real
            param.value = value.astype(dtype)
            param.grad = xp.zeros_like(param.value)
        return self


def _flatten(named):
    params = sorted(named, key=lambda param: not param.decayed)  # stable: decayed ones first
    size = sum(param.value.size for param in params)
    dtype = params[0].value.dtype if params else current_backend().dtype
    value, grad = xp.empty(size, dtype), xp.empty(size, dtype)
    start, parts = 0, {}
    for param in params:
        stop = start + param.value.size
        value[start:stop] = param.value.ravel()
        grad[start:stop] = param.grad.ravel()
        param.value = value[start:stop].reshape(param.value.shape)
        param.grad = grad[start:stop].reshape(param.value.shape)
        parts[param] = start, stop
        start = stop
    decayed = sum(param.value.size for param in params if param.decayed)
    flat = Flat(value, grad, decayed, tuple(parts[param] for param in named))
    for param in params:
        param.flat = flat
    return flat


def expect_all_found(layer: Layer, found: set[Param] | None = None) -> None:
    """Raise ConfigError if a layer has parameters where `params` does not find them.

    Such places are lists, dicts and sets, and tuples that hold parameters themselves. `found` are
    the parameters of the whole model, by default those of `layer`.
    """
    found = set(layer.params().values()) if found is None else found
    for name, item in vars(layer).items():
        for part in [] if isinstance(item, Param) else _inside(item):
            params = part.params().values() if isinstance(part, Layer) else (part,)
            if any(param not in found for param in params):
                raise ConfigError(
                    "expected layers in a tuple, and each parameter in an attribute of its own, "
                    f"got a {type(item).__name__} {type(layer).__name__}.{name}, which would not "
                    "be trained: change it"
                )
            if isinstance(part, Layer):
                expect_all_found(part, found)


def _inside(item, outer=()):
    """Return all layers and parameters in nested containers. `outer` are those around `item`."""
    if isinstance(item, Layer | Param):
        return [item]
    if not isinstance(item, dict | tuple | list | set | frozenset) or id(item) in outer:
        return []
    parts = item.values() if isinstance(item, dict) else item
    return [found for part in parts for found in _inside(part, (*outer, id(item)))]


def expect(name: str, array, shape: tuple, dtype) -> None:
    """Raise ShapeError unless `array` has this shape and dtype.

    A letter in the shape matches any size. The dtype None allows every float and complex dtype.
    """
    fits = getattr(array, "ndim", None) == len(shape) and all(
        isinstance(want, str) or size == want for size, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(want) for want in shape)
        got = getattr(array, "shape", None) or type(array).__name__
        raise ShapeError(f"expected {name} of shape ({wanted}), got {got}: see its docstring")
    if dtype is None:
        if array.dtype.kind not in "fc":
            raise ShapeError(f"expected {name} of floats, got {array.dtype}: use asarray(array)")
    elif array.dtype != dtype:
        raise ShapeError(
            f"expected {name} of dtype {np.dtype(dtype)}, got {array.dtype}: "
            f'convert it with .astype("{np.dtype(dtype)}")'
        )


def expect_entries(name: str, entries: tuple | None, count: int) -> None:
    """Raise ShapeError unless `entries` is None, or a tuple or list of `count` entries."""
    if entries is None:
        return
    if not isinstance(entries, tuple | list):
        got = getattr(entries, "shape", type(entries).__name__)
        raise ShapeError(f"expected a tuple of {count} {name}, got {got}: see help(forward)")
    if len(entries) != count:
        raise ShapeError(f"expected {count} {name}, got {len(entries)}: see help(forward)")
