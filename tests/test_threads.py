"""Threads of the matrix products: chosen by a trial, recorded in the run, kept by --resume."""

import time

import pytest

from minilstm import evaluate, threads, train
from minilstm.errors import ConfigError, RunError
from minilstm.runs import checkpoint
from minilstm.training import progress

SMALL = (
    "--frame-size 10 --digit-size 5 --past 3 --future 2 --hidden 6 --batch-size 4 --quiet "
    "--log-every 2 --validate-every 0 --readout-bias zero"
).split()


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Let BLAS have two threads, though conftest.py starts it with one. No run draws pictures."""
    monkeypatch.setattr(progress.Progress, "draw", lambda self: None)
    before, limit = threads.blas()["num_threads"], threads.limit  # `machine` replaces limit
    limit(2)
    yield
    limit(before)


@pytest.fixture
def machine(monkeypatch):
    """A machine on which a step takes the seconds in `takes`, by the number of threads."""
    takes, now = {}, {"threads": 8, "clock": 0.0}

    def step():
        now["clock"] += takes[now["threads"]]

    monkeypatch.setattr(threads, "blas", lambda: {"num_threads": 8})
    monkeypatch.setattr(threads, "limit", lambda number: now.update(threads=number))
    monkeypatch.setattr(time, "perf_counter", lambda: now["clock"])
    return takes, now, step


def test_auto_takes_the_fastest_number_and_says_so(machine):
    takes, now, step = machine
    takes |= {8: 0.9, 4: 0.3, 2: 0.05, 1: 0.07}  # seconds
    said, seconds = threads.choose("auto", step)
    assert now["threads"] == 2 and seconds == pytest.approx(0.05)
    assert said == "2 of 8: a step takes 50 ms, 900 ms with 8, 300 ms with 4, 70 ms with 1"


def test_more_threads_must_be_clearly_faster(machine):
    takes, now, step = machine
    takes |= {8: 0.100, 4: 0.098, 2: 0.104, 1: 0.2}
    threads.choose("auto", step)
    assert now["threads"] == 2


def test_a_long_step_is_timed_once_and_few_threads_are_not_tried_where_they_are_slow(machine):
    takes, now, step = machine
    takes |= {8: 10.0, 4: 18.0}  # asking for fewer would raise KeyError
    threads.choose("auto", step)
    assert now["threads"] == 8 and now["clock"] == 10 + 10 + 18


def test_a_number_is_in_force_in_the_block_alone():
    with threads.chosen("1", lambda: 1 / 0) as said:
        assert threads.blas()["num_threads"] == 1 and said == ""
    assert threads.blas()["num_threads"] == 2


def test_with_one_thread_there_is_nothing_to_choose():
    threads.limit(1)
    assert threads.choose("auto", lambda: 1 / 0) == threads.Choice()


def test_a_number_is_refused_where_it_could_not_be_set(monkeypatch):
    monkeypatch.setattr(threads, "blas", dict)  # such as Apple's Accelerate
    assert threads.choose("auto", lambda: 1 / 0) == threads.Choice()
    with pytest.raises(ConfigError, match="leave --threads out"):
        threads.choose("2", lambda: 1 / 0)


@pytest.mark.parametrize("wanted", ["0", "-1", "all", "1.5", "", "1000"])
def test_other_words_are_refused(wanted):
    with pytest.raises(ConfigError, match="expected threads auto or a number from 1 to 999"):
        threads.checked(wanted)


def environment(run):
    return checkpoint.read(run / "checkpoint.safetensors")[1]["environment"]


def weights(run):
    arrays, _ = checkpoint.read(run / "checkpoint.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}


def test_the_trial_changes_no_bit_and_the_number_is_recorded(tmp_path, monkeypatch, capfd):
    timed = threads.timed
    monkeypatch.setattr(threads, "timed", lambda step, most, seconds: timed(step, most, 0.001))
    for wanted in ("auto", "2", "1"):
        train.main([*SMALL, "--steps", "4", "--threads", wanted, "--out", str(tmp_path / wanted)])
    chosen = environment(tmp_path / "auto")["blas num_threads"]
    assert chosen in ("1", "2") and weights(tmp_path / "auto") == weights(tmp_path / chosen)
    assert [environment(tmp_path / n)["blas num_threads"] for n in "12"] == ["1", "2"]
    assert threads.blas()["num_threads"] == 2  # as before the runs
    loud = [word for word in SMALL if word != "--quiet"]
    train.main([*loud, "--steps", "1", "--out", str(tmp_path / "loud")])
    assert "\nthreads   " in capfd.readouterr().out


def test_resume_keeps_the_number(tmp_path):
    for name, steps in (("straight", "4"), ("run", "2")):
        out = str(tmp_path / name)
        train.main([*SMALL, "--steps", steps, "--threads", "2", "--out", out])
    threads.limit(1)
    train.main(["--resume", str(tmp_path / "run"), "--extend-to", "4", "--quiet"])
    assert environment(tmp_path / "run")["blas num_threads"] == "2"
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert threads.blas()["num_threads"] == 1


def test_resume_takes_another_number_that_is_typed_says_so_and_records_it(tmp_path, capsys):
    out = str(tmp_path / "run")
    train.main([*SMALL, "--steps", "2", "--threads", "2", "--out", out])
    train.main(["--resume", out, "--extend-to", "4", "--threads", "1"])
    said = (
        "resumed   after step 2, with 1 thread, not 2 as before: equal within rounding, not to the"
    )
    assert f"{said} bit\n" in capsys.readouterr().out
    assert environment(tmp_path / "run")["blas num_threads"] == "1"
    assert 'threads = "2"' in (tmp_path / "run" / "config.toml").read_text()  # as it began
    train.main(["--resume", out, "--extend-to", "6"])  # keeps the new number
    assert "resumed   after step 4\n" in capsys.readouterr().out
    assert environment(tmp_path / "run")["blas num_threads"] == "1"
    train.main(["--resume", out, "--extend-to", "8", "--threads", "1"])
    assert "resumed   after step 6\n" in capsys.readouterr().out


def test_another_number_that_is_not_typed_is_refused_as_any_other_setting(tmp_path):
    train.main([*SMALL, "--steps", "2", "--threads", "2", "--out", str(tmp_path / "run")])
    settings = tmp_path / "run" / "config.toml"
    settings.write_text(settings.read_text().replace('threads = "2"', 'threads = "1"'))
    with pytest.raises(RunError, match="got run.threads = '1', not '2'"):
        train.main(["--resume", str(tmp_path / "run"), "--quiet"])


@pytest.mark.parametrize("words", [["--threads", "auto"], ["--threads", "1", "--distributed"]])
def test_resume_takes_a_number_alone(tmp_path, words):
    out = str(tmp_path / "run")
    train.main([*SMALL, "--steps", "2", "--threads", "2", "--out", out])
    with pytest.raises(ConfigError, match="expected --threads N beside --resume, a number"):
        train.main(["--resume", out, *words])
    with pytest.raises(ConfigError, match="expected threads auto or a number from 1 to 999"):
        train.main(["--resume", out, "--threads", "0"])


def test_evaluate_says_what_it_chose_on_stderr(capfd, monkeypatch):
    monkeypatch.setattr(evaluate, "TRIAL_SECONDS", 0.001)
    for name, result in (("mean_image", None), ("evaluate", {}), ("table", "")):
        monkeypatch.setattr(evaluate.judging, name, lambda *_, result=result: result)
    evaluate.main(["one-digit", "--sequences", "4"])
    assert "threads   " in capfd.readouterr().err
    evaluate.main(["one-digit", "--sequences", "4", "--threads", "1"])
    assert "threads" not in capfd.readouterr().err


def test_steps_that_become_twice_as_slow_are_reported_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock, said = progress.StepClock("my run"), []
    for k in range(400):
        clock.next()
        now[0] += 0.1 if k < 150 else 0.25
        said.append(clock.slower())
        now[0] += 5  # a validation, which does not count
    (line,) = filter(None, said)
    assert line.startswith("a step takes 250 ms by now, 100 ms at first")
    assert line.endswith("go on by python -m minilstm.train --resume 'my run' --threads 1")


def test_steps_that_are_slower_than_in_the_trial_are_reported_after_ten_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock, said = progress.StepClock("run", trial_seconds=0.03), []
    for k in range(200):
        clock.next()
        now[0] += 0.134 if k else 0.04
        said.append(clock.slower())
    (line,) = filter(None, said)
    assert line.startswith("a step takes 133 ms by now, 40 ms at best: other programs")
    assert said.index(line) == 75  # 10 seconds


def test_a_long_update_which_the_trial_leaves_out_is_not_reported(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    clock = progress.StepClock("run", trial_seconds=0.03)
    for _ in range(400):
        clock.next()
        now[0] += 0.134
        assert clock.slower() == ""


def test_the_clock_of_a_run_gets_the_time_of_its_trial(tmp_path, monkeypatch):
    seen = []
    clock = progress.StepClock
    monkeypatch.setattr(progress, "StepClock", lambda *words: seen.append(words) or clock(*words))
    monkeypatch.setattr(threads, "timed", lambda *_: {2: 0.5, 1: 0.25})
    train.main([*SMALL, "--steps", "2", "--out", str(tmp_path / "run")])
    train.main(["--resume", str(tmp_path / "run"), "--extend-to", "4", "--quiet"])
    assert seen == [(tmp_path / "run", 0.25), (tmp_path / "run", None)]
