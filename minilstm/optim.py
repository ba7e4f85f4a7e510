"""The rules that turn a gradient into an update: SGD with momentum, RMSProp and Adam.

The slides say only "train". The authors released their code twice: the release of 2015 uses
`RMSProp`, the release of 2016 `SGD`. Neither uses `Adam`. Also here: `clip_norm`, which bounds the
GRADIENT before the rule uses it, and the schedules of the learning rate.

    optimizer = Adam(model.flat(), l2=1e-4)
    rate = schedule("cosine", 1e-3, steps=20_000, warmup_steps=500)
    norm = clip_norm(model.flat().grad, 5.0)
    optimizer.step(rate(optimizer.steps))

All parameters of a model are views into one flat array (layer.py), so an update is one pass over
three or four long arrays. On a CPU the pass takes these arrays in chunks that fit into the
processor's cache. Every operation writes into a buffer that already exists. In the equations `w`
are the weights and `dw` is their gradient.

Read next: config/schema.py for the values that these rules get, training/step.py for their use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .backend import current_backend, xp
from .errors import ConfigError
from .gpu import products
from .gpu.optimizers import OnDevice
from .layers.layer import Flat, expect

CHUNK_ELEMENTS = 131_072  # the six arrays of Adam's pass fill 3 MB in float32, inside the cache
FLUSH_EVERY = 8  # updates of Adam; every such update rounds small numbers of its state to 0


class Optimizer:
    """The base of the rules: state, chunks, L2, and the bound on the update.

    `flat` is `model.flat()`, whose `flat.value` is updated in place. L2 adds `l2 * w` to the
    gradient of the first `flat.decayed` elements (weights and peepholes) and leaves the rest
    (biases) alone. `clamp_update` > 0 bounds every element of the update by +-clamp_update. In SGD
    and RMSProp the update is the velocity, so the velocity is bounded. Both releases do this, under
    the name `gradient_clip`. `clip_norm` is different: it scales the gradient. `state` (arrays by
    name, of the shape and dtype of `flat.value`) and `steps` (updates so far) are all that a
    checkpoint needs. `chunk` changes the speed, never the result.

    `unusable` counts the steps in a row whose loss or gradient was not finite. After more than
    `patience` such steps there are no more updates. A GPU may be many steps ahead when the host
    reads a loss that is not finite. The weights are then still those of the last good step.
    """

    patience = math.inf

    starts: dict[str, float] = {}  # the rule's state arrays and the number each is filled with
    scratch = 1  # buffers of one chunk that the rule works in

    def __init__(
        self, flat: Flat, *, l2: float = 0.0, clamp_update: float = 0.0, chunk: int = CHUNK_ELEMENTS
    ):
        if not isinstance(flat, Flat):
            raise ConfigError(f"expected model.flat(), got {type(flat).__name__}: call flat first")
        _expect_at_least(0, l2=l2, clamp_update=clamp_update)
        self.flat = flat
        self.l2 = l2
        self.clamp_update = clamp_update
        self.state = {name: xp.full_like(flat.value, x) for name, x in self.starts.items()}
        self._on_device = OnDevice(flat) if current_backend().name == "cupy" else None
        # of `steps` and `unusable`
        self._counts = self._on_device.counts if self._on_device else [0, 0]
        regions = (0, flat.decayed, l2), (flat.decayed, flat.value.size, 0.0)
        self._chunks = [
            (slice(first, min(first + chunk, stop)), share)
            for start, stop, share in regions
            for first in range(start, stop, chunk)
        ]
        size = 0 if self._on_device else min(chunk, flat.value.size)
        self._scratch = [xp.empty(size, flat.value.dtype) for _ in range(self.scratch)]
        # Where the gradient is 0 the state only decays. It would become a subnormal number, and
        # rounding would never make it 0. Subnormal numbers are those so close to 0 that many CPUs
        # compute with them far more slowly. `x + c - c` rounds x to a multiple of q = c*eps/2
        # (5e-32 in float32). A multiple of q is 0 or far larger than the subnormal numbers. An x
        # above 1e-24 changes by at most 1 ulp (unit in the last place).
        limits = xp.finfo(flat.value.dtype)
        self._c = float(limits.tiny) / float(limits.eps) ** 2

    def __reduce__(self):  # of copy and pickle
        raise ConfigError(
            "expected no copy of an optimizer, got one, which would not update the copied model: "
            "make one for the new model's flat(), copy the arrays of `state`, and set `steps`"
        )

    @property
    def steps(self):
        """The number of updates so far: an int, or with CuPy a 0-d array on the device."""
        return self._counts[0]

    @steps.setter
    def steps(self, number):
        self._counts[0] = number

    @property
    def unusable(self):
        """The number of steps in a row that were not finite. Of the same type as `steps`."""
        return self._counts[1]

    @unusable.setter
    def unusable(self, number):
        self._counts[1] = number

    def gradient_norms(self):
        """Return the norm of the whole gradient, and of each parameter's (P,) in order of `params`.

        They have the gradient's dtype. If a sum of squares overflows on a CPU, the norm is inf.
        """
        if self._on_device:
            norms = self._on_device.norms()
            return norms[0], norms[1:]
        squares = xp.empty(len(self.flat.parts), self.flat.grad.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for k, (start, stop) in enumerate(self.flat.parts):
                dw = self.flat.grad[start:stop]
                xp.dot(dw, dw, out=squares[k, ...])  # [k, ...] gives a 0-d array, as `out` needs
            norms = xp.sqrt(squares, out=squares)
            return xp.sqrt(xp.dot(norms, norms)), norms

    def step(self, learning_rate, finite=True, scale=None) -> None:
        """Update `flat.value` in place by the gradient `scale * flat.grad`, if that is `finite`.

        On a device the three arguments may be 0-d arrays of float64, bool and the gradient's dtype.
        The device then decides, and the host does not wait (gpu/optimizers.py). On a CPU
        `flat.grad` itself is scaled; without a `scale` it is only read. Raises ConfigError if the
        model got other arrays.
        """
        if self.flat.replaced:
            raise ConfigError(
                "expected the model's arrays, got its old ones, from before astype: make a new "
                "optimizer for model.flat()"
            )
        if self._on_device:
            self._on_device.step(
                type(self).__name__.lower(), learning_rate, finite, scale,
                patience=self.patience, l2=self.l2, clamp=self.clamp_update, c=self._c,
                decays=self._corrections(), numbers=self._numbers(), state=self.state.values(),
            )  # fmt: skip
            return
        usable = bool(finite) and self.unusable <= self.patience
        self.unusable = 0 if usable else self.unusable + 1
        if not usable:
            return
        self.steps += 1
        learning_rate = float(learning_rate)  # a NumPy float64 would turn float32 into float64
        for part, l2 in self._chunks:
            w, dw = self.flat.value[part], self.flat.grad[part]
            state = [array[part] for array in self.state.values()]
            scratch = [array[: w.size] for array in self._scratch]
            if scale is not None:
                xp.multiply(dw, scale, out=dw)
            g = self._with_l2(w, dw, l2, scratch[0])
            self._update(w, g, learning_rate, *state, *scratch)

    def _update(self, w, g, learning_rate, *state_and_scratch):
        raise NotImplementedError  # every rule defines its own; g may be the first scratch array

    def _numbers(self):
        """Return the settings of the rule, in the order of its kernel in gpu/optimizers.cuh."""
        raise NotImplementedError  # every rule defines its own

    def _corrections(self):
        """Return the momentum and decay for Adam's corrections; (0, 0) for the other rules."""
        return 0.0, 0.0

    def _with_l2(self, w, dw, l2, a):
        """g = dw + l2 w"""
        if l2 == 0:
            return dw
        xp.multiply(w, l2, out=a)
        return xp.add(a, dw, out=a)

    def _bound(self, update):
        """update = min(max(update, -clamp_update), clamp_update), without subnormal numbers.

        The weights need no flush of their own. A weight above 1e-24 is a multiple of q, and so is
        the update. Their sum is then a multiple of q too, and never a subnormal number.
        """
        if self.clamp_update > 0:
            xp.clip(update, -self.clamp_update, self.clamp_update, out=update)
        self._flush(update)

    def _flush(self, x):
        xp.add(x, self._c, out=x)
        xp.subtract(x, self._c, out=x)


class SGD(Optimizer):
    """Gradient descent with momentum, as in the release of 2016.

        g = dw + l2 w
        v = momentum v - learning_rate g
        v = clamp(v)
        w = w + v

    State: `velocity` v. Source: github2016, which clamps v itself, so the momentum too is bounded.
    """

    starts = {"velocity": 0.0}

    def __init__(self, flat: Flat, *, momentum: float = 0.9, **keywords):
        super().__init__(flat, **keywords)
        _expect_share(momentum=momentum)
        self.momentum = momentum

    def _numbers(self):
        return (self.momentum,)

    def _update(self, w, g, learning_rate, v, a):
        xp.multiply(g, learning_rate, out=a)
        xp.multiply(v, self.momentum, out=v)
        xp.subtract(v, a, out=v)
        self._bound(v)
        xp.add(w, v, out=w)


class RMSProp(Optimizer):
    """Gradient descent with momentum on gradients divided by their running root mean square.

        g = dw + l2 w
        s = decay s + (1 - decay) g^2
        v = momentum v - learning_rate g / (sqrt(s) + epsilon)
        v = clamp(v)
        w = w + v

    State: `velocity` v, `mean_square` s. s starts at 1, so the first steps are small and need no
    correction. Source: toronto2015, which has no epsilon. There s can be rounded to 0 where the
    gradient stays 0, and 0 / 0 is NaN. Here s never decays below a few q (see `Optimizer`), so the
    result is finite even with epsilon = 0 (for a decay above 0.5).
    """

    starts = {"velocity": 0.0, "mean_square": 1.0}
    scratch = 2

    def __init__(
        self,
        flat: Flat,
        *,
        momentum: float = 0.9,
        decay: float = 0.95,
        epsilon: float = 1e-8,
        **keywords,
    ):
        super().__init__(flat, **keywords)
        _expect_share(momentum=momentum, decay=decay)
        _expect_at_least(0, epsilon=epsilon)
        if decay <= 0.5 and not flat.value.dtype.type(epsilon) > 0:
            raise ConfigError(
                "expected epsilon > 0 after rounding, for rmsprop with a decay up to 0.5, got "
                f"{epsilon}: set --epsilon, such as 1e-8"
            )
        self.momentum, self.decay, self.epsilon = momentum, decay, epsilon

    def _numbers(self):
        return self.momentum, self.decay, 1 - self.decay, self.epsilon

    def _update(self, w, g, learning_rate, v, s, a, b):
        xp.multiply(g, g, out=b)
        xp.multiply(b, 1 - self.decay, out=b)
        xp.multiply(s, self.decay, out=s)
        xp.add(s, b, out=s)
        self._flush(s)
        xp.sqrt(s, out=b)
        xp.add(b, self.epsilon, out=b)
        xp.divide(g, b, out=a)
        xp.multiply(a, learning_rate, out=a)
        xp.multiply(v, self.momentum, out=v)
        xp.subtract(v, a, out=v)
        self._bound(v)
        xp.add(w, v, out=w)


class Adam(Optimizer):
    """Running mean over running root mean square, both corrected for their start at zero.

        g = dw + l2 w
        m = momentum m + (1 - momentum) g
        s = decay s + (1 - decay) g^2
        u = -learning_rate / (1 - momentum^steps) m / (sqrt(s / (1 - decay^steps)) + epsilon)
        u = clamp(u)
        w = w + u

    Every FLUSH_EVERY-th update rounds small elements of m and s to 0. All other elements are so
    large that they can't decay to subnormal numbers before the next rounding (for momentum and
    decay of 0.12 or more).

    State: `mean` m, `mean_square` s. `momentum` and `decay` are the beta1 and beta2 of Kingma and
    Ba 2015 (arXiv 1412.6980). L2 is part of the gradient here, as in the other rules.
    """

    starts = {"mean": 0.0, "mean_square": 0.0}
    scratch = 2

    def __init__(
        self,
        flat: Flat,
        *,
        momentum: float = 0.9,
        decay: float = 0.999,
        epsilon: float = 1e-8,
        **keywords,
    ):
        super().__init__(flat, **keywords)
        _expect_share(momentum=momentum, decay=decay)
        if not flat.value.dtype.type(epsilon) > 0:  # 1e-50 is 0 in float32
            raise ConfigError(
                "expected epsilon > 0 after rounding, for adam, where 0 / 0 is NaN, got "
                f"{epsilon}: set --epsilon, such as 1e-8"
            )
        self.momentum, self.decay, self.epsilon = momentum, decay, epsilon

    def _numbers(self):
        return self.momentum, 1 - self.momentum, self.decay, 1 - self.decay, self.epsilon

    def _corrections(self):
        return self.momentum, self.decay

    def _update(self, w, g, learning_rate, m, s, a, b):
        xp.multiply(g, g, out=b)
        xp.multiply(b, 1 - self.decay, out=b)
        xp.multiply(s, self.decay, out=s)
        xp.add(s, b, out=s)
        xp.multiply(g, 1 - self.momentum, out=a)
        xp.multiply(m, self.momentum, out=m)
        xp.add(m, a, out=m)
        if self.steps % FLUSH_EVERY == 0:
            self._flush(s)
            self._flush(m)
        # In the docstring sqrt(s) is divided by this. Here epsilon and the rate are multiplied by
        # it, which gives the same u and saves a pass over an array.
        correction = (1 - self.decay**self.steps) ** 0.5
        xp.sqrt(s, out=b)
        xp.add(b, correction * self.epsilon, out=b)
        xp.divide(m, b, out=a)
        xp.multiply(a, -learning_rate * correction / (1 - self.momentum**self.steps), out=a)
        self._bound(a)
        xp.add(w, a, out=w)


def clip_scale(norm, limit: float):
    """Return the factor that limits a gradient of this norm to `limit`: min(1, limit / norm).

    Returns None if there is no limit: 0, inf, or more than a norm of this dtype can be. The factor
    is 0 for a norm of inf, and NaN for NaN. Raises ConfigError for a negative limit. Source:
    Pascanu, Mikolov and Bengio 2013 (arXiv 1211.5063). See Optimizer for `clamp_update`, which
    bounds the update.
    """
    _expect_at_least(0, limit=limit)
    if limit == 0 or limit > np.finfo(getattr(norm, "dtype", float)).max:
        return None
    return float(limit) / xp.maximum(norm, float(limit))


def clip_norm(grad, limit: float):
    """Scale `grad` (any 1-d array) in place so that its norm is at most `limit`; return the norm.

        norm = sqrt(sum grad^2)
        grad = grad min(1, limit / norm)

    The norm is the one before scaling, as a 0-d array. The host does not wait for it. If the sum of
    squares overflows, the norm is inf and `grad` becomes zero. NaN stays NaN. There is no warning:
    pass `finite` to `Optimizer.step`. Raises ShapeError for an array of several axes, ConfigError
    for a negative limit.
    """
    expect("grad", grad, ("N",), grad.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        square = products.dot(grad, grad) if products.wanted(grad.dtype) else xp.dot(grad, grad)
        norm = xp.sqrt(square)
        scale = clip_scale(norm, limit)
        if scale is not None:
            xp.multiply(grad, scale, out=grad)
    return norm


def constant(step: int, learning_rate: float) -> float:
    """Return the learning rate itself."""
    return learning_rate


def exponential(
    step: int, learning_rate: float, decay_factor: float = 0.9, decay_every: int = 10_000
) -> float:
    """Multiply the rate by `decay_factor` after every `decay_every` steps: a staircase.

    Both releases compute the decayed rate but then use the undecayed one. Here the decayed rate is
    used.
    """
    return learning_rate * decay_factor ** (step // decay_every)


def cosine(step: int, learning_rate: float, steps: int, floor: float = 0.0) -> float:
    """Return half a cosine: from the rate to `floor` times the rate at `steps`, then constant."""
    share = 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))
    return learning_rate * (floor + (1.0 - floor) * share)


def warmup(step: int, warmup_steps: int) -> float:
    """Return a factor that rises linearly and reaches 1 with update number `warmup_steps`."""
    return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0


def schedule(
    kind: str,
    learning_rate: float,
    *,
    steps: int = 10_000,
    floor: float = 0.0,
    decay_factor: float = 0.9,
    decay_every: int = 10_000,
    warmup_steps: int = 0,
) -> Callable[[int], float]:
    """Return the learning rate as a function of the step number, from 0: warmup times `kind`.

    `kind` is "constant", "exponential" or "cosine". The horizon `steps` belongs to the schedule,
    not to the run: a run stopped early or resumed sees the same rates. Raises ConfigError for
    another kind, and for lengths that are too short.
    """
    if kind == "cosine":
        _expect_at_least(1, steps=steps)
    if kind == "exponential":
        _expect_at_least(1, decay_every=decay_every)
    _expect_at_least(0, warmup_steps=warmup_steps)
    curves = {
        "constant": lambda step: constant(step, learning_rate),
        "exponential": lambda step: exponential(step, learning_rate, decay_factor, decay_every),
        "cosine": lambda step: cosine(step, learning_rate, steps, floor),
    }
    if kind not in curves:
        raise ConfigError(f"expected one of {', '.join(curves)}, got {kind!r}: choose one")
    curve = curves[kind]
    return lambda step: curve(step) * warmup(step, warmup_steps)


def _expect_at_least(low, **numbers):
    for name, number in numbers.items():
        if number is None or not number >= low:
            raise ConfigError(f"expected {name} of {low} or more, got {number}: choose another")


def _expect_share(**numbers):
    for name, number in numbers.items():
        if number is None or not 0 <= number < 1:
            raise ConfigError(f"expected {name} in [0, 1), got {number}: choose another")
