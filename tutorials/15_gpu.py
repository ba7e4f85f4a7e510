# %% [markdown]
# # 15 · Run the same code on a GPU
#
# *Slides: "Conclusion & Discussion".*
#
# * **You will do:** ask your machine whether it has a GPU that works, switch every layer to it with
#   one line, and count what a GPU would have to do.
# * **You will learn:** how one source serves two libraries, what makes a GPU slow, and what about
#   all this has been verified and what not.
# * **You need:** tutorials 05 and 07. A GPU is *not* needed.
#
# ![work of one training step at the paper's size](images/15_work.png)
#
# One training step of Table 2's composite model, two layers of 2048 units, with this library's
# default batch of 40 films, by what it computes. More than 99 % of it is matrix products, in few,
# large pieces. That is what GPUs are good at. All the rest must be kept from getting in the way.

# %%
import time

import kit
import numpy as np

from minilstm import Composite, Init, asarray, config, to_numpy
from minilstm.backend import current_backend, set_backend, use_backend, xp
from minilstm.benchmark import device
from minilstm.errors import BackendError
from minilstm.layers.init import Blank
from minilstm.layers.lstm import PeepholeLSTM
from minilstm.runs import build
from minilstm.training import resources

# %% [markdown]
# ## One text, two libraries
#
# CuPy is NumPy on a GPU: the same functions by the same names. So the library writes `xp.tanh` and
# lets `xp` be NumPy or CuPy. `use_backend` chooses. In NumPy's case:

# %%
with use_backend("numpy", "float32"):
    print("xp.tanh is", xp.tanh, "and asarray makes", asarray([1, 2]).dtype)
    assert xp.tanh is np.tanh and asarray([1, 2]).dtype == np.float32
with use_backend("numpy", "float64"):
    assert asarray([1, 2]).dtype == np.float64

# %% [markdown]
# Arrays cross between the two worlds in two functions only: `asarray` (host to device) and
# `to_numpy` (device to host). A test ([tests/test_house.py](../tests/test_house.py)) forbids any
# other way. Why so strict? Each crossing makes the CPU *wait*. One forgotten crossing inside a loop
# over time steps, and the GPU idles.
#
# ## Is there a GPU?
#
# `python -m minilstm.doctor` asks for every piece, in the order in which one needs another, and
# stops at the first that is missing. Here are its own questions:
#
# **Predict:** your machine. Where will it stop?

# %%
found = {}
try:
    for name, answer in device.examine():
        found[name] = answer
        print(f"ok      {name:<12}{answer}")
    gpu = True
except BackendError as error:
    name, _, message = str(error).partition(": ")
    print(f"FAILED  {name:<12}{message}")
    gpu = False
assert gpu or "expected" in message  # what was expected, what was found, what to do

# %% [markdown]
# ## Break it on purpose: ask for a GPU that is not there
#
# **Predict:** a program that quietly falls back to the CPU would be convenient. Is it a good idea?

# %%
if not gpu and name != "parity":
    try:
        set_backend("cupy")
    except BackendError as error:
        print("refused:", str(error)[:75], "...")
    assert current_backend().name == "numpy"  # nothing was half switched
else:
    print("this machine has one")

# %% [markdown]
# It is refused, never replaced. If you ask for a GPU and silently get a CPU, you may wait a week
# before you notice.
#
# ## The same numbers?
#
# In exact arithmetic, yes. In floating point, a sum in another order is rounded otherwise, on a GPU
# as between two CPUs. How large is rounding? Run one layer in float32 and in float64, from the same
# weights:


# %%
def outputs(name, dtype):
    """An LSTM over 20 steps, from the same random numbers, on `name` in `dtype`."""
    with use_backend(name, dtype):
        rng = np.random.default_rng(0)
        layer = PeepholeLSTM(64, 64, rng, Init(peephole_scale=0.1))
        x = asarray(rng.standard_normal((20, 8, 64)))
        (y, _), _ = layer.forward(x)
        return to_numpy(y)


single, double = outputs("numpy", "float32"), outputs("numpy", "float64")
rounding = np.abs(single - double).max() / np.abs(double).max()
print(f"float32 against float64, on the CPU: {rounding:.0e}")
assert 1e-9 < rounding < 1e-5
if gpu:
    there = outputs("cupy", "float64")
    print("GPU against CPU, float64:", np.abs(there - double).max())
    assert np.abs(there - double).max() < 1e-10

# %% [markdown]
# So "the same" means: equal to 1e-4 in float32 and to 1e-10 in float64, after five whole training
# steps. The doctor checks just that. Random numbers are always drawn on the host, so that both
# start alike.
#
# ## Count the work
#
# `Blank` weights ask Table 2's composite model for its cost without computing anything. The batch
# is this library's default, 40 films.

# %%
settings = config.load(["table2-composite"])
with use_backend("numpy", "float32"):
    model = build.build_model(settings, 4096, init=Blank())
gflop = resources.gflop_per_step(model, settings)
print(f"table2-composite: {model.flat().value.size / 1e6:.0f} million parameters,"
      f" {gflop:,.0f} GFLOP per training step of {settings.run.batch_size} films")  # fmt: skip

B, H = settings.run.batch_size, settings.model.hidden
units = B * H * settings.model.layers * 30  # 10 steps each of encoder and two decoders
pointwise = 60 * units / 1e9  # about 60 operations per unit and step, forward and backward
update = 12 * model.flat().value.size / 1e9  # about 12 per parameter
work = {"matrix products": gflop, "optimiser": update, "gates and cells": pointwise}
for name, amount in work.items():
    print(f"{name:<18}{amount:10.2f} GFLOP   {amount / sum(work.values()):.2%}")
assert gflop > 0.99 * sum(work.values())

drawn, ax = kit.figure(8, 2)
bars = ax.barh(list(work), list(work.values()), color=[kit.BLUE, kit.ORANGE, kit.GREEN])
shares = [f"{amount / sum(work.values()):.2%}" for amount in work.values()]
ax.bar_label(bars, shares, padding=4, color=kit.INK)
ax.margins(x=0.12)
ax.invert_yaxis()
ax.set_xlabel(f"GFLOP per training step of {B} films")
kit.save(drawn, "15_work", show=False)

# %% [markdown]
# ## Why a small model is slow on a GPU
#
# A GPU must be *told* every operation, a *launch*, and that takes some microseconds whether the
# array has ten numbers or ten million. A recurrent network tells it something at every time step.
# Count the calls of `xp` in one forward pass of an LSTM:


# %%
class Counting:
    """Stands before a library of arrays and counts what is called."""

    names = ("matmul", "multiply", "add", "subtract", "tanh")

    def __enter__(self):
        self.count = 0
        for name in self.names:
            setattr(xp, name, self.counted(getattr(np, name)))
        return self

    def counted(self, function):
        def call(*arguments, **keywords):
            self.count += 1
            return function(*arguments, **keywords)

        return call

    def __exit__(self, *exception):
        for name in self.names:
            delattr(xp, name)  # `xp` looks it up in NumPy again


counts = {}
for T in (10, 20):
    layer = PeepholeLSTM(16, 16, np.random.default_rng(0))
    with Counting() as calls:
        layer.forward(asarray(np.zeros((T, 4, 16))))
    counts[T] = calls.count
    print(f"{T} steps: {calls.count} calls (and some in-place += and *=)")
per_step = (counts[20] - counts[10]) / 10
print(f"{per_step:g} calls for each further step, {counts[10] - 10 * per_step:g} for all together")
assert counts[10] - 10 * per_step <= 2  # the inputs of ALL steps are one product

# %% [markdown]
# The inputs of all steps are one product, before the loop. What remains in the loop is one product
# with `Wh`, and a cell of a dozen small operations. On a GPU the library therefore makes the whole
# cell **one** kernel: [cells.cuh](../minilstm/gpu/cells.cuh), the same equations in the GPU's own
# language, checked against `cells.py`. Two launches a step remain.
#
# With 16 units even those have almost nothing to do, and a GPU would spend its time being told.
# With 2048 units and a large batch, each has a lot. *Make it large, or stay on the CPU.*
#
# How fast is *this* machine at the one operation that matters?

# %%
a = np.random.default_rng(0).random((1024, 1024), np.float32)
a @ a
start = time.perf_counter()
for _ in range(3):
    a @ a
speed = 3 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9
print(f"matrix products here: {speed:.0f} GFLOP/s, so a step of table2-composite takes at least "
      f"{gflop / speed:.0f} s")  # fmt: skip
assert speed > 0

# %% [markdown]
# Compare that with the data sheet of a GPU.
#
# ## What was verified, and what was not
#
# * **Verified:** every layer, model and optimiser runs through the real CuPy, with its real
#   argument checks and generated kernels, and gives the numbers of the CPU. So do runs resumed from
#   a checkpoint, also from one library to the other.
# * **How:** on a stand-in for the driver and the matrix library, which executes the kernels on a
#   CPU.
# * **Not verified:** a physical GPU. Nothing here has been timed on one; races between streams, the
#   real matrix library and running out of memory are untested.
#
# If you have a GPU, three commands make you the first to know:
#
#     python -m minilstm.doctor
#     python -m pytest tests/on_cupy.py
#     python -m minilstm.train --backend cupy
#
# ## Exercises
#
# 1. Where would a forgotten `float(loss)` inside the training loop hurt?
# 2. Why are dropout masks drawn on the host, although GPUs draw random numbers faster?
# 3. How much memory do the weights of a two-layer composite at paper size take, with their
#    gradients and Adam's two averages, in float32?
#
# ### Answers
#
# 1. It waits for the device at every step, so the CPU can't tell it the next operations meanwhile.
# 2. So that CPU, GPU and a resumed run see the same masks, to the bit.
# 3. Four arrays of 201.4 million numbers of 4 bytes: 3.2 GB.

# %%
with use_backend("numpy", "float32"):
    two = Composite(4096, 2048, 2, np.random.default_rng(0), init=Blank())
size = sum(param.value.size for param in two.params().values())
assert round(size / 1e6, 1) == 201.4 and round(4 * 4 * size / 1e9, 1) == 3.2

# %% [markdown]
# ## Conclusion
#
# You have seen one idea from end to end. A film's future asks for a memory (01). A memory is a
# state that a network carries through time (04), and gates decide what it keeps (05). Trained to
# rebuild and to predict, with no labels at all (06, 07, 10), it learns where things are and where
# they go. Numbers beside baselines say how well (09). And every step of it was checked against the
# definition of a derivative (02), not believed.
#
# **In the library:** [backend.py](../minilstm/backend.py), which chooses between NumPy and CuPy;
# [kernels.py](../minilstm/gpu/kernels.py); [doctor.py](../minilstm/doctor.py);
# [resources.py](../minilstm/training/resources.py).
