"""The doctor and `--backend cupy` name each missing piece in one line, with exit status 2.

A stand-in made of NumPy plays CuPy, so that each piece can be removed on any machine.
"""

import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import strict_cupy
from small import small

from minilstm import backend, doctor, evaluate, train
from minilstm.backend import current_backend, set_backend, use_backend
from minilstm.benchmark import device, host
from minilstm.command import run_command
from minilstm.errors import BackendError
from minilstm.gpu import kernels, products
from minilstm.training import pace

SMALL = "--frame-size 8 --digit-size 5 --past 3 --future 3 --hidden 4 --batch-size 4 --steps 1"
CTK = "pip install 'cupy-cuda13x[ctk]'"


def raising(error):
    def raises(*arguments, **keywords):
        raise error

    return raises


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """A small run."""
    run = tmp_path_factory.mktemp("made") / "run"
    train_undrawn(small(), run)
    return run


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy with driver, device, cuBLAS and NVRTC, that computes with NumPy."""
    strict_cupy.install(monkeypatch)
    # the stand-in has no graphs; tests/on_cupy.py makes this check
    monkeypatch.setitem(device.CHECKS, "graphs", lambda: "not checked")
    return strict_cupy.cupy


def broken(error):
    """Return a function that makes `import cupy` fail with this error."""
    finder = types.SimpleNamespace(find_spec=raising(error))
    return lambda fake, monkeypatch: (
        monkeypatch.delitem(sys.modules, "cupy"),
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path]),
    )


def patched(path, value):
    """Return a function that replaces an attribute of the stand-in."""

    def patch(fake, monkeypatch):
        *owners, name = path.split(".")
        owner = fake
        for part in owners:
            owner = getattr(owner, part)
        monkeypatch.setattr(owner, name, value)

    return patch


class NoHandle(strict_cupy.Device):
    cublas_handle = property(raising(RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")))


MISSING = {  # missing piece: how to remove it, the check that finds it, words of the advice
    "no CuPy": (
        lambda fake, monkeypatch: monkeypatch.setitem(sys.modules, "cupy", None),
        "import",
        ["got none", "'cupy-cuda12x[ctk]'", "'cupy-cuda13x[ctk]'", "cupy-rocm-7-0"],
    ),
    "a CuPy for another NumPy": (
        broken(ImportError("====\nnumpy.core.multiarray failed\n  to import\n====")),
        "import",
        ["(numpy.core.multiarray failed to import)", "pip uninstall", "'cupy-cuda12x[ctk]'"],
    ),
    "a CuPy that breaks": (
        broken(AttributeError("no such thing")),
        "import",
        ["AttributeError (no such thing)", "pip uninstall"],
    ),
    "no driver": (
        patched("cuda.runtime.driverGetVersion", lambda: 0),
        "driver",
        ["driver", "got none", "nvidia-smi", "cupy-rocm-7-0"],
    ),
    "an old driver": (
        patched("cuda.runtime.driverGetVersion", lambda: 12040),
        "driver",
        ["CUDA 13", "CUDA 12", "pip uninstall cupy-cuda13x", "pip install 'cupy-cuda12x[ctk]'"],
    ),
    "a driver too old for any": (
        patched("cuda.runtime.driverGetVersion", lambda: 10020),
        "driver",
        ["CUDA 10", "update it"],
    ),
    "no ROCm": (
        lambda fake, monkeypatch: [
            patched(f"cuda.runtime.{name}", value)(fake, monkeypatch)
            for name, value in (
                ("is_hip", True),
                ("driverGetVersion", raising(RuntimeError("hipErrorNoDevice"))),
            )
        ],
        "driver",
        ["AMD", "hipErrorNoDevice", "ROCm"],
    ),
    "no device": (
        patched("cuda.runtime.getDeviceCount", raising(RuntimeError("cudaErrorNoDevice: no"))),
        "device",
        ["cudaErrorNoDevice", "nvidia-smi", "CUDA_VISIBLE_DEVICES"],
    ),
    "a count of zero devices": (
        patched("cuda.runtime.getDeviceCount", lambda: 0),
        "device",
        ["got none", "CUDA_VISIBLE_DEVICES"],
    ),
    "no cuBLAS": (
        patched("cuda.cublas.getVersion", raising(ImportError("libcublas.so.13:\nno such file"))),
        "cuBLAS",
        ["cuBLAS", "libcublas.so.13: no such file", CTK],
    ),
    "a cuBLAS that does not start": (
        patched("cuda.Device", NoHandle),
        "cuBLAS",
        ["CUBLAS_STATUS_NOT_INITIALIZED", CTK],
    ),
    "no NVRTC": (
        patched("cuda.nvrtc.getVersion", raising(RuntimeError("libnvrtc.so.13 not found"))),
        "NVRTC",
        ["NVRTC", "libnvrtc.so.13", CTK],
    ),
    "no headers": (
        patched("tanh", raising(RuntimeError("Failed to find CUDA headers"))),
        "kernel",
        ["kernel", "Failed to find CUDA headers", CTK],
    ),
}
TANH, times = strict_cupy.cupy.tanh, strict_cupy.cupy.multiply


def changed(file, right, wrong):
    """Return a change of the text of a file of kernels."""
    text = kernels.source(file)
    assert right in text

    def change(fake, monkeypatch):
        source = kernels.source
        monkeypatch.setattr(
            kernels,
            "source",
            lambda name: text.replace(right, wrong) if name == file else source(name),
        )
        strict_cupy.forget_kernels()

    return change


WRONG = {  # pieces that compute wrongly: only the doctor looks for these
    "a wrong tanh": (
        patched("tanh", lambda x, out=None: times(1.001, TANH(x, out=out), out=out)),
        "gradients",
        ["operation by operation", "within 1e-06", "got an error of"],
    ),
    "a wrong kernel": (
        changed("cells.cuh", "i * (1 - g * g)", "i * (1 - g)"),
        "gradients",
        ["by the kernels of cells.cuh", "within 1e-06", "got an error of"],
    ),
    "a product that fails": (
        lambda fake, monkeypatch: monkeypatch.setattr(
            products, "matmul", raising(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"))
        ),
        "gradients",
        ["RuntimeError (CUBLAS_STATUS_EXECUTION_FAILED)"],
    ),
    "a wrong square root": (
        changed("optimizers.cuh", "sqrt(s_new)", "1.1f * sqrt(s_new)"),
        "parity",
        ["float32 weights after five steps", "got an error of"],
    ),
}


CPU = ["python", "numpy", "BLAS", "threads", "step"]


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """A training step of the default run takes 50 ms, without any being made."""
    monkeypatch.setattr(host, "seconds_per_step", lambda settings, timed: 0.05)


def gpu_lines(capsys):
    """The lines that the doctor prints about the GPU, after checking those about the CPU."""
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[: len(CPU)]] == [["ok", name] for name in CPU]
    assert lines[len(CPU)] == ""
    return lines[len(CPU) + 1 :]


def status(module, *words):
    return run_command(lambda: module.main([*words]))


def test_the_time_of_a_work_is_the_mean_of_its_calls_but_the_first(cupy, monkeypatch):
    clock, takes = [0.0], iter([9.0, 0.25, 0.25, 0.75, 0.75])  # seconds of each call

    def work():
        clock[0] += next(takes)

    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device._seconds(work, at_least=2.0) == 0.5


def test_a_healthy_machine_is_examined_in_order_and_measured(cupy, capsys, monkeypatch):
    once = lambda work: (work(), 0.02)[1]  # noqa: E731, as if each work took 20 ms
    monkeypatch.setattr(device, "_seconds", once)
    assert status(doctor) == 0
    lines = gpu_lines(capsys)
    checks = [line.split()[:2] for line in lines[: len(device.CHECKS)]]
    assert checks == [["ok", name] for name in device.CHECKS]
    assert "A GPU, 8 GB" in lines[2] and "CUDA 13.2" in lines[1]
    for unit in ("GB/s", "GFLOP/s", "per ms", "us per step"):
        assert any(line.endswith(unit) for line in lines)
    assert lines[-1] == "This machine can train with --backend cupy."
    assert current_backend().name == "numpy"  # the doctor leaves nothing behind


@pytest.mark.parametrize("case", MISSING | WRONG)
def test_the_doctor_names_what_is_missing_or_wrong_in_its_last_line(
    case, cupy, monkeypatch, capsys
):
    take_away, check, words = (MISSING | WRONG)[case]
    take_away(cupy, monkeypatch)
    assert status(doctor, "--backend", "cupy") == 2
    *before, last = gpu_lines(capsys)
    assert [line.split()[:2] for line in before] == [
        ["ok", name] for name in list(device.CHECKS)[: len(before)]
    ]
    assert last.split()[:2] == ["FAILED", check] == ["FAILED", list(device.CHECKS)[len(before)]]
    assert all(word in last for word in words), last


@pytest.mark.parametrize("case", ["no CuPy", "no driver", "a wrong kernel"])
def test_a_machine_without_a_gpu_is_in_order_unless_one_is_asked_for(
    case, cupy, monkeypatch, capsys
):
    (MISSING | WRONG)[case][0](cupy, monkeypatch)
    assert status(doctor) == 0
    *_, found, empty, last = gpu_lines(capsys)
    assert found.split()[0] == ("absent" if case == "no CuPy" else "FAILED") and not empty
    assert last == "This machine can train on its CPU. A GPU is not needed."


def test_the_doctor_looks_at_the_cpu_alone_on_request(cupy, monkeypatch, capsys):
    monkeypatch.setattr(device, "examine", raising(AssertionError()))
    assert status(doctor, "--backend", "numpy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == CPU
    assert lines[-1].endswith("50 ms: the default run of 4,800 takes 4 min")
    assert np.__version__ in lines[1]


def test_the_doctor_makes_real_steps(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(host, "TIMED", 1)
    monkeypatch.setattr(pace, "WARM", 1)
    *_, (name, found) = host.describe()
    assert name == "step" and int(found.split()[0]) > 0


@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("module", [train, evaluate], ids=["train", "evaluate"])
def test_a_command_refuses_in_one_line_and_never_falls_back_to_numpy(
    case, module, cupy, monkeypatch, capsys, made, tmp_path
):
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "run").parent)
    take_away, _, words = MISSING[case]
    take_away(cupy, monkeypatch)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    arguments = ["run"] if module is evaluate else [*SMALL.split(), "--out", "new"]
    assert status(module, *arguments, "--backend", "cupy") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: expected ")
    assert printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err
    assert sorted(tmp_path.rglob("*")) == before
    assert current_backend().name == "numpy"


def test_no_two_failures_say_the_same(cupy, monkeypatch):
    said = set()
    for take_away, _, _ in MISSING.values():
        with monkeypatch.context() as context:
            take_away(cupy, context)
            with pytest.raises(BackendError) as refused:
                set_backend("cupy")
            said.add(str(refused.value))
    assert len(said) == len(MISSING)


def test_the_pieces_are_asked_for_once(cupy, monkeypatch):
    with use_backend("cupy"):
        assert current_backend().name == "cupy"
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", raising(AssertionError()))
    with use_backend("cupy"), use_backend("numpy"):
        pass


def test_a_refused_choice_leaves_the_one_before(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with use_backend("numpy", "float64"):
        with pytest.raises(BackendError):
            use_backend("cupy", "float32")
        assert (current_backend().name, current_backend().dtype) == ("numpy", np.dtype("float64"))
        assert backend.xp.tanh is np.tanh


def test_the_doctor_and_this_machine_agree(tmp_path):
    """The doctor says what `--backend cupy` says, with or without a real CuPy and a real GPU."""
    words = [sys.executable, "-m", "minilstm.doctor", "--backend", "cupy"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    try:
        with use_backend("cupy"):
            assert done.returncode == 0
    except BackendError as error:
        assert done.returncode == 2
        assert done.stdout.splitlines()[-1].split(maxsplit=2)[2] == str(error)
