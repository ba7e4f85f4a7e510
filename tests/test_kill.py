"""Training that is killed, and disks that are full or broken: a part of kill.py, and more.

`python tests/harness/kill.py --kills 200` does all of it. Here are a few kills and faults. Then
come faults of system calls (strace), a disk that is full (a tiny tmpfs) and a limit of file sizes.
"""

import contextlib
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import kill
import numpy as np
import pytest
from kill import Calls, damage, differences, error, step_of

import minilstm
from minilstm import files, train
from minilstm.command import run_command
from minilstm.errors import RunError
from minilstm.optim import Adam
from minilstm.runs import checkpoint, run_folder
from minilstm.training.progress import Progress

STEPS = 12
FLAGS = [*kill.TINY, "--validate-every", "2", "--checkpoint-every", "2"]
TRAIN = """
import os, resource, sys
os.getpid = lambda: 4711  # so that the names of temporary files are known beforehand
from minilstm import train
from minilstm.command import run_command
from minilstm.training.progress import Progress
Progress.draw = lambda run: None
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(run_command(lambda: train.main(sys.argv[2:])))
"""


# ------------------------------------------------------------------------- the harness itself


def harness(*arguments):
    command = [sys.executable, kill.__file__, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_some_kills_and_some_faults_lose_nothing():
    assert "0 failures" in harness("--kills", 1, "--steps", 20, "--every", 150, "--jobs", 1)


@pytest.mark.slow
def test_two_hundred_kills_and_a_fault_in_every_call_lose_nothing():
    assert "0 failures" in harness("--kills", 200)


# ------------------------------------------------------------------------- one write at a time


def state(step):
    """A model, its optimizer and a description, all of which tell the step."""
    model = minilstm.Composite(16, 4, 1, np.random.default_rng(step))
    optimizer = Adam(model.flat(), momentum=0.9, decay=0.9, epsilon=1e-8)
    optimizer.steps = step
    return model, optimizer, {"step": step}


def folder_of_three(path):
    """A run folder after step 3, whose checkpoints 2 and 3 were kept."""
    folder = run_folder.RunFolder(path)
    path.mkdir()
    files.write_file(folder.config, "old")
    for step in (1, 2, 3):
        checkpoint.save(folder.checkpoint, *state(step))
        checkpoint.save(folder.best, *state(step))
        folder.keep(step, 2)
        folder.append({"step": step})
    return folder


def save_and_keep(folder):
    checkpoint.save(folder.checkpoint, *state(4))
    folder.keep(4, 2)


def appended(folder):
    if said := folder.append({"step": 4}):
        raise RunError(said)


WRITES = {
    "checkpoint": lambda folder: checkpoint.save(folder.checkpoint, *state(4)),
    "best": lambda folder: checkpoint.save(folder.best, *state(4)),
    "keep": save_and_keep,
    "config": lambda folder: files.write_file(folder.config, "new"),
    "cut_log": lambda folder: folder.cut_log(2),
    "append": appended,
}


def whole(folder):
    """Nothing is torn: every file is the old one or the new one."""
    assert checkpoint.read(folder.checkpoint)[1]["step"] in (3, 4)
    assert checkpoint.read(folder.best)[1]["step"] in (3, 4)
    assert folder.config.read_text() in ("old", "new")
    # a row that was written, but said not to be, may be there twice; resuming cuts both
    rows = sorted({row["step"] for row in folder.rows()})
    assert rows in ([1, 2], [1, 2, 3], [1, 2, 3, 4])
    kept = folder.numbered()
    assert len(kept) >= 2
    for path in kept:
        assert checkpoint.read(path)[1]["step"] == int(path.stem.partition("-")[2])


@pytest.mark.parametrize(
    "when, code",
    [("before", errno.ENOSPC), ("after", errno.EIO), ("half", errno.ENOSPC), ("on", errno.EIO)],
)
@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_fails_at_any_call_leaves_the_old_or_the_new(tmp_path, name, when, code):
    number, calls = 0, None
    while calls is None or number <= len(calls.names):  # until it goes through untouched
        folder = folder_of_three(tmp_path / str(number))
        try:
            with Calls(folder.path, number, when, error(code)) as calls:
                WRITES[name](folder)
        except RunError as problem:
            assert os.strerror(code) in str(problem)
        else:  # it went through, or did without the call that failed
            assert when == "on" or calls.names[number:][:1] in ([], ["unlink"], ["link"])
        whole(folder)
        number += 1
    assert number > 2
    if name != "append":
        assert {"open", "fsync", "replace"} <= set(calls.names)


def test_going_back_by_a_copy_or_a_link_changes_no_checkpoint_that_was_kept(tmp_path):
    folder = folder_of_three(tmp_path / "run")
    second, third = folder.numbered()
    shutil.copyfile(second, folder.checkpoint)  # into the same file, as `cp` does
    assert checkpoint.read(third)[1]["step"] == 3
    folder.checkpoint.unlink()
    folder.checkpoint.symlink_to(second.name)
    folder.keep(2, 2)  # as a resumed run does
    assert [checkpoint.read(path)[1]["step"] for path in folder.numbered()] == [2, 3]
    assert [path.name for path in folder.later_than(2)] == [third.name]
    folder.checkpoint.unlink()
    checkpoint.save(folder.checkpoint, *state(1))  # further back: those of later steps do not count
    folder.keep(1, 2)
    steps = [checkpoint.read(path)[1]["step"] for path in folder.numbered()]
    assert steps == [1, 2, 3]


def test_a_row_is_written_once_although_a_thread_writes_the_log_too(tmp_path):
    folder = run_folder.RunFolder(tmp_path)
    stop = threading.Event()

    def sync():
        while not stop.is_set():
            folder.sync_log()

    def slow(path, *arguments, **keywords):
        time.sleep(0.002)
        return real(path, *arguments, **keywords)

    thread, real = threading.Thread(target=sync), Path.open
    with mock.patch.object(Path, "open", slow):
        thread.start()
        try:
            for step in range(30):
                folder.append({"step": step})
        finally:
            stop.set()
            thread.join()
    assert [row["step"] for row in folder.rows()] == list(range(30))


def test_a_log_on_a_full_disk_gets_its_rows_later(tmp_path):
    folder = folder_of_three(tmp_path / "run")
    with Calls(folder.path, 1, "half", error(errno.ENOSPC)):  # half of the row is written
        said = folder.append({"step": 4})
    assert "No space left on device" in said and [row["step"] for row in folder.rows()] == [1, 2, 3]
    assert folder.append({"step": 5}) == ""
    assert [row["step"] for row in folder.rows()] == [1, 2, 3, 4, 5]
    with Calls(folder.path, 0, "before", error(errno.ENOSPC)):
        folder.append({"step": 6})
    folder.sync_log()
    assert [row["step"] for row in folder.rows()][-1] == 6


def test_a_write_that_takes_a_few_bytes_only_is_followed_by_others(tmp_path):
    checkpoint.save(tmp_path / "x", *state(1))
    with Calls(tmp_path, short=7) as calls:
        checkpoint.save(tmp_path / "y", *state(1))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert len([name for name in calls.names if name.startswith("write")]) > 100


# ------------------------------------------------------------------------- the harness can fail


def test_a_write_that_is_not_atomic_would_be_caught(tmp_path, monkeypatch):
    """Written in place, a checkpoint is torn by a full disk, and the harness says so."""
    folder = folder_of_three(tmp_path / "run")
    assert [line for line in damage(folder.path) if "checkpoint" in line] == []
    monkeypatch.setattr(checkpoint, "replacing", contextlib.nullcontext)
    with pytest.raises(OSError), Calls(folder.path, 1, "half", error(errno.ENOSPC)):
        checkpoint.save(folder.checkpoint, *state(4))
    assert any("expected a whole checkpoint" in line for line in damage(folder.path))


def test_a_checkpoint_without_fsync_would_be_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "flush", lambda path: None)
    with Calls(tmp_path) as calls:
        checkpoint.save(tmp_path / "x", *state(1))
    assert "fsync" not in calls.names  # which the test above asks for


# ------------------------------------------------------------------------- real system calls


def trained(*arguments, before=(), limit=1 << 30):
    """A real process that trains, without pictures. Its status, and its lines of error."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [*before, sys.executable, "-c", TRAIN, limit, *arguments, "--quiet"]
    done = subprocess.run(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment, timeout=120
    )
    return done.returncode, done.stderr.splitlines()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("straight") / "run"
    assert trained(*FLAGS, "--steps", STEPS, "--out", run) == (0, [])
    return run


def resumes(run, straight):
    """Assert that the folder which a fault left is readable and resumes to the same bits."""
    assert damage(run) == []
    said = io.StringIO()
    with mock.patch.object(Progress, "draw", lambda run: None), contextlib.redirect_stderr(said):
        assert run_command(lambda: train.main(["--resume", str(run), "--quiet"])) == 0
    assert said.getvalue() == ""
    assert differences(run, straight, numbered=False) == []


@pytest.fixture(scope="module")
def strace():
    """The command that makes system calls fail."""
    try:
        subprocess.run(["strace", "-o", os.devnull, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("strace can't be used here")
    return ["strace", "-f", "-qq", "-o", os.devnull, "-e", "signal=none"]


# The checkpoint before the first step is made of 7 writes, an fsync and a rename; 8 is the next.
TEMPORARY = "run/.checkpoint.safetensors.4711.tmp"
LOG = "run/metrics.jsonl"


@pytest.mark.parametrize(
    "path, injected, status, warnings",
    [
        (TEMPORARY, "write:error=ENOSPC:when=15", 0, 1),
        (TEMPORARY, "write:error=ENOSPC:when=15+", 2, 4),
        pytest.param(TEMPORARY, "write:error=EIO:when=15+", 2, 4, marks=pytest.mark.slow),
        (TEMPORARY, "fsync:error=EIO:when=3", 0, 1),
        pytest.param(TEMPORARY, "fsync:error=EIO:when=3+", 2, 4, marks=pytest.mark.slow),
        pytest.param("run", "fsync:error=EIO:when=7", 0, 1, marks=pytest.mark.slow),
        (TEMPORARY, "rename:error=EIO:when=3+", 2, 4),
        (LOG, "write:error=ENOSPC:when=8", 0, 1),
        pytest.param(TEMPORARY, "write:signal=KILL:when=15", -9, 0, marks=pytest.mark.slow),
        pytest.param(TEMPORARY, "fsync:signal=KILL:when=4", -9, 0, marks=pytest.mark.slow),
        (TEMPORARY, "rename:signal=KILL:when=4", -9, 0),  # before it is done
        ("run", "fsync:signal=KILL:when=7", -9, 0),  # after some rename
        pytest.param(LOG, "write:signal=KILL:when=8", -9, 0, marks=pytest.mark.slow),
    ],
)
def test_system_calls_that_fail(tmp_path, strace, straight, path, injected, status, warnings):
    run = tmp_path / "run"
    call = injected.partition(":")[0]
    options = ["-P", tmp_path / path, "-e", f"trace={call}", "-e", f"inject={injected}"]
    got, lines = trained(*FLAGS, "--steps", STEPS, "--out", run, before=[*strace, *options])
    assert got == status, lines
    assert sum(line.startswith("warning: ") for line in lines) == warnings, lines
    assert sum(line.startswith("error: ") for line in lines) == (status == 2), lines
    assert len(lines) == warnings + (status == 2), lines
    assert (step_of(run) == STEPS) == (status == 0)
    assert step_of(run) >= 2
    resumes(run, straight)


def test_a_disk_that_lies_about_a_write_is_noticed(tmp_path, strace):
    """The system says that bytes were written, and they were not: damage() can fail."""
    lie = "inject=write:retval=100:when=9"  # of the checkpoint after the first
    options = ["-P", tmp_path / TEMPORARY, "-e", "trace=write", "-e", lie]
    flags = [*FLAGS, "--steps", 2, "--out", tmp_path / "run"]
    assert trained(*flags, before=[*strace, *options])[0] == 0
    assert any("expected a whole checkpoint" in line for line in damage(tmp_path / "run"))


def begun(run, steps):
    """A run of which `steps` steps are done."""
    assert trained(*FLAGS, "--steps", steps, "--out", run) == (0, [])
    return ["--resume", run, "--extend-to", STEPS]


def test_checkpoints_above_the_limit_of_file_sizes(tmp_path, straight):
    """The system takes a part of a checkpoint, then says EFBIG: without any privilege."""
    run = tmp_path / "run"
    resume = begun(run, 4)
    status, lines = trained(*resume, limit=20_000)
    said = [line.partition(":")[0] for line in lines]
    assert status == 2 and said == ["note"] + ["warning"] * (len(said) - 2) + ["error"]
    assert "File too large" in lines[-1]
    assert step_of(run) == 4
    resumes(run, straight)


def test_a_log_above_the_limit_of_file_sizes(tmp_path, straight):
    """Half a row is written, and cut off at once."""
    run = tmp_path / "run"
    resume = begun(run, 8)
    limit = (run / "metrics.jsonl").stat().st_size + 50
    assert limit > (run / "config.toml").stat().st_size
    status, lines = trained(*resume, limit=limit)
    assert status == 2 and [line.partition(":")[0] for line in lines] == ["note", "error"]
    assert "metrics.jsonl" in lines[-1]
    log = (run / "metrics.jsonl").read_bytes()
    assert len(log) < limit and log.endswith(b"\n")
    resumes(run, straight)


FULL = """
mount -t tmpfs -o size=128k none "$1" || exit 77
run="$1/run"; copies="$2"; shift 2
"$@" --out "$run"; echo "status $?" >&2
cp -r "$run" "$copies/full"
"""


def test_a_full_disk(tmp_path, straight):
    """A file system of its own with room for two checkpoints."""
    (tmp_path / "disk").mkdir()
    if not shutil.which("unshare"):
        pytest.skip("no tmpfs can be mounted here")
    shell = ["unshare", "-rm", "sh", "-c", FULL, "sh", tmp_path / "disk", tmp_path]
    status, lines = trained(*FLAGS, "--steps", STEPS, before=shell)
    if status == 77 or any("unshare" in line for line in lines):
        pytest.skip("no tmpfs can be mounted here")
    assert lines.pop() == "status 2"
    assert all("No space left" in line for line in lines)
    assert lines[-1].startswith("error: ")
    assert all(line.startswith("warning: ") for line in lines[:-1])
    assert step_of(tmp_path / "full") < STEPS
    resumes(tmp_path / "full", straight)


def test_a_killed_process_has_the_status_that_the_tests_expect():
    code = "import os; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
