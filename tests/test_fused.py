"""The kernels of cells.cuh: compiled for the CPU and compared with cells.py; compiled for GPUs."""

import ctypes
import itertools
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from covering import covering
from strict_cupy import counting

from minilstm.backend import asarray, to_numpy, use_backend, xp
from minilstm.gpu import kernels
from minilstm.layers import cells
from minilstm.layers.losses import BernoulliCrossEntropy

TOLERANCE = {"float32": 3e-6, "float64": 1e-14}
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
REALS = {"float32": "float", "float64": "double"}
GUARD, UNTOUCHED = 64, 7.25
KERNELS = {  # by the file of their text
    "cells.cuh": (
        *("lstm_cell", "lstm_cell_backward", "peephole_sums"),
        *("slides_lstm_cell", "slides_lstm_cell_backward"),
    ),
    "frames.cuh": ("from_bytes", "moving_digits", "acting_digits"),
    "log.cuh": ("append",),
    "loops.cuh": (),
    "norms.cuh": ("squares", "roots"),
    "cross_entropy.cuh": ("bernoulli", "mean_loss", "bernoulli_backward"),
    "sums.cuh": (),
    "optimizers.cuh": ("decide", "sgd", "rmsprop", "adam"),
}


class Step:
    """One time step: arrays by the letters of cells.py, random, the same for both ways."""

    def __init__(self, B, H, dtype, peepholes, seed=0):
        rng = np.random.default_rng(seed)
        shapes = {"a": (B, 4 * H)} | dict.fromkeys(("c_prev", "dy", "dh", "dc"), (B, H))
        self.B, self.H, self.dtype = B, H, dtype
        self.arrays = {
            name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()
        }
        self.Wp = rng.standard_normal((3, H)).astype(dtype) if peepholes else None

    def by_numpy(self, slides, with_dy=True):
        """a (then da), c, h, dc of cells.py."""
        x = {name: array.copy() for name, array in self.arrays.items()}
        c, h, h_to_c, c_to_c, scratch = (np.empty_like(x["dc"]) for _ in range(5))
        a = x["a"]
        if slides:
            cells.slides_lstm_cell(a, x["c_prev"], c, h)
        else:
            cells.lstm_cell(a, x["c_prev"], self.Wp, c, h)
        gates = a.copy()
        if slides:
            cells.slides_lstm_slopes(a, x["c_prev"], c, h, h_to_c, c_to_c, scratch)
        else:
            cells.lstm_slopes(a, x["c_prev"], self.Wp, c, h, h_to_c, c_to_c, scratch)
        dh = x["dh"] + x["dy"] if with_dy else x["dh"]
        cells.lstm_cell_backward(dh, x["dc"], a, h_to_c, c_to_c)
        return {"gates": gates, "c": c, "h": h, "da": a, "dc": x["dc"]}

    def by_kernels(self, slides, with_dy=True):
        """Compute the same by cells.cuh; nothing around the arrays and no input may change."""
        nothing = np.full((self.B, self.H), np.nan, self.dtype)
        pairs = {k: guarded(v) for k, v in (self.arrays | {"c": nothing, "h": nothing}).items()}
        x = {name: middle for name, (middle, _) in pairs.items()}
        c, h = x["c"], x["h"]
        Wp = None if self.Wp is None else asarray(self.Wp, self.dtype)
        if slides:
            kernels.slides_lstm_cell(x["a"], x["c_prev"], c, h)
        else:
            kernels.lstm_cell(x["a"], x["c_prev"], Wp, c, h)
        gates, dy = x["a"].get(), x["dy"] if with_dy else None
        if slides:
            kernels.slides_lstm_cell_backward(dy, x["dh"], x["dc"], x["a"], x["c_prev"], c, h)
        else:
            kernels.lstm_cell_backward(dy, x["dh"], x["dc"], x["a"], x["c_prev"], c, Wp)
        for _, around in pairs.values():
            around = around.get()
            assert (around[:GUARD] == UNTOUCHED).all() and (around[-GUARD:] == UNTOUCHED).all()
        for name in ("c_prev", "dy", "dh"):
            assert x[name].get().tobytes() == self.arrays[name].tobytes(), name
        found = {"gates": gates, "c": c, "h": h, "da": x["a"], "dc": x["dc"]}
        return {name: array if name == "gates" else array.get() for name, array in found.items()}


def guarded(array):
    """`array` on the device, in the middle of a larger one; and that one."""
    around = xp.empty(array.size + 2 * GUARD, array.dtype)
    around.fill(UNTOUCHED)
    middle = around[GUARD : GUARD + array.size].reshape(array.shape)
    middle[...] = asarray(array, array.dtype)
    return middle, around


@pytest.fixture
def strict(monkeypatch):
    strict_cupy.install(monkeypatch)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cell", ["peephole", "standard", "slides-lstm"])
@pytest.mark.parametrize("B, H", [(1, 1), (3, 5), (7, 33), (64, 128), (300, 2)])
def test_a_kernel_computes_what_numpy_computes(strict, cell, B, H, dtype):
    step, slides = Step(B, H, dtype, cell == "peephole"), cell == "slides-lstm"
    for with_dy in (True, False):
        here = step.by_numpy(slides, with_dy)
        with use_backend("cupy", dtype):
            there = step.by_kernels(slides, with_dy)
        for name, expected in here.items():
            assert there[name].dtype == dtype
            largest = np.abs(expected).max()
            np.testing.assert_allclose(
                there[name], expected, rtol=0, atol=TOLERANCE[dtype] * largest, err_msg=name
            )


@pytest.mark.parametrize("cell", ["peephole", "standard", "slides-lstm"])
def test_the_backward_kernel_is_the_derivative_of_the_forward_kernel(strict, cell):
    """By differences of the weighted sum of h and c, of which dy + dh and dc are the weights."""
    step, slides = Step(2, 3, "float64", cell == "peephole"), cell == "slides-lstm"
    weight_h = step.arrays["dy"] + step.arrays["dh"]

    def weighted_sum(name, index, change):
        moved = Step(2, 3, "float64", cell == "peephole")
        moved.arrays[name][index] += change
        found = moved.by_kernels(slides)
        return (weight_h * found["h"]).sum() + (step.arrays["dc"] * found["c"]).sum()

    with use_backend("cupy", "float64"):
        analytic = step.by_kernels(slides)
        for name, gradient in (("a", analytic["da"]), ("c_prev", analytic["dc"])):
            for index in itertools.product(*map(range, gradient.shape)):
                slope = weighted_sum(name, index, 1e-5) - weighted_sum(name, index, -1e-5)
                assert slope / 2e-5 == pytest.approx(gradient[index], rel=1e-6, abs=1e-8)


def test_every_unit_is_computed_by_few_threads_and_by_many(strict, monkeypatch):
    """More units than threads: each thread takes several, in strides of the whole grid."""
    found = []
    for blocks in (1, 3, 65_535):
        monkeypatch.setattr(kernels, "BLOCKS", blocks)
        with use_backend("cupy", "float32"):
            found.append(Step(40, 50, "float32", True).by_kernels(False))
    for other in found[1:]:
        assert all(other[name].tobytes() == found[0][name].tobytes() for name in other)


def test_a_call_is_one_launch_and_copies_only_a_dy_with_gaps(strict):
    step = Step(4, 6, "float32", True)
    with use_backend("cupy", "float32"):
        x = {name: asarray(array) for name, array in step.arrays.items()}
        c, h, Wp = xp.empty((4, 6), "float32"), xp.empty((4, 6), "float32"), asarray(step.Wp)
        with counting() as counts:
            kernels.lstm_cell(x["a"], x["c_prev"], Wp, c, h)
            kernels.lstm_cell_backward(x["dy"], x["dh"], x["dc"], x["a"], x["c_prev"], c, Wp)
        assert {kind: n for kind, n in counts.items() if n} == {"launch": 2}
        wide = asarray(np.repeat(step.arrays["dy"], 2, axis=1))
        results = []
        for dy in (x["dy"], wide[:, ::2]):
            a, dc = x["a"].copy(), x["dc"].copy()
            kernels.lstm_cell_backward(dy, x["dh"], dc, a, x["c_prev"], c, Wp)
            results.append((a.get(), dc.get()))
        assert all((one == other).all() for one, other in zip(*results, strict=True))


def test_an_empty_batch_launches_nothing(strict):
    with use_backend("cupy", "float32"), counting() as counts:
        arrays = [xp.empty(shape, "float32") for shape in ((0, 8), (0, 2), (0, 2), (0, 2))]
        kernels.lstm_cell(arrays[0], arrays[1], None, arrays[2], arrays[3])
    assert counts["launch"] == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T, B, H", [(1, 1, 1), (3, 5, 7), (10, 8, 40), (2, 16, 3)])
def test_the_gradient_of_peepholes_is_summed_as_in_lstm_py(strict, T, B, H, dtype):
    rng = np.random.default_rng(0)
    da, c = rng.standard_normal((T, B, 4 * H)), rng.standard_normal((T + 1, B, H))
    da_i, da_f, _, da_o = cells.split_gates(da)
    pairs = (da_i, c[:-1]), (da_f, c[:-1]), (da_o, c[1:])
    expected = np.array([(da * seen).sum(axis=(0, 1)) for da, seen in pairs])
    with use_backend("cupy", dtype):
        sums = kernels.peephole_sums(asarray(da), asarray(c)).get()
    found = sums.sum(axis=0, dtype="float64").reshape(3, H)
    assert found == pytest.approx(expected, abs=10 * TOLERANCE[dtype] * np.sqrt(T * B))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T, B, D", [(1, 1, 1), (3, 4, 50), (2, 3, 700)])
def test_the_cross_entropy_by_kernels_is_that_of_losses_py(strict, T, B, D, dtype):
    """Also for a target in reverse order, and for a gradient that is an array on the device."""
    rng = np.random.default_rng(0)
    z = (20 * rng.standard_normal((T, B, D))).astype(dtype)
    y = rng.random((T, B, D)).astype(dtype)
    found = {}
    for name in ("numpy", "cupy"):
        with use_backend(name, dtype):
            for dloss in (2.5, asarray(2.5)):
                layer, target = BernoulliCrossEntropy(), asarray(y)[::-1]
                loss, cache = layer.forward(asarray(z), target)
                dz, _ = layer.backward(dloss, cache)
                found[name, isinstance(dloss, float)] = to_numpy(loss), to_numpy(dz)
    for (loss, dz), (expected, dz_expected) in (
        (found["cupy", number], found["numpy", number]) for number in (True, False)
    ):
        assert loss.shape == expected.shape and loss.dtype == dtype == dz.dtype
        assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
        assert dz == pytest.approx(dz_expected, abs=TOLERANCE[dtype] * 2.5 / (T * B))


# ---------------------------------------------------------------- compilers for GPUs


def nvrtc():
    """The library of the wheel, or of the system, or None."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            for file in metadata.files(package) or ():
                if file.name.startswith("libnvrtc.so"):
                    return ctypes.CDLL(str(file.locate()))
        except (metadata.PackageNotFoundError, OSError):
            continue
    return None


COMPILED = tuple(itertools.product(ARCHITECTURES, REALS.values(), KERNELS))
ALWAYS = covering([one for one in COMPILED if one[0] in ("75", "120")], 2)  # oldest and newest


@pytest.mark.parametrize(
    "architecture, real, file",
    [pytest.param(*x, marks=() if x in ALWAYS else pytest.mark.slow) for x in COMPILED],
)
def test_nvrtc_compiles_the_kernels_for_every_gpu_without_a_word(architecture, real, file):
    library = nvrtc()
    if library is None:
        pytest.skip("no NVRTC here")
    options = ["-std=c++17", f"-DREAL={real}", f"--gpu-architecture=sm_{architecture}"]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text, name = kernels.source(file).encode(), file.encode()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None)
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), array)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert (status, log.value.decode()) == (0, ""), architecture
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, cubin)
    assert all(kernel.encode() in cubin.raw for kernel in KERNELS[file])
    library.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.mark.slow
@pytest.mark.parametrize("file", KERNELS)
@pytest.mark.parametrize("real", REALS.values())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_the_kernels_with_warnings_as_errors(tmp_path, real, architecture, file):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here")
    (tmp_path / "kernels.cu").write_text(kernels.source(file))
    words = ["nvcc", "-std=c++17", f"-DREAL={real}", f"-arch=sm_{architecture}", "-cubin"]
    words += ["-Werror", "all-warnings", "-Xptxas", "-Werror", "kernels.cu"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_kernel_is_in_the_text_that_is_installed():
    for file, names in KERNELS.items():
        assert re.findall(r"__global__ void (\w+)\(", kernels.source(file)) == list(names)
    folder = Path(kernels.__file__).parent
    assert {path.name for path in folder.glob("*.cuh")} == KERNELS.keys()
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert "*.cuh" in settings["tool"]["setuptools"]["package-data"]["*"]
