"""The benchmark: it runs, compares equal work, and counts what it should. No time is judged."""

import contextlib
import inspect
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from small import small

from minilstm import bench, config, threads
from minilstm.backend import xp
from minilstm.benchmark import contenders, gpu, growth, processes, profile, timing
from minilstm.benchmark.contenders import Work
from minilstm.command import run_command
from minilstm.errors import BackendError, RunError
from minilstm.figures import style
from minilstm.layers import cells, losses
from minilstm.layers.losses import BernoulliCrossEntropy
from minilstm.training import resources, step

LAYER, COMPOSITE = (4, 3, 6, 5), (3, 4, 16, 5)  # T, B, D, H
KINDS = {"standard": LAYER, "peephole": LAYER, "composite": COMPOSITE}


@pytest.mark.parametrize(
    "only",
    [
        (
            "standard 3,4,6,5 products, 1 thread",
            "composite 3,4,16,5 products",
            "composite 3,4,16,5 torch tuned",
            "memory 3,4,6,5 jax",
        ),
        pytest.param((), marks=pytest.mark.slow),
    ],
    ids=["few", "all"],
)
def test_a_quick_run_prints_every_row_that_is_asked_for(tmp_path, capsys, only):
    words = [word for name in only for word in ("--only", name)]
    path = tmp_path / "bench.json"
    assert bench.main(["--quick", "--threads", "1", "--json", str(path), *words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    rows = timing.all_contests(quick=True)
    rows = [row for row in rows if not only or any(name in row.name for name in only)]
    assert len(rows) == (4 if only else 18)
    assert [line.strip("| ").split(" | ")[:3] for line in lines] == [
        [row.kind, ",".join(map(str, row.size)), row.against] for row in rows
    ]
    saved = json.loads(path.read_text())
    assert saved["threads"] == 1 and "1 thread" in saved["libraries"]["ours"]["openblas"]
    assert [row["name"] for row in saved["rows"]] == [row.name for row in rows]
    for row in saved["rows"]:
        absent = "is not installed" in row["note"]
        assert absent == (row["ratio"] is None), row
        assert not absent or row["contender"] != "products"
        if not absent and row["kind"] != "memory":
            assert row["ratio"] > 0 and row["kept"] + row["dropped"] == timing.QUICK.pairs
            assert row["contender"] == "products" or row["difference"] <= timing.TOLERANCE
        if not absent and row["kind"] == "memory" and sys.platform == "linux":
            assert 1e7 < row["ours"] < 1e9 and 1e7 < row["other"] < 1e10


@pytest.mark.parametrize(
    "words", [["--only", "torch tuned", "memory"], ["--only", "torch tuned", "--only", "memory"]]
)
def test_only_the_rows_with_a_word_in_their_name_are_measured(monkeypatch, capsys, words):
    measured = []
    monkeypatch.setattr(bench, "compare", lambda row, *_: measured.append(row.name) or {})
    assert bench.main(["--quick", *words]) == 0
    names = [row.name for row in timing.all_contests(quick=True)]
    assert measured == [n for n in names if "torch tuned" in n or "memory" in n]
    assert 0 < len(measured) < len(names)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(measured)


def test_rows_of_the_full_table_have_unique_names_and_targets_belong_to_sizes():
    names = [row.name for row in timing.all_contests()]
    assert len(set(names)) == len(names) == 7 * 5 + 3 + 4 + 2 + 2
    targets = {row.name: row.target for row in timing.all_contests()}
    assert targets["standard 10,100,4096,2048 products"] == 0.95
    assert targets["standard 16,32,4096,2048 torch"] == 1.40
    assert targets["peephole 20,64,64,64 torch loop"] == 5.0
    assert targets["composite 10,100,4096,512 torch tuned"] == 1.4


# ---------------------------------------------------------------- the same work


def results(contender, work, path):
    """Return the results that a contender writes before it is timed."""
    processes.check(*contender(work), str(path))
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_computes_our_outputs_and_gradients(kind, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed: an optional witness")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    compare_results(contenders.torch, Work(kind, *KINDS[kind]), tmp_path)


@pytest.mark.parametrize("kind", ["standard", "peephole"])
def test_jax_computes_our_outputs_and_gradients(kind, tmp_path):
    pytest.importorskip("jax", reason="jax is not installed: a contender of the benchmark")
    compare_results(contenders.jax, Work(kind, *KINDS[kind]), tmp_path)


def compare_results(contender, work, tmp_path):
    mine = results(contenders.ours, work, tmp_path / "ours.npz")
    theirs = results(contender, work, tmp_path / "other.npz")
    params = {f"gradient of {name}" for name in contenders.blank(work).params()}
    outputs = ("reconstruction", "future", "gradient_norm")
    outputs = outputs if work.kind == "composite" else ("y", "dx")
    expected = params | {f"{name} of step {k}" for name in outputs for k in (1, 2)}
    assert set(mine) == set(theirs) == expected
    for name, want in mine.items():
        scale = abs(want).max(initial=1e-30)
        np.testing.assert_allclose(
            theirs[name] / scale, want / scale, rtol=0, atol=1e-5, err_msg=name
        )
        assert want.any() or want.size == 0, name  # decoders have inputs of width 0
    if work.kind == "composite":  # the second step sees what the optimizer did
        assert mine["future of step 2"] < mine["future of step 1"]
    else:
        np.testing.assert_array_equal(mine["y of step 2"], mine["y of step 1"])


class Fake:
    """A contender that returns given results."""

    def __init__(self, name, **arrays):
        self.name, self.arrays = name, arrays

    def ask(self, request, path):
        np.savez(path, **self.arrays)


@pytest.mark.parametrize("wrong", [1.001, np.nan, np.inf])
def test_contenders_with_different_results_are_not_timed(wrong):
    ours = Fake("ours", y=np.ones(3), dx=np.ones(2))
    assert (
        timing.largest_difference(ours, Fake("torch", y=np.full(3, 1.00001), dx=np.ones(2))) < 1e-4
    )
    with pytest.raises(RunError, match="expected the same y from torch"):
        timing.largest_difference(ours, Fake("torch", y=np.array([1, 1, wrong]), dx=np.ones(2)))
    with pytest.raises(RunError, match=r"expected the same y from torch .* shape \(2,\)"):
        timing.largest_difference(ours, Fake("torch", y=np.ones(2), dx=np.ones(2)))
    with pytest.raises(RunError, match="of torch"):
        timing.largest_difference(ours, Fake("torch", y=np.ones(3)))


# ---------------------------------------------------------------- the bare products


def matrix_flop(calls):
    """Return the flop of products of two matrices, without the sums for biases and peepholes."""
    return contenders.flop([call for call in calls if call[0].ndim == 2])


@pytest.mark.parametrize("kind", ["standard", "peephole"])
def test_the_bare_products_are_those_of_a_layers_step(kind):
    T, B, D, H = LAYER
    step, _ = contenders.ours(Work(kind, *LAYER))
    calls = contenders.recorded(step)
    # forward, gradient of the weights and gradient of the inputs, of Wx and of Wh
    assert matrix_flop(calls) == 3 * 2 * T * B * (D + H) * 4 * H
    summed = 4 * H + (3 * H if kind == "peephole" else 0)
    assert contenders.flop(calls) - matrix_flop(calls) == 2 * T * B * summed
    assert xp.matmul is np.matmul


def test_the_bare_products_of_a_training_step_are_those_that_resources_counts():
    work = Work("composite", *COMPOSITE)
    calls = contenders.recorded(contenders.ours(work)[0])
    announced = resources.gflop_per_step(contenders.blank(work), contenders.settings(work))
    assert matrix_flop(calls) == pytest.approx(1e9 * announced, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_products_are_repeated_as_they_were_made(kind, monkeypatch):
    work = Work(kind, *KINDS[kind])
    made = contenders.recorded(contenders.ours(work)[0])
    replay, _ = contenders.products(work)
    repeated, matmul = [], np.matmul

    def counting(a, b, out):
        assert matmul(a, b, out=out) is out and np.isfinite(out).all()
        repeated.append((a, b, out))

    monkeypatch.setattr(np, "matmul", counting)
    for _ in range(50):  # nothing grows
        repeated.clear()
        replay()

    def layout(calls):
        return [[(array.shape, array.strides, array.dtype) for array in call] for call in calls]

    assert layout(repeated) == layout(made)


# ---------------------------------------------------------------- pairs and processes


def turn(seconds, others=0.0):
    return {"seconds": seconds, "others": others}


def test_ratios_are_medians_of_the_undisturbed_pairs():
    row = timing.all_contests()[0]
    pairs = [(turn(1), turn(k)) for k in (2, 3, 7)]
    pairs += [(turn(1, 0.5), turn(100)), (turn(1), turn(200, 0.06))]
    timing.summarize(row, pairs)
    assert (row.ratio, row.kept, row.dropped, row.note) == (3, 3, 2, "")
    assert (row.ours, row.other, row.quartiles) == (1, 3, (2.5, 5))
    assert "| 3.00 | >= 0.95 | 2.50-5.00 | 1e+03 ms | 3e+03 ms | 3 (2 dropped) |" in (
        timing.table([row])
    )
    timing.summarize(row, [(turn(2, 1), turn(3, 1))])
    assert (row.ratio, row.kept, row.dropped, row.note) == (1.5, 0, 1, "disturbed")


def test_the_two_of_a_pair_take_turns(monkeypatch):
    asked = []

    class Timed:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def ask(self, request, count):
            asked.append((self.name, count))
            return turn(self.seconds)

    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    pairs = timing.take_turns(Timed("a", 0.1), Timed("b", 7), timing.Duration(0, 3, turn=1.0))
    assert asked == [("a", 1)] * 2 + [("b", 1)] * 2 + [("a", 10), ("b", 1)] * 3
    assert pairs == [(turn(0.1), turn(7))] * 3


@pytest.mark.parametrize(("name", "tuned"), [("ours", False), ("torch loop tuned", True)])
def test_a_process_starts_without_variables_that_change_a_library(name, tuned, monkeypatch):
    class StartedError(Exception):
        pass

    def popen(command, env, **keywords):
        raise StartedError(command, env)

    for variable in processes.UNSET:
        monkeypatch.setenv(variable, "something")
    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    with pytest.raises(StartedError) as started:
        processes.Process(name, Work("peephole", *LAYER), 1)
    command, env = started.value.args
    assert f'"{name.split()[0]}"' in command[-1]
    assert env.get("GLIBC_TUNABLES") == (processes.TUNED if tuned else None)
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(env)
    assert all(env[variable] == "1" for variable in processes.VARIABLES)
    assert "OPENBLAS_CORETYPE=something" in timing.conditions(1, {})


def test_a_process_that_dies_is_one_line():
    with processes.Process("ours", Work("standard", *LAYER), 1) as process:
        assert process.ask("time", 3)["seconds"] > 0
        process._process.kill()
        with pytest.raises(RunError, match="process that times ours"):
            process.ask("time", 3)


@pytest.mark.parametrize(
    "module, name",
    [("torch", "torch"), ("numpy", "ours"), ("threadpoolctl", "products"), ("psutil", "ours")],
)
def test_a_process_that_cannot_import_what_it_needs_gives_the_reason(
    tmp_path, monkeypatch, capfd, module, name
):
    """At its start, or with the first time that is asked for."""
    said = "libgomp.so.1: cannot open shared object file"
    (tmp_path / f"{module}.py").write_text(f"raise ImportError({said!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    expected = rf"expected an answer of the process that times {name}, got ImportError \({said}\): "
    with pytest.raises(RunError, match=expected):
        with processes.Process(name, Work("standard", *LAYER), 1) as process:
            process.ask("time", 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "composite", "foo"], "expected --only to be a part of a row's name"),
        (["--threads", "0"], "argument --threads"),
        (["--threads", "100000"], "argument --threads"),
        (["--seconds", "nan"], "argument --seconds"),
        (["growht"], "got 'growht': did you mean 'growth'?"),
        (["growth", "--out", "a.html"], "got a name that does not end in .png"),
        (["--quick", "--seconds", "3"], "expected no --quick for --seconds"),
        (["--quick", "growth"], "expected growth before the flags"),
        (["profile", "--count", "0"], "argument --count"),
        (["profile", "--backend", "cupy"], "expected --backend numpy"),
        (["ranks", "--threads", "2"], "expected minilstm.train on one rank for --threads"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    try:
        status = run_command(lambda: bench.main(arguments))
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err
    assert printed.err.count("\n") == 1


# ---------------------------------------------------------------- growth


def test_growth_draws_one_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.main(["growth", "--quick", "--threads", "1", "--json", "g.json"]) == 0
    printed = capsys.readouterr().out
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.size == (9 * style.DPI, 5 * style.DPI)
    saved = json.loads((tmp_path / "g.json").read_text())
    assert [sweep["name"] for sweep in saved["sweeps"]] == list(growth.BASE)
    for sweep in saved["sweeps"]:
        assert sweep["sizes"] == [growth.QUICK_BASE[sweep["name"]] * k for k in (1, 2)]
        assert f"| {sweep['name']} | " in printed


def test_a_power_is_the_slope_on_logarithmic_scales():
    sweep = growth.Sweep("H", [1, 2, 4], [0.5, 2, 8])
    assert sweep.power == pytest.approx(2)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_memory_per_step_is_the_stored_set(layers):
    size = {"T": 5, "B": 6, "layers": layers, "H": 32}
    found, expected = growth.memory_per_step(size), growth.stored_set(size)
    assert found["forward"] == expected["forward"] == 6 * layers * 32
    assert found["peak"] == pytest.approx(expected["peak"], rel=0.1)


# ---------------------------------------------------------------- the profile


SMALL = small(model={"hidden": 4})


def test_a_call_inside_a_call_counts_for_the_inner_one_alone(monkeypatch):
    now = [0.0]

    class Works:
        def outer(self):
            now[0] += 1
            self.inner()
            now[0] += 2
            self.inner()

        def inner(self):
            now[0] += 10

    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])
    watch, works, before = profile.Stopwatch(), Works(), dict(vars(Works))
    with contextlib.ExitStack() as stack:
        watch.wrap(stack, Works, "outer", "outside")
        watch.wrap(stack, Works, "inner", "inside")
        works.outer()
        works.inner()
    works.outer()  # no longer timed
    assert watch.seconds == {"outside": 3, "inside": 30}
    assert dict(vars(Works)) == before


def test_a_profile_has_every_part_of_a_step_and_leaves_no_trace():
    before = dict(vars(cells)), dict(vars(step)), dict(vars(BernoulliCrossEntropy))
    found, said = profile.profile(config.load(overrides=SMALL), 3)
    assert before == (dict(vars(cells)), dict(vars(step)), dict(vars(BernoulliCrossEntropy)))
    assert xp.matmul is np.matmul
    assert set(found) == {
        "whole",
        "matrix products", "cells", "losses", "optimizer", "waiting for data", "everything else",
    }  # fmt: skip
    assert all(seconds > 0 for seconds in found.values())
    assert said == ""  # the tests run with one thread: there is no trial


def test_a_profile_counts_no_part_of_a_loss_as_a_cell():
    names = profile._cell_functions()
    assert {"lstm_cell", "lstm_slopes", "lstm_cell_backward", "elman_cell"} <= set(names)
    assert all(f"cells.{name}(" not in inspect.getsource(losses) for name in names)
    assert "cells.absolute(" in inspect.getsource(losses)  # else this test proves nothing


@pytest.mark.parametrize(
    "words, allowed, said",
    [
        (["--threads", "1"], {1}, False),
        (["--threads", "2"], {2}, False),
        ([], {1, 2}, True),
    ],
)
def test_a_profile_obeys_its_number_of_threads(monkeypatch, capfd, words, allowed, said):
    """Without a number the same trial as in training chooses, and a line says what it chose."""
    found, real, timed = set(), step.training_step, threads.timed

    def watched(*arguments):
        found.add(threads.blas()["num_threads"])
        return real(*arguments)

    monkeypatch.setattr(step, "training_step", watched)
    monkeypatch.setattr(threads, "timed", lambda *words: timed(*words[:2], 0.001))
    small = "--frame-size 8 --digit-size 5 --past 3 --future 3 --hidden 4 --batch-size 4".split()
    with threads.restored():
        threads.limit(2)  # conftest.py starts BLAS with one
        assert bench.main(["profile", "--count", "1", *small, *words]) == 0
        assert threads.blas()["num_threads"] == 2  # as before the command
    assert found == allowed  # a trial of `auto` tries both
    assert capfd.readouterr().err.startswith("threads   ") == said


def test_every_part_of_pytorchs_model_is_on_the_gpu(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed: an optional witness")
    monkeypatch.setattr(gpu, "find_torch", lambda: torch)
    monkeypatch.setattr(gpu, "DEVICE", "meta")  # a device that has shapes and no numbers
    other = gpu.Torch(gpu.TINY[0])
    tensors = [*other.module.parameters(), *other.losses()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_graph_that_pytorch_can_not_record_costs_one_column_and_no_row(monkeypatch):
    said = []

    def fails(*arguments, **keywords):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu, "Torch", fails)
    assert gpu._captured(gpu.TINY[0], said.append) is None
    assert said == [
        "PyTorch captured is not measured: RuntimeError (operation not permitted when stream is "
        "capturing)"
    ]
    ours = {"ours": 1.0, "PyTorch as used": 2.0, "own products": 0.5}
    row = {
        "row": "tiny", "precision": "tf32", "targets": None, "without a graph": 2.0, "floor": 0.5,
        "milliseconds": ours, "ratios": {f"{name} / ours": x for name, x in ours.items()},
        "idle": 0.01, "idle, host busy": 0.02, "launches": None, "products": 7,
    }  # fmt: skip
    text = gpu.in_words({"device": "A GPU", "limits": {}, "rows": [row]})
    assert "| 2.00: 2.00 | - | 0.50: 0.50 |" in text


def test_bench_gpu_without_pytorch_says_so_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="expected PyTorch .*: pip install torch"):
        gpu.find_torch()


def test_bench_gpu_prints_a_table_with_its_targets():
    rows = [
        {
            "row": row.name, "precision": row.precision, "targets": None, "without a graph": 2.0,
            "milliseconds": dict.fromkeys(("ours", *gpu.CONTENDERS), 1.0), "floor": 0.5,
            "idle": 0.01,
            "ratios": {f"{name} / ours": 1.5 for name in gpu.CONTENDERS}, "idle, host busy": 0.02,
            "launches": None, "products": 7,
        }
        for row in gpu.ROWS
    ]  # fmt: skip
    rows[0]["targets"] = (1.15, 1.05, 0.7)
    text = gpu.in_words({"device": "A GPU", "limits": {"copy, TB/s": 3.0}, "rows": rows})
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(gpu.ROWS) and len({line.count("|") for line in lines}) == 1
    assert "1.00: 1.50 (>= 1.15)" in lines[2] and "(>=" not in lines[3]
