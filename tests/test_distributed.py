"""Several ranks do what one does: the same gradients and weights, one folder, one end for all.

The ranks are processes that mpiexec starts on this machine, more of them than it may have CPUs.
"""

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import types
from types import SimpleNamespace

import numpy as np
import pytest
from small import small
from test_cupy import compiling_alone, launcher

from minilstm import config, threads, train
from minilstm.benchmark.ranks import scaling, sum_seconds
from minilstm.errors import BackendError, ConfigError
from minilstm.gpu import nccl, transfers
from minilstm.runs import build, checkpoint, run_folder
from minilstm.training import resources
from minilstm.training.batches import draw_batch
from minilstm.training.distributed import Alone, Ranks
from minilstm.training.progress import Progress

TINY = (
    "--frame-size 8 --digit-size 5 --num-digits 1 --past 3 --future 3 --hidden 6 --batch-size 5 "
    "--log-every 3 --validate-every 4 --precision float64"
).split()
LIMIT = 300  # seconds: what takes longer hangs


@functools.cache
def mpiexec():
    """The launcher beside this Python, or else on the path; None without it or mpi4py."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    return shutil.which("mpiexec", path=sysconfig.get_path("scripts")) or shutil.which("mpiexec")


def started(N, *words, cwd, before=()):
    """N ranks of `before python words`, just started."""
    if mpiexec() is None:
        pytest.skip("mpi4py or its mpiexec is not installed")
    command = [mpiexec(), "-n", N, *before, sys.executable, *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, **streams)


def ended(process):
    """Wait for a process; return its status and its output."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return SimpleNamespace(status=process.returncode, out=out, err=err)


def on_ranks(N, *words, cwd, status=0, before=()):
    """N ranks of `before python words`, which must end with this status."""
    done = ended(started(N, *words, cwd=cwd, before=before))
    assert done.status == status, (done.status, done.out, done.err)
    return done


def training(N, *words, cwd, status=0):
    """N ranks of the command."""
    return on_ranks(N, "-m", "minilstm.train", "--distributed", *words, cwd=cwd, status=status)


def undrawn(N, *words, cwd):
    """N ranks of the command without pictures, which take longer than all the rest."""
    return on_ranks(N, "-c", BUT, 0, -1, "None", *words, cwd=cwd)


def alone(monkeypatch, *words):
    """One process, this one, which knows of no others."""
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    train.main([*map(str, words), "--quiet"])


def weights(run):
    """All arrays of a checkpoint end to end, and its description."""
    arrays, about = checkpoint.read(run / "checkpoint.safetensors")
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]), about


# ------------------------------------------------------------------------- which rows


class OneOf(Alone):
    """A rank that nobody started."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("B", (7, 8, 9, 15, 128))
def test_every_sequence_of_a_batch_belongs_to_one_rank_and_the_shares_are_even(B, count):
    rows = [range(B)[OneOf(rank, count).rows(B)] for rank in range(count)]
    assert [b for part in rows for b in part] == list(range(B))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_more_ranks_than_sequences_are_refused():
    with pytest.raises(ConfigError, match="each of 8 ranks, got --batch-size 7: raise it"):
        OneOf(3, 8).rows(7)


SCHEDULED = small(
    data={"future": 4},
    model={"layers": 2, "dropout": 0.4, "conditional": "both"},
    feeding={"inputs": "scheduled", "truth_start": 0.6, "truth_end": 0.4},
    run={"batch_size": 5, "precision": "float64"},
)


def test_masks_and_sampling_choices_are_those_of_the_rows_of_the_whole_batch():
    settings = config.load(overrides=SCHEDULED)
    source = build.open_source(settings, "train")
    whole = draw_batch(source, settings, 3)
    parts = [draw_batch(source, settings, 3, OneOf(rank, 3)) for rank in range(3)]
    assert sum(part.share for part in parts) == pytest.approx(1, abs=1e-15) and whole.share == 1
    for name in ("past", "future"):
        together = np.concatenate([getattr(part, name) for part in parts], axis=1)
        assert (together == getattr(whole, name)).all()
    for decoder in range(2):
        together = np.concatenate([part.feed_truth[decoder] for part in parts], axis=1)
        assert (together == whole.feed_truth[decoder]).all() and 0 < together.mean() < 1
    for stack in range(3):
        together = np.concatenate([part.masks[stack][0] for part in parts], axis=1)
        assert (together == whole.masks[stack][0]).all() and 0 < together.mean() < 1


# ------------------------------------------------------------------------- the same numbers

# Every case of argv: the gradient of step 0 and the weights after 10 steps, of every rank.
STEPS = """
import json, math, sys
import numpy as np
from minilstm import config
from minilstm.backend import use_backend
from minilstm.runs import build
from minilstm.training.batches import draw_batch
from minilstm.training.distributed import Ranks
from minilstm.training.step import training_step

with Ranks("numpy") as ranks, use_backend("numpy", "float64"):
    found = {}
    for name, tree in json.loads(sys.argv[1]).items():
        settings = config.load(overrides=tree)
        source = build.open_source(settings, "train")
        model = build.build_model(settings, math.prod(source.frame_shape))
        optimizer, rows = build.build_optimizer(model, settings), []
        for k in range(10):
            batch = draw_batch(source, settings, k, ranks)
            now = training_step(model, optimizer, batch, settings, 0.05, ranks)
            rows.append([float(now[key]) for key in sorted(now)])
            if k == 0:
                found[name + " gradient"] = model.flat().grad.copy()
        found[name + " weights"], found[name + " losses"] = model.flat().value, np.array(rows)
    np.savez(f"{sys.argv[2]}-{ranks.rank}.npz", **found)
"""
CASES = {
    f"{scale}, clip {clip}": SCHEDULED
    | {
        "loss": {"gradient_scale": scale, "reconstruction_weight": 0.7},
        "optimizer": {"rule": "sgd", "momentum": 0.5, "clip_norm": clip},
    }
    for scale in ("mean", "batch_mean", "sum")
    for clip in (0.0, 0.3)
    if scale == "mean" or clip  # a sum that nobody bounds diverges in ten steps
}


def test_gradients_and_weights_are_those_of_one_rank(tmp_path):
    N, cases = 4, json.dumps(CASES)
    for count in (1, N):
        on_ranks(count, "-c", STEPS, cases, f"of{count}", cwd=tmp_path)
    with np.load(tmp_path / "of1-0.npz") as alone:
        for rank in range(N):
            with (
                np.load(tmp_path / f"of{N}-{rank}.npz") as found,
                np.load(tmp_path / f"of{N}-0.npz") as first,
            ):
                for name in alone:
                    assert (found[name] == first[name]).all(), (rank, name)
                    limit = 1e-12 if name.endswith("gradient") else 1e-10
                    error = abs(found[name] - alone[name]).max() / abs(alone[name]).max()
                    assert error < limit, (rank, name, error)


def test_a_run_of_several_ranks_is_that_of_one(tmp_path):
    """Its weights, its log and its validation within rounding; its folder has the same files."""
    N = 2
    train.main([*TINY, "--steps", "12", "--quiet", "--out", str(tmp_path / "one")])
    done = training(N, *TINY, "--steps", 12, "--out", "several", cwd=tmp_path)
    assert done.out.count("run       several") == 1 and f"for each of {N} ranks" in done.out
    names = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "several")]
    assert names[0] == names[1] and "prediction.gif" in names[0]
    (one, about_one), (several, about) = (weights(tmp_path / run) for run in ("one", "several"))
    assert abs(one - several).max() < 1e-10 and about_one["step"] == about["step"] == 12
    assert about["environment"]["ranks"] == str(N) and about_one["environment"]["ranks"] == "1"
    logs = [run_folder.read_log(tmp_path / run / "metrics.jsonl") for run in ("one", "several")]
    for row, same in zip(*logs, strict=True):
        row["seconds"] = same["seconds"] = 0
        assert row == pytest.approx(same, abs=1e-9)


# ------------------------------------------------------------------------- resumed


def test_a_run_resumed_with_as_many_ranks_ends_in_the_same_bits(tmp_path):
    undrawn(2, *TINY, "--steps", 9, "--out", "straight", cwd=tmp_path)
    undrawn(2, *TINY, "--steps", 5, "--out", "resumed", cwd=tmp_path)
    done = undrawn(2, "--resume", "resumed", "--extend-to", 9, cwd=tmp_path)
    assert "resumed   after step 5\n" in done.out
    runs = [weights(tmp_path / run)[0] for run in ("straight", "resumed")]
    assert runs[0].tobytes() == runs[1].tobytes()


def test_a_run_resumed_with_other_ranks_says_so_and_is_equal_within_rounding(tmp_path, monkeypatch):
    undrawn(3, *TINY, "--steps", 5, "--out", "resumed", cwd=tmp_path)
    done = undrawn(2, "--resume", "resumed", "--extend-to", 7, cwd=tmp_path)
    assert "after step 5, on 2 ranks, not 3: equal within rounding, not to the bit\n" in done.out
    alone(monkeypatch, "--resume", tmp_path / "resumed", "--extend-to", 9)
    alone(monkeypatch, *TINY, "--steps", 9, "--out", tmp_path / "straight")
    (straight, _), (resumed, about) = (weights(tmp_path / run) for run in ("straight", "resumed"))
    assert about["environment"]["ranks"] == "1" and about["step"] == 9
    assert abs(straight - resumed).max() < 1e-10


# ------------------------------------------------------------------------- one end for all

# The command, but one rank does something else in a step: argv is rank, step, what, arguments.
BUT = """
import os, sys, time
from minilstm import train
from minilstm.command import run_command
from minilstm.errors import RunError
from minilstm.training import batches, distributed, loop, packing
from minilstm.training.progress import Progress

distributed.GRACE_SECONDS = 0.5
packing.MovingPacking = packing.NumbersPacking  # frames as floats: bytes can't be NaN
rank, step, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
Progress.draw = lambda run: None
draw, training_step = batches.draw_batch, loop.training_step

def draw_but(source, settings, k, ranks):
    batch = draw(source, settings, k, ranks)
    if (what, k, ranks.rank) == ("nan", step, rank):
        batch.past[1, 0, 2] = float("nan")
    return batch

def step_but(model, optimizer, batch, settings, rate, ranks):
    if what != "nan" and (optimizer.steps, ranks.rank) == (step, rank):
        eval(what)
    return training_step(model, optimizer, batch, settings, rate, ranks)

def fail(error):
    raise error

batches.draw_batch, loop.training_step = draw_but, step_but
sys.exit(run_command(lambda: train.main(["--distributed", *sys.argv[4:]])))
"""
OFTEN = [*TINY, "--steps", 12, "--checkpoint-every", 2, "--out", "run"]


def test_a_rank_that_is_killed_ends_all_and_leaves_a_checkpoint_to_resume(tmp_path, monkeypatch):
    done = ended(started(2, "-c", BUT, 1, 7, "os.kill(os.getpid(), 9)", *OFTEN, cwd=tmp_path))
    assert done.status not in (0, 2) and "Killed" in done.out + done.err
    assert weights(tmp_path / "run")[1]["step"] == 6
    undrawn(2, "--resume", "run", cwd=tmp_path)
    alone(monkeypatch, *TINY, "--steps", 12, "--out", tmp_path / "straight")
    straight, resumed = (weights(tmp_path / run)[0] for run in ("straight", "run"))
    assert abs(straight - resumed).max() < 1e-10


@pytest.mark.parametrize(
    ("rank", "what", "said", "status"),
    (
        (1, "fail(KeyError('lost'))", "KeyError: 'lost'", 1),
        pytest.param(
            1,
            "fail(MemoryError('no room'))",
            "error: expected enough memory, got no room",
            2,
            marks=pytest.mark.slow,
        ),
        (0, "fail(RunError('expected room'))", "error: expected room", 2),
    ),
)
def test_an_error_on_one_rank_ends_all_and_names_it(tmp_path, rank, what, said, status):
    done = on_ranks(2, "-c", BUT, rank, 7, what, *OFTEN, cwd=tmp_path, status=status)
    assert done.err.count(said) == 1 and ("on rank 1 of 2:" in done.err) == (rank == 1)
    assert weights(tmp_path / "run")[1]["step"] == 6


@pytest.mark.parametrize("rank", (0, 1))
def test_numbers_that_are_not_finite_on_one_rank_stop_all_with_one_message(tmp_path, rank):
    done = on_ranks(2, "-c", BUT, rank, 7, "nan", *OFTEN, cwd=tmp_path, status=2)
    assert done.err.count("error:") == 1 and "in step 8" in done.err
    assert "on rank" not in done.err and "Abort" not in done.err
    assert weights(tmp_path / "run")[1]["step"] == 7


@pytest.mark.parametrize("on_nan", ("skip", "rewind"))
def test_all_ranks_skip_or_rewind_together(tmp_path, on_nan):
    """Rank 1 of 2 has sequences 2, 3 and 4; alone it is the third in whose past the NaN is."""
    words = [7, "nan", *OFTEN, "--on-nan", on_nan]
    on_ranks(2, "-c", BUT, 1, *words, cwd=tmp_path)
    several = weights(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "several")
    on_ranks(1, "-c", BUT, 0, *words, cwd=tmp_path)
    alone = weights(tmp_path / "run")
    assert abs(several[0] - alone[0]).max() < 1e-10
    assert several[1]["optimizer_steps"] == alone[1]["optimizer_steps"] < 12


def wait_for(path, process):
    until = time.monotonic() + LIMIT
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()  # or it would train on, and nobody would say what is amiss
            pytest.fail(f"no {path.name}: {ended(process)}")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "signum", (signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow))
)
def test_a_signal_to_mpiexec_stops_all_ranks_with_a_checkpoint(tmp_path, signum):
    long = [*TINY, "--steps", 10**6, "--checkpoint-every", 0, "--out", "run", "--quiet"]
    process = started(2, "-m", "minilstm.train", "--distributed", *long, cwd=tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(signum)
    done = ended(process)
    assert done.status == 128 + signum and done.err.count("interrupted") == 1
    assert weights(tmp_path / "run")[1]["step"] >= 3


def test_a_signal_that_reaches_one_rank_stops_all_after_the_same_step(tmp_path):
    what = "os.kill(os.getpid(), 15)"
    done = on_ranks(2, "-c", BUT, 1, 5, what, *OFTEN, cwd=tmp_path, status=143)
    assert done.err.count("interrupted") == 1
    assert weights(tmp_path / "run")[1]["step"] == 6


def test_a_limit_of_time_stops_all_ranks_together(tmp_path):
    undrawn(2, *TINY, "--minutes", 0.01, "--steps", 10**6, "--out", "run", cwd=tmp_path)
    assert 0 < weights(tmp_path / "run")[1]["step"] < 10**6


def test_what_is_refused_on_every_rank_is_said_once(tmp_path):
    done = training(2, *TINY, "--batch-size", 1, "--out", "run", cwd=tmp_path, status=2)
    assert done.err.count("error: expected at least one sequence") == 1
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------- where it can't be


def test_without_mpi_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(BackendError, match=r"got none: pip install -e '\.\[mpi\]'"):
        Ranks("numpy")


def test_ranks_that_do_not_know_of_one_another_are_refused(tmp_path):
    """So it is if mpiexec belongs to another MPI than the library; here, if it only says so."""
    if mpiexec() is None:
        pytest.skip("mpi4py or its mpiexec is not installed")
    command = [sys.executable, "-m", "minilstm.train", "--distributed", "--out", tmp_path / "run"]
    environment = os.environ | {"OMPI_COMM_WORLD_SIZE": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected 2 ranks (from OMPI_COMM_WORLD_SIZE), got one alone" in done.stderr


# ------------------------------------------------------------------------- shares of a machine


def test_ranks_share_the_cpus_of_their_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")  # which conftest.py set; here nobody has
    code = (
        "from minilstm.training.distributed import Ranks\n"
        "from threadpoolctl import threadpool_info\n"
        "with Ranks('numpy') as ranks:\n"
        "    threads = [pool['num_threads'] for pool in threadpool_info()\n"
        "               if pool['user_api'] == 'blas']\n"
        "    open(str(ranks.rank), 'w').write(str(threads))"
    )
    N = len(threads.cpus())
    on_ranks(N, "-c", code, cwd=tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(N)] == ["[1]"] * N


def test_memory_is_refused_by_what_all_neighbours_need_together(monkeypatch):
    settings = config.load(overrides=SCHEDULED)
    memory = resources.Memory(fixed=1000, per_sequence=10)
    ranks = OneOf(0, 4)
    ranks.neighbours = 2
    monkeypatch.setattr(resources, "free_memory", lambda: 2 * memory.needed(2))
    resources.refuse_memory(memory, settings, ranks)
    monkeypatch.setattr(resources, "free_memory", lambda: 2 * memory.needed(2) - 1)
    with pytest.raises(ConfigError, match="--batch-size 4 would fit"):
        resources.refuse_memory(memory, settings, ranks)


# ------------------------------------------------------------------------- GPUs, without any


def module(name, **content):
    found = types.ModuleType(name)
    vars(found).update(content)
    return found


def test_each_rank_of_a_machine_chooses_a_gpu_of_its_own(monkeypatch):
    for find in ("find_cupy", "find_driver", "find_device"):
        monkeypatch.setattr(nccl, find, lambda: "well")
    chosen = []
    runtime = SimpleNamespace(getDeviceCount=lambda: 3, setDevice=chosen.append)
    monkeypatch.setitem(sys.modules, "cupy", module("cupy"))
    monkeypatch.setitem(sys.modules, "cupy.cuda", module("cupy.cuda", runtime=runtime))
    assert [nccl.use_device(number) for number in range(4)] == [3] * 4
    assert chosen == [0, 1, 2, 0]


def test_sums_over_gpus_are_those_of_nccl_in_place(monkeypatch):
    class NCCLBackend:
        def __init__(self, n_devices, rank, use_mpi):
            assert (n_devices, rank, use_mpi) == (4, 2, True)

        def all_reduce(self, in_array, out_array, op="sum", stream=None):
            out_array += 3 * in_array

    both = module("cupyx"), module("cupyx.distributed", NCCLBackend=NCCLBackend)
    for part in both:
        monkeypatch.setitem(sys.modules, part.__name__, part)
    array = np.ones(5)
    nccl.sum_over_devices(4, 2)(array)
    assert (array == 4).all()


def test_without_nccl_the_error_names_its_wheels(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupyx.distributed", None)
    with pytest.raises(BackendError, match="expected NCCL.*pip install nvidia-nccl-cu12"):
        nccl.sum_over_devices(2, 0)


NCCL_BY_MPI = """
import sys, types
from minilstm.gpu import cross_entropy, kernels

if "fakegpu" in sys.modules:  # threads that wait for each other are emulated slowly
    kernels.THREADS, cross_entropy.BLOCKS = 32, 2

class NCCLBackend:
    def __init__(self, n_devices, rank, use_mpi):
        pass

    def all_reduce(self, in_array, out_array):
        from mpi4py import MPI
        total = in_array.get()
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, total)
        out_array.set(total)

sys.modules["cupyx.distributed"] = types.SimpleNamespace(NCCLBackend=NCCLBackend)
"""


@pytest.mark.parametrize("what", (pytest.param("None", marks=pytest.mark.slow), "nan"))
def test_two_ranks_on_devices_do_what_one_does_without(tmp_path, what):
    """All but NCCL itself. Numbers come late from a device: all ranks must rewind together."""
    if isinstance(launcher(), str):
        pytest.skip(launcher())
    words = [7, what, *OFTEN, "--on-nan", "rewind"]
    on_ranks(1, "-c", BUT, 0, *words, cwd=tmp_path)
    alone = weights(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "alone")
    (tmp_path / "but.py").write_text(NCCL_BY_MPI + BUT)
    device = [*words, "--backend", "cupy"]
    with compiling_alone():
        on_ranks(1, "but.py", 0, *device, cwd=tmp_path, before=launcher())  # compiles all kernels
        assert abs(weights(tmp_path / "run")[0] - alone[0]).max() < 1e-10
        (tmp_path / "run").rename(tmp_path / "one")
        on_ranks(2, "but.py", 1, *device, cwd=tmp_path, before=launcher())
    found = weights(tmp_path / "run")
    assert abs(found[0] - alone[0]).max() < 1e-10
    assert found[1]["optimizer_steps"] == alone[1]["optimizer_steps"]
    assert found[1]["environment"]["ranks"] == "2" and "device" in found[1]["environment"]


@pytest.mark.parametrize("together", (True, False))
def test_what_a_device_has_sent_is_waited_for_where_several_ranks_must_know_of_it(together):
    """Alone, a rank may go on; with others it would go back after another step than they do."""
    readings, event = transfers.Readings(1, together), SimpleNamespace(done=False)
    event.synchronize = lambda: vars(event).update(done=True)
    readings._sent.append(([7], ["future"], [[1.5]], event))
    assert readings.take() == ([(7, {"future": 1.5})] if together else [])
    assert event.done == together


# ------------------------------------------------------------------------- the benchmark


def test_the_benchmark_measures_the_sum_and_computes_what_more_ranks_would_bring(tmp_path):
    words = ["ranks", "--count", 2, *TINY]
    done = on_ranks(2, "-m", "minilstm.bench", *words, cwd=tmp_path)
    assert done.out.count("ms a step on 2 ranks") == 1 and "as measured here" in done.out
    assert "5 sequences a step" in done.out and "3,980 parameters" in done.out


def test_the_sum_takes_two_thirds_more_on_six_ranks_than_on_two():
    """2 (N-1)/N: 1 on two ranks, 5/3 on six; nothing on one."""
    assert sum_seconds(3e9, 1e9, 1) == 0
    assert sum_seconds(3e9, 1e9, 2) == pytest.approx(3)
    assert sum_seconds(3e9, 1e9, 6) == pytest.approx(5)


def test_the_computed_table_is_the_formula_it_prints():
    table = scaling(600.0, 4e8, {"mine": (300.0, 2.0)}).splitlines()
    cells = [cell.strip() for cell in table[2].split("|")[1:-1]]
    assert cells[:4] == ["mine", "300", "2", "2,000 ms, 100 %"]
    assert cells[4] == "1,200 ms, 83 %"  # 600/300/2 s and 4e8/2e9 s
