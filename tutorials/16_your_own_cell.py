# %% [markdown]
# # 16 · Write your own cell
#
# *Slides: "Cells", "Understand", "Compare", "Conclusion & Discussion".*
#
# * **You will do:** derive a GRU and its gradient on paper, write it as a class of 50 lines, check
#   it, break it, train it, and compare it with the paper's LSTM.
# * **You will learn:** what a recurrent cell must give the library, and how little that is; why a
#   comparison of cells needs equal numbers of parameters.
# * **You need:** tutorials 02, 04 and 05.
#
# ![a GRU: gates r, z and n, forward in blue, gradients in orange](images/16_gru.png)
#
# The picture shows one step of a GRU. It has one state, $h$, and no separate cell state. The gate
# $z$ mixes the old state with a candidate $n$ (new content). The gate $r$ decides how much of the
# old state the candidate sees.

# %%
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import kit
import numpy as np
import own_cells

import minilstm
from minilstm import gradcheck, train
from minilstm.backend import set_backend, use_backend, xp
from minilstm.errors import RunError
from minilstm.evaluation import judging
from minilstm.gradcheck import check
from minilstm.layers import cells
from minilstm.layers.init import PAPER_INIT
from minilstm.layers.linear import add_product, affine_dw, affine_dx
from minilstm.layers.rnn import Recurrent
from minilstm.layers.unrolled import Unrolled
from minilstm.promises import PromiseError, expect_promises
from minilstm.runs import build

set_backend("numpy", "float64")

# %% [markdown]
# ## 1. Derive
#
# The gated recurrent unit is from Cho et al. (2014). In the library's letters, vectors are rows:
#
# $$r = s(x W_x^r + h' W_h^r + b^r) \qquad z = s(x W_x^z + h' W_h^z + b^z)$$
# $$n = \tanh(x W_x^n + (r \odot h') W_h^n + b^n) \qquad h = (1 - z) \odot n + z \odot h'$$
#
# As in tutorial 05, $h'$ is the old state, and $s$ is the sigmoid, with slope $s(1-s)$. Each gate
# has its own weights.
#
# Now go back. Let $dh$ be the gradient of $h$, and $da_r, da_z, da_n$ those of the
# *pre-activations*, the sums inside the brackets. From the last equation:
#
# $$da_n = dh \odot (1 - z) \odot (1 - n^2) \qquad da_z = dh \odot (h' - n) \odot z (1 - z)$$
#
# The candidate $n$ saw $r \odot h'$, whose gradient is $da_n {W_h^n}^T$. It goes on to both
# factors:
#
# $$d(rh') = da_n {W_h^n}^T \qquad da_r = d(rh') \odot h' \odot r (1 - r)$$
#
# **Predict:** the state $h'$ enters the four equations in several places, and its gradient is the
# sum over all of them. How many terms does the sum have?
#
# It has four: $h = \dots + z \odot h'$, the product $r \odot h'$, and the sums inside $r$ and $z$:
#
# $$dh' = dh \odot z + d(rh') \odot r + da_r {W_h^r}^T + da_z {W_h^z}^T$$
#
# ## 2. Write
#
# The class [rnn.py](../minilstm/layers/rnn.py) `Recurrent` contains the loop over time and all that
# cells share. Its docstring lists what a cell must define: `num_gates`, `step` and `step_backward`.
# The product $x W_x + b$ of all steps is made before the loop, and the weights' gradients after it.
#
# A GRU needs two more methods, because its third product is with $r \odot h'$ and not with $h'$:
# `begin` makes room for $r \odot h'$ of every step, and `accumulate` uses it for the gradient of
# $W_h^n$.
#
# `run` holds the arrays of all time steps, and `UnrolledGRU` adds `rh` to them. `run.a[t]` is used
# again: it first holds the pre-activations, then $r$, $z$ and $n$, and in the backward pass their
# gradients $da$.


# %%
@dataclass
class UnrolledGRU(Unrolled):
    """The arrays of a GRU over T time steps."""

    rh: np.ndarray | None = None  # (T, B, H) r * h_prev


class GRU(Recurrent):
    """The gated recurrent unit. Wx (D, 3H), Wh (H, 3H), b (3H,), in the order r z n."""

    num_gates = 3
    gate_ranges = {"r": (0, 1), "z": (0, 1), "n": (-1, 1)}  # for minilstm.visualize
    unrolled = UnrolledGRU

    def __init__(self, D, H, rng, init=PAPER_INIT):
        self.D, self.H = D, H
        self.Wx = init.input_weight(rng, D, 3 * H)
        self.Wh = init.recurrent(rng, H, 3)
        self.b = init.bias(3 * H)
        self.b.value[H : 2 * H] = init.forget_bias  # z keeps h_prev, as f of an LSTM keeps c_prev

    def begin(self, x, state):
        run = super().begin(x, state)
        run.rh = run.array(self.H)
        return run

    def step(self, run, t):
        H, Wh, h_prev = self.H, self.Wh.value, run.h[t]
        a_rz, a_n = run.a[t, :, : 2 * H], run.a[t, :, 2 * H :]  # x Wx + b is there already
        add_product(h_prev, Wh[:, : 2 * H], out=a_rz)
        rz = cells.sigmoid(a_rz, out=a_rz)
        r, z = rz[:, :H], rz[:, H:]
        run.rh[t] = r * h_prev
        add_product(run.rh[t], Wh[:, 2 * H :], out=a_n)
        n = xp.tanh(a_n, out=a_n)
        run.h[t + 1] = (1 - z) * n + z * h_prev  # run.a[t] keeps r, z and n for the way back

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


kit.save_diagram("gru", "16_gru")

# %% [markdown]
# `xp` is NumPy or CuPy, whichever is in use, so the same class runs on a GPU. `add_product(a, W,
# out)` is `out += a @ W`, `affine_dx(da, W)` is `da @ W.T`, and `affine_dw` adds the gradients of a
# weight and a bias: all are in [linear.py](../minilstm/layers/linear.py).
#
# If a cell lacks something, Python says so when it reads the class:

# %%
try:

    class Unfinished(Recurrent):
        """A cell without a way back."""

        num_gates = 1

        def step(self, run, t):
            run.h[t + 1] = xp.tanh(run.a[t])

except TypeError as error:
    print("TypeError:", error)
    assert "step_backward" in str(error)

# %% [markdown]
# ## 3. Check
#
# `GRU.sample` is inherited from `Recurrent`. It returns a small GRU with random weights and inputs.
# `check` compares each gradient with finite differences and with complex steps.

# %%
rows = check(GRU.sample(np.random.default_rng(0)))
for row in rows:
    print(
        f"{row.array:<8} finite differences {row.difference:.0e}   complex step {row.complex:.0e}"
    )
assert all(row.passed for row in rows)

# %% [markdown]
# If rows are wrong, those that are right say where to look. Only `Wh` is wrong: look at
# `accumulate`. `Wx`, `b` and `x` are wrong too: look at $da$ in `step_backward`. To tell a wrong
# $da$ from a wrong $dh'$, check a sample of one time step. There a wrong $dh'$ makes only the row
# of the start state wrong.
#
# ## Break it on purpose
#
# The sum for $dh'$ has four terms. Forget one: the path through $r \odot h'$.
#
# **Predict:** one term of $dh'$ is missing. Which gradients become wrong: those of $W_x$, $W_h$,
# $b$, the input $x$, the start state? Would training fail, so that you would notice?


# %%
class Forgetful(GRU):
    """A GRU whose backward pass lacks the term d(rh') r."""

    def step_backward(self, run, t, dy):
        r, z, n = (part.copy() for part in np.split(run.a[t], 3, axis=1))
        da_n = (run.dh + (0 if dy is None else dy)) * (1 - z) * (1 - n * n)
        super().step_backward(run, t, dy)
        run.dh -= affine_dx(da_n, self.Wh.value[:, 2 * self.H :]) * r


wrong = [row.array for row in check(Forgetful.sample(np.random.default_rng(0))) if not row.passed]
print("gradients that the check finds wrong:", *wrong)
assert set(wrong) == {"Wx", "Wh", "b", "x", "state.0"}

# %% [markdown]
# All are wrong, since every step before the last one receives its gradient from $dh'$. Training
# would probably not fail: the gradient still points roughly the right way, as in tutorial 02. You
# would not notice without the check.
#
# ## 4. Train
#
# To train the cell, put the class with its imports into a file. The file
# [own_cells.py](own_cells.py) is such a file, and contains the same GRU. Every command can read it:
#
# ```sh
# python -m minilstm.gradcheck tutorials/own_cells.py:GRU
# python -m pytest tests/test_contracts.py --cell tutorials/own_cells.py:GRU
# python -m minilstm.train --cell tutorials/own_cells.py:GRU --out runs/gru
# python -m minilstm.evaluate runs/gru
# python -m minilstm.visualize runs/gru
# ```
#
# Gradients are not all that a cell must get right. So `gradcheck` and `train` first try what the
# docstring of `Recurrent` says: a cell changes no input, keeps the dtype, draws no random numbers,
# *adds* to its gradients, and more ([promises.py](../minilstm/promises.py)). They name the method
# in which a mistake shows. The second command runs more such tests. It needs pytest: `pip install
# -e '.[test]'`.
#
# Here is a cell that breaks one of these promises:


# %%
class NoTuple(GRU):
    """GRU that returns the gradient of its start state alone, and not in a tuple."""

    def start_gradient(self, run):
        return run.dh


try:
    expect_promises(NoTuple)
except PromiseError as error:
    print("PromiseError:", error)
else:
    raise AssertionError("a broken promise was not noticed")

# %% [markdown]
# And this is what the first command prints for our GRU:

# %%
FILE = Path(os.path.relpath(kit.FOLDER / "own_cells.py"))
CELL = f"{FILE}:GRU"
assert gradcheck.main([CELL]) == 0

with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "gru"
    settings = "--num-digits 1 --frame-size 16 --digit-size 8 --hidden 16 --layers 1 --quiet"
    train.main(["--cell", CELL, "--steps", "10", "--out", str(run), *settings.split()])
    with use_backend("numpy", "float32"):
        model = minilstm.load(run)
        future = model.rollout(np.zeros((10, 1, 256), np.float32), 20)
    recorded = build.read_config(run).model.cell
print(type(model.encoder.layers[0]).__name__, "predicted", future.shape)
print(recorded.replace(str(kit.FOLDER), "..."))
assert type(model.encoder.layers[0]).__name__ == "GRU"

# %% [markdown]
# The run folder records the path of the file, the name of the class, and a hash of the file. It
# contains no copy of the file. To load your cell, Python must execute the file. A changed file
# should not be executed without your knowledge. So `minilstm.load` compares the hash first, and
# raises an error if the file has changed. If you trust the changed file, name it in
# `load(run, cell=...)`.

# %%
with tempfile.TemporaryDirectory() as folder:
    copy, run = Path(folder) / "mine.py", Path(folder) / "run"
    copy.write_text(FILE.read_text("utf-8"), "utf-8")
    train.main(["--cell", f"{copy}:GRU", "--steps", "1", "--out", str(run), *settings.split()])
    copy.write_text("print('this must not run')\n" + copy.read_text("utf-8"), "utf-8")
    try:
        minilstm.load(run)
        raise AssertionError("a changed file was run")
    except RunError as error:
        said = str(error).replace(str(Path(folder).resolve()), "...")
        print("RunError:", said)
        assert "nothing of it was run" in said

# %% [markdown]
# ## 5. Compare
#
# An LSTM has four products per step and a GRU three. At the same number of units the LSTM has more
# parameters, and might win for that reason alone. So we choose the number of units such that all
# models have about as many parameters as the LSTM with 64 units.
#
# **Predict:** four composite models are trained on the same films, with the same number of
# parameters: the paper's LSTM, the GRU, and the two cells of the exercises. How far apart are their
# losses: 1 %, 10 %, or 50 %?


# %%
def parameters(cell, units):
    """Return the number of parameters of a composite model for frames of 16 x 16 pixels."""
    settings = kit.small(1, model={"cell": cell, "hidden": units})
    return build.build_model(settings, 256).flat().value.size


contestants = {"paper's LSTM": "peephole", "GRU": CELL}
if not kit.FAST:
    contestants |= {"coupled LSTM": f"{FILE}:CoupledLSTM", "minimal unit": f"{FILE}:MinimalUnit"}
steps, seeds = (30, (0,)) if kit.FAST else (600, (0, 1))
wanted, results = parameters("peephole", 64), {}
print(f"{'':<14}units  parameters  nats per frame: reconstruction  future")
for name, cell in contestants.items():
    units = min(range(50, 120), key=lambda H, cell=cell: abs(parameters(cell, H) - wanted))
    losses = []
    for seed in seeds:
        settings = kit.small(
            steps,
            model={"cell": cell, "hidden": units},
            run={"steps": steps, "batch_size": 32, "seed": seed},
        )
        model = kit.learn(settings)
        films = judging.sequences(build.open_source(settings, "test"), 200)
        outputs, targets = judging.decode(model, films, 6), (films[:6], films[6:])
        losses.append([
            judging.loss_per_step(model.loss, logits, frames).mean()
            for logits, frames in zip(outputs, targets, strict=True)
        ])  # fmt: skip
    results[name] = np.mean(losses, axis=0)
    size = parameters(cell, units)
    print(f"{name:<14}{units:5}{size:12,}{results[name][0]:28.2f}{results[name][1]:11.2f}")
    assert abs(size / wanted - 1) < 0.02

if not kit.FAST:
    drawn, ax = kit.figure(8, 2.6)
    at = np.arange(len(results))
    for k, (task, colour) in enumerate((("reconstruction", kit.ORANGE), ("future", kit.BLUE))):
        values = [losses[k] for losses in results.values()]
        ax.barh(at + 0.36 * k, values, height=0.34, color=colour, label=task)
    ax.set_yticks(at + 0.18, list(results))
    ax.invert_yaxis()
    ax.set_xlabel("nats per frame, equal numbers of parameters")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    kit.save(drawn, "16_cells")
    all_losses = np.array(list(results.values()))
    assert (all_losses.max(axis=0) / all_losses.min(axis=0) < 1.05).all()

# %% [markdown]
# The four cells are within about 1 % of each other. On this task, at this size, it hardly matters
# which gates a cell has, as long as it has a path along which a gradient survives (tutorial 05).
# Greff et al. (2015) compared eight variants of the LSTM in 5,400 runs and found the same: none was
# clearly better, and the forget gate was one of the two parts that mattered most. Two seeds and
# small models prove nothing more: [13](13_benchmarking.py) says what a verdict would need.
#
# ## Exercises
#
# 1. Write the *coupled* LSTM. Its input gate is $i = 1 - f$, and it has no peepholes:
#    $c = f \odot c' + (1 - f) \odot g$ and $h = o \odot \tanh(c)$. Its states are `("h", "c")`, so
#    take `unrolled = UnrolledLSTM`. Check it.
# 2. Write the *minimal gated unit*, which has one gate: $f$ takes the place of both $r$ and $1 - z$
#    of the GRU. Check it.
# 3. How many parameters does a GRU layer have with $D = 4096$ inputs and $H = 2048$ units, and what
#    share of the LSTM's (without peepholes)?
# 4. PyTorch's `nn.GRU` computes $n = \tanh(x W_x^n + b^n + r \odot (h' W_h^n + b_h^n))$. Which of
#    our equations for the way back change?
#
# ### Answers
#
# 1. and 2. are `CoupledLSTM` and `MinimalUnit` in [own_cells.py](own_cells.py).
# 3. $3H(D + H + 1) = 37{,}754{,}880$, which is three quarters.
# 4. With $q = h' W_h^n + b_h^n$: $da_r = da_n \odot q \odot r(1 - r)$, the gradient of $q$ is
#    $da_n \odot r$, and the term $d(rh') \odot r$ of $dh'$ becomes $(da_n \odot r) {W_h^n}^T$. All
#    three products are with $h'$ itself, so one product serves them: that is faster.

# %%
assert 3 * 2048 * (4096 + 2048 + 1) == 37_754_880
for cell in (own_cells.CoupledLSTM, own_cells.MinimalUnit):
    rows = check(cell.sample(np.random.default_rng(0)))
    print(f"{cell.__name__}: {len(rows)} gradients, all right:", all(row.passed for row in rows))
    assert all(row.passed for row in rows)

# %% [markdown]
# **In the library:** [rnn.py](../minilstm/layers/rnn.py) `Recurrent`, `ElmanRNN` (the shortest
# cell); [lstm.py](../minilstm/layers/lstm.py) `LSTM`; [own_cell.py](../minilstm/runs/own_cell.py)
# `read_cell`, which executes a file only if you name it or its hash is the recorded one. **Next:**
# 17, features in place of pixels.
