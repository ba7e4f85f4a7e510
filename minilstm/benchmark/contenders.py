"""The work that the benchmark times, done by this package, PyTorch, JAX, or the bare products.

A contender is a function that takes a `Work` and returns two functions, `step` and `gradients`.
`step()` does the work once and returns its outputs. `gradients()` returns the gradients of the
parameters, by our names and in our layouts. So the benchmark can compare the numbers before it
compares the times. All contenders start from the same weights and inputs, drawn from one seed.

In minilstm/ only this file and gpu.py import autograd libraries, as a comparison. This package does
not use them to train. Read next: processes.py, which runs each contender in a process of its own.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np

from ..backend import xp
from ..config import Config, DataSettings, ModelSettings, RunSettings
from ..data import as_vectors
from ..layers.init import Blank
from ..layers.layer import Layer
from ..layers.lstm import LSTM, PeepholeLSTM
from ..layers.stack import Stack
from ..layers.workspace import Reused, use_workspace
from ..runs import build
from ..runs.torch_names import from_torch, to_torch
from ..training.step import Batch, training_step


class Work(NamedTuple):
    """One step to be timed: its kind and its sizes, in float32.

    standard    an LSTM layer without peepholes: forward, and backward with the input's gradient
    peephole    the same with the paper's LSTM layer, which has peepholes
    stack       the same with `layers` of the paper's LSTM layers
    composite   a training step of a composite model without peepholes, T frames in and T predicted:
                forward, losses, backward without the frames' gradient, optimizer. It learns moving
                digits, with D pixels a frame. Noise would not do: the units saturate within ten
                steps, and gradients become subnormal numbers, with which some CPUs are two to three
                times as slow
    """

    kind: str
    T: int
    B: int
    D: int
    H: int
    layers: int = 1


# ---------------------------------------------------------------- the same start for all


def blank(work: Work) -> Layer:
    """Return the layer or model with zeros for weights, in memory that was not yet written to."""
    if work.kind == "composite":
        return build.build_model(settings(work), work.D, Blank())
    rng = np.random.default_rng(0)  # for the peepholes, which `Blank` does not set
    if work.kind == "stack":
        return Stack(work.D, work.H, work.layers, rng, PeepholeLSTM, Blank())
    return {"standard": LSTM, "peephole": PeepholeLSTM}[work.kind](work.D, work.H, rng, Blank())


def settings(work: Work) -> Config:
    """Return the configuration of a composite step: defaults, except for sizes and the cell."""
    size = math.isqrt(work.D)
    return Config(
        data=DataSettings(
            past=work.T, future=work.T, frame_size=size, digit_size=max(1, size * 7 // 16)
        ),
        model=ModelSettings(kind="composite", cell="standard", hidden=work.H, layers=work.layers),
        run=RunSettings(batch_size=work.B),
    )


def start(work: Work) -> tuple[Layer, np.ndarray, np.ndarray]:
    """Return the layer with random weights, and x and dy (T, B, D or H).

    For a composite model return the model and moving digits, past and future (T, B, D). The model
    starts from their mean image.
    """
    rng = np.random.default_rng(0)
    layer: Any = blank(work)
    for param in layer.params().values():
        rows = max(1, len(param.value))
        param.value[...] = rng.standard_normal(param.value.shape, np.float32) / rows**0.5
    T, B, D, H = work.T, work.B, work.D, work.H
    if work.kind == "composite":
        frames = as_vectors(build.open_source(settings(work), "train").batch(0, B))
        build.start_readouts(layer, frames.mean(axis=(0, 1)))
        return layer, frames[:T], frames[T:]
    x, dy = (rng.standard_normal((T, B, size), np.float32) for size in (D, H))
    return layer, x, dy


# ---------------------------------------------------------------- the contenders


def ours(work: Work):
    """Prepare the step of this package, with reused buffers as in training."""
    layer, x, dy = start(work)
    workspace = Reused()

    def gradients():
        return {name: param.grad for name, param in layer.params().items()}

    def layer_step():
        layer.zero_grad()
        (y, _), cache = layer.forward(x)
        dx = layer.backward((dy, None), cache)[0]
        return {"y": y, "dx": dx}

    composite = work.kind == "composite"
    compute = _our_training_step(work, layer, x, dy) if composite else layer_step

    def step():
        with use_workspace(workspace):
            return compute()

    return step, gradients


def _our_training_step(work, model, past, future):
    config = settings(work)
    optimizer = build.build_optimizer(model, config)
    batch = Batch(past, future, True, None)
    rate = config.optimizer.learning_rate

    def step():
        now = training_step(model, optimizer, batch, config, rate)
        return {name: now[name] for name in ("reconstruction", "future", "gradient_norm")}

    return step


def products(work: Work):
    """Prepare the matrix products of our own step, and nothing else.

    They are recorded while a step runs, with their operands. So their number, order, shapes and
    memory layouts are those of the step. It returns None for `gradients`.
    """
    step, _ = ours(work)
    calls = recorded(step)

    def replay():
        for a, b, out in calls:
            np.matmul(a, b, out=out)

    return replay, None


def recorded(step) -> list[tuple]:
    """Run `step` and return the operands and result (a, b, out) of each of its matrix products."""
    matmul, calls = xp.matmul, []

    def recording(a, b, out=None):
        out = matmul(a, b, out=out)
        calls.append((a, b, out))
        return out

    vars(xp)["matmul"] = recording
    try:
        step()
    finally:
        vars(xp)["matmul"] = matmul
    return calls


def flop(calls: list[tuple]) -> int:
    """Return the number of multiplications and additions of recorded products."""
    return sum(2 * out.size * a.shape[-1] for a, _, out in calls)


def torch(work: Work):
    """Prepare the step of PyTorch: `nn.LSTM`, or a training step with PyTorch's Adam.

    `nn.LSTM` has no peepholes, so an LSTM with peepholes is a loop over time.
    """
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return {
        "standard": _torch_lstm, "peephole": _torch_loop, "composite": _torch_training_step
    }[work.kind](torch, work, *start(work))  # fmt: skip


def _torch_lstm(torch, work, layer, x, dy):
    module = _loaded(torch, torch.nn.LSTM(work.D, work.H), layer)
    x, dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step():
        module.zero_grad()
        x.grad = None
        y, _ = module(x)
        y.backward(dy)
        return {"y": y.detach().numpy(), "dx": x.grad.numpy()}

    return step, lambda: _by_our_names(work, module)


def _torch_loop(torch, work, layer, x, dy):
    p = {
        name: torch.from_numpy(param.value).requires_grad_()
        for name, param in layer.params().items()
    }
    x, dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
    Wx, Wh, b, Wp = (p[name] for name in ("Wx", "Wh", "b", "Wp"))

    def step():
        for tensor in (x, *p.values()):
            tensor.grad = None
        a = torch.addmm(b, x.flatten(0, 1), Wx).unflatten(0, x.shape[:2]).unbind(0)
        h = c = x.new_zeros((work.B, work.H))
        hs = []
        for t in range(work.T):
            i, f, g, o = torch.addmm(a[t], h, Wh).chunk(4, dim=-1)
            i, f = (torch.addcmul(z, Wp[k], c).sigmoid() for k, z in enumerate((i, f)))
            c = torch.addcmul(f * c, i, g.tanh())
            h = torch.addcmul(o, Wp[2], c).sigmoid() * c.tanh()
            hs.append(h)
        y = torch.stack(hs)
        y.backward(dy)
        return {"y": y.detach().numpy(), "dx": x.grad.numpy()}

    return step, lambda: {name: tensor.grad.numpy() for name, tensor in p.items()}


def torch_composite(torch, D, H, layers):
    """Return the composite model in PyTorch: module(past, nothing) -> both logits.

    past (T, B, D). `nothing` (T, B, 1) is zeros, the input of both decoders: see torch_names.py.
    """
    nn = torch.nn

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack, self.readout = nn.LSTM(1, H, layers), nn.Linear(H, D)

        def forward(self, nothing, code):
            return self.readout(self.stack(nothing, code)[0])

    class Composite(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.LSTM(D, H, layers)
            self.reconstruct, self.predict = Decoder(), Decoder()

        def forward(self, past, nothing):
            _, code = self.encoder(past)
            return self.reconstruct(nothing, code), self.predict(nothing, code)

    module = Composite()
    for name, p in module.named_parameters():
        p.requires_grad_("bias_hh" not in name)  # a second bias would get the same gradient again
    return module


def _torch_training_step(torch, work, model, past, future):
    config = settings(work)
    module = _loaded(torch, torch_composite(torch, work.D, work.H, work.layers), model)
    past, future = torch.from_numpy(past), torch.from_numpy(future)
    nothing = past.new_zeros(work.T, work.B, 1)
    o, frames = config.optimizer, work.T * work.B
    optimizer = torch.optim.Adam(
        module.parameters(),
        lr=o.learning_rate,
        betas=(o.momentum, o.mean_square_decay),
        eps=o.epsilon,
        fused=True,  # the fastest version
    )

    def step():
        optimizer.zero_grad()
        targets = past.flip(0), future
        losses = [
            torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / frames
            for z, y in zip(module(past, nothing), targets, strict=True)
        ]
        sum(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), o.clip_norm)
        optimizer.step()
        found = zip(("reconstruction", "future", "gradient_norm"), (*losses, norm), strict=True)
        return {name: value.item() for name, value in found}

    return step, lambda: _by_our_names(work, module)


def _loaded(torch, module, layer):
    state = {name: torch.from_numpy(array) for name, array in to_torch(layer).items()}
    module.load_state_dict(state)
    return module


def _by_our_names(work, module):
    arrays = {
        # the gradient of bias_hh is that of bias_ih, to which from_torch would add it
        name: np.zeros(p.shape, np.float32) if "bias_hh" in name else p.grad.numpy()
        for name, p in module.named_parameters()
    }
    twin = blank(work)
    from_torch(twin, arrays)
    return {name: param.value for name, param in twin.params().items()}


def jax(work: Work):
    """Prepare the step of JAX: a compiled `lax.scan`, with the input products outside the loop."""
    import jax
    import jax.numpy as jnp

    layer, x, dy = start(work)
    p = {name: jnp.asarray(param.value) for name, param in layer.params().items()}
    x, dy = jnp.asarray(x), jnp.asarray(dy)

    def unrolled(p, x):
        def cell(state, a):
            h, c = state
            i, f, g, o = jnp.split(a + h @ p["Wh"], 4, axis=-1)
            if "Wp" in p:
                i, f = i + p["Wp"][0] * c, f + p["Wp"][1] * c
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            if "Wp" in p:
                o = o + p["Wp"][2] * c
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((work.B, work.H), x.dtype)
        return jax.lax.scan(cell, (zeros, zeros), x @ p["Wx"] + p["b"])[1]

    @jax.jit
    def compiled(p, x, dy):
        y, backward = jax.vjp(unrolled, p, x)
        return y, backward(dy)

    def step():
        y, (_, dx) = jax.block_until_ready(compiled(p, x, dy))
        return {"y": y, "dx": dx}

    return step, lambda: compiled(p, x, dy)[1][0]


CONTENDERS = {"ours": ours, "products": products, "torch": torch, "jax": jax}
