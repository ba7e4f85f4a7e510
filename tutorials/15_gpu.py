# %% [markdown]
# # 15 · Run the same code on a GPU
#
# *Slides: "Conclusion & Discussion".*
#
# * **You will do:** test whether your machine has a GPU that works, switch every layer to it with
#   one line, and count the work of a GPU.
# * **You will learn:** how the same code runs with two libraries, what makes a GPU slow, and what
#   was verified and what was not.
# * **You need:** tutorials 05 and 07. A GPU is *not* needed.
#
# ![work of one training step at the paper's size](images/15_work.png)
#
# The picture shows the work of one training step of the composite model of Table 2: two layers of
# 2048 units, and the library's default batch of 40 films. More than 99 % of the work is matrix
# products, in a few large pieces. GPUs are good at this. The rest of the code must not make the GPU
# wait.

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
# ## One code, two libraries
#
# CuPy is NumPy on a GPU: it has the same functions with the same names. So the library writes
# `xp.tanh`, and `xp` is NumPy or CuPy. `set_backend` chooses one for the whole process.
# `with use_backend(...)` chooses one for a block of code. Here it chooses NumPy:

# %%
with use_backend("numpy", "float32"):
    print("xp.tanh is", xp.tanh, "and asarray returns", asarray([1, 2]).dtype)
    assert xp.tanh is np.tanh and asarray([1, 2]).dtype == np.float32
with use_backend("numpy", "float64"):
    assert asarray([1, 2]).dtype == np.float64

# %% [markdown]
# Layers and models copy arrays between the CPU's memory (the *host*) and the GPU's memory (the
# *device*) with two functions: `asarray` (host to device) and `to_numpy` (device to host). Only the
# files in gpu/ make other copies, and for these the host does not wait. A test
# ([tests/test_house.py](../tests/test_house.py)) forbids copies anywhere else. The reason: a copy
# to the host makes the CPU *wait* for the GPU. With one copy too many in a loop over time steps,
# the GPU has nothing to do for most of the time.
#
# ## Is there a GPU?
#
# `python -m minilstm.doctor` tests all that is needed, one thing after the other, and stops at the
# first thing that is missing. Here are its tests:
#
# **Predict:** the doctor tests your machine for everything that a GPU needs: a driver, a device,
# libraries, a first *kernel* (a function that runs on the GPU). Where does it stop?

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
assert gpu or "expected" in message  # the message: expected, got, what to do

# %% [markdown]
# ## Break it on purpose: ask for a GPU that is not there
#
# **Predict:** a program is asked for a GPU and finds none. Should it use the CPU without a message?

# %%
if not gpu and name != "parity":  # parity: there is a GPU, but its numbers are wrong
    try:
        set_backend("cupy")
    except BackendError as error:
        print("refused:", str(error)[:75], "...")
    assert current_backend().name == "numpy"  # the backend is still NumPy
else:
    print("this machine has a GPU")

# %% [markdown]
# The library raises an error. There is no silent fall-back to the CPU, because you would notice it
# only by slow training, perhaps after a week.
#
# ## Are the numbers the same?
#
# In exact arithmetic they are. In floating point they are not, because a sum in another order is
# rounded differently. This happens on a GPU, and it happens between two CPUs. How large is
# rounding? We run one layer in float32 and in float64, from the same weights:


# %%
def outputs(name, dtype):
    """Return the outputs of an LSTM over 20 steps, computed by library `name` in `dtype`.

    Weights and inputs are drawn from the same random numbers in every call.
    """
    with use_backend(name, dtype):
        rng = np.random.default_rng(0)
        layer = PeepholeLSTM(64, 64, rng, Init(peephole_scale=0.1))
        x = asarray(rng.standard_normal((20, 8, 64)))
        (y, _), _ = layer.forward(x)
        return to_numpy(y)


single, double = outputs("numpy", "float32"), outputs("numpy", "float64")
rounding = np.abs(single - double).max() / np.abs(double).max()
print(f"float32 against float64 on the CPU: largest relative difference {rounding:.0e}")
assert 1e-9 < rounding < 1e-5
if gpu:
    there = outputs("cupy", "float64")
    print("GPU against CPU, float64: largest difference", np.abs(there - double).max())
    assert np.abs(there - double).max() < 1e-10

# %% [markdown]
# Training makes such differences larger. The doctor allows 1e-4 in float32 and 1e-10 in float64
# after five training steps. Random numbers are always drawn on the host, so CPU and GPU start from
# the same numbers.
#
# ## Count the work
#
# With `Blank` weights we can ask the composite model of Table 2 for its work without any
# computation. The batch is the library's default, 40 films.

# %%
settings = config.load(["table2-composite"])
with use_backend("numpy", "float32"):
    model = build.build_model(settings, 4096, init=Blank())
gflop = resources.gflop_per_step(model, settings)
parameters = sum(param.value.size for param in model.params().values())
print(f"table2-composite: {parameters / 1e6:.0f} million parameters,"
      f" {gflop:,.0f} GFLOP per training step of {settings.run.batch_size} films")  # fmt: skip

B, H = settings.run.batch_size, settings.model.hidden
units = B * H * settings.model.layers * 30  # encoder and two decoders: 10 time steps each
pointwise = 60 * units / 1e9  # about 60 operations per unit and time step, forward and backward
update = 12 * parameters / 1e9  # about 12 operations per parameter
work = {"matrix products": gflop, "optimizer": update, "gates and cells": pointwise}
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
# The CPU must start every operation on the GPU. This is called a *launch*. It takes some
# microseconds, whether the array has ten numbers or ten million. A recurrent network needs launches
# at every time step. We count the calls of `xp` in one forward pass of an LSTM:


# %%
class Counting:
    """Counter of the calls of five functions of `xp`, inside a `with` block."""

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
    print(f"{T} time steps: {calls.count} calls (in-place += and *= are not counted)")
per_step = (counts[20] - counts[10]) / 10
print(f"{per_step:g} calls for each time step, and {counts[10] - 10 * per_step:g} before the loop")
assert counts[10] - 10 * per_step <= 2  # the inputs of ALL time steps are one product

# %% [markdown]
# The products with the inputs of all time steps are one product, before the loop. In the loop there
# is one product with `Wh` per step, and a cell of a dozen small operations. So on a GPU the library
# computes the whole cell in **one** kernel: [cells.cuh](../minilstm/gpu/cells.cuh). It has the same
# equations in the GPU's own language, and is checked against `cells.py`. Then two launches per step
# are left.
#
# With 16 units even these two launches have almost nothing to do, and the GPU mostly waits for
# launches. With 2048 units and a large batch, each launch has much to do. *Use a GPU for large
# models, and a CPU for small ones.*
#
# How fast is *this* machine at matrix products?

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
# ## What was verified, and what was not
#
# * **Verified without a GPU:** every layer, model and optimizer runs through the real CuPy and
#   gives the numbers of the CPU. So do runs that are resumed from a checkpoint, also when they
#   change from one library to the other. Only the driver and the matrix library are replaced: the
#   kernels run on a CPU.
# * **On one GPU (an H100):** training steps that are recorded once and replayed as a whole (*CUDA
#   graphs*) give the same bits as other steps. So does work in several queues at once (*streams*).
#   The speed of whole steps was measured: [gpu/README.md](../minilstm/gpu/README.md) has the
#   figures.
# * **Not verified:** running out of memory, several GPUs, and GPUs of other makers.
#
# If you have a GPU, three commands test it:
#
#     python -m minilstm.doctor --backend cupy
#     python -m pytest tests/on_cupy.py
#     python -m minilstm.train --backend cupy
#
# ## Exercises
#
# 1. The training loop contains a `float(loss)` that nobody needs. What does it cost on a GPU?
# 2. Why are dropout masks drawn on the host, although a GPU draws random numbers faster?
# 3. A composite model of two layers at the paper's size has weights, gradients and the two running
#    averages of Adam. How much memory do they take in float32?
#
# ### Answers
#
# 1. The CPU waits for the GPU at every step. While it waits, it can't launch the next operations.
# 2. So that a CPU, a GPU and a resumed run use the same masks, bit by bit.
# 3. Four arrays of 201.4 million numbers with 4 bytes each: 3.2 GB.

# %%
with use_backend("numpy", "float32"):
    two = Composite(4096, 2048, 2, np.random.default_rng(0), init=Blank())
size = sum(param.value.size for param in two.params().values())
assert round(size / 1e6, 1) == 201.4 and round(4 * 4 * size / 1e9, 1) == 3.2

# %% [markdown]
# ## Conclusion of the slides' tutorials
#
# Tutorials 01 to 15 followed one idea from beginning to end. To predict the future of a film, a
# model needs a memory (01). A memory is a state that a network carries through time (04), and gates
# decide what the state keeps (05). The model is trained to reconstruct and to predict, without any
# labels (06, 07, 10). So it learns where things are and where they move. Numbers with baselines
# show how well it does so (09). And every gradient on the way was checked against the definition of
# a derivative (02).
#
# **In the library:** [backend.py](../minilstm/backend.py), which chooses between NumPy and CuPy;
# [kernels.py](../minilstm/gpu/kernels.py); [doctor.py](../minilstm/doctor.py);
# [resources.py](../minilstm/training/resources.py). **Next:** 16, a cell of your own.
