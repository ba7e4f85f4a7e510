"""report --watch: the page of a run that still trains, and the whole report when it has ended."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from small import small

from minilstm import config, report
from minilstm.command import run_command
from minilstm.experiments import live_page
from minilstm.experiments.live_page import numbers
from minilstm.experiments.report_page import layer_gradients
from minilstm.experiments.tensorboard_log import TensorBoardLog
from minilstm.runs.run_folder import RunFolder

SETTINGS = small(data={"future": 4}, model={"layers": 1}, run={"steps": 4, "log_every": 1})
REFRESH = '<meta http-equiv="refresh" content="3">'


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """A small run."""
    top = tmp_path_factory.mktemp("live")
    train_undrawn(SETTINGS, top / "run")
    return top / "run"


@pytest.fixture
def run(made, tmp_path):
    """A copy of the small run, of its own for each test."""
    return RunFolder(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """The whole report is a line in these tests; test_report.py has the real one."""

    def write_report(path, sequences, cell=None):
        report = RunFolder(path).report
        report.write_text(f"judged on {sequences}")
        return report

    monkeypatch.setattr(live_page, "write_report", write_report)


def watch(run):
    """The exit status of `report RUN --watch`, called in this process."""
    words = [str(run.path), "--watch", "--every", "3", "--sequences", "10"]
    return run_command(lambda: report.main(words))


def meanwhile(monkeypatch, *actions):
    """Do one of `actions` in place of each wait between two pages."""
    todo = list(actions)
    monkeypatch.setattr(live_page, "_sleep", lambda seconds, stop: todo.pop(0)())
    return todo


def test_the_page_is_written_again_until_the_run_ends_and_is_then_the_whole_report(
    run, monkeypatch, capsys
):
    seen = []

    def train_on():
        seen.append(run.report.read_text("utf-8"))
        run.append({"step": 1234, "future": 5.0, "seconds": 9.0})

    def end():
        seen.append(run.report.read_text("utf-8"))
        claim.__exit__(None, None, None)

    claim = run.claim()
    claim.__enter__()
    left = meanwhile(monkeypatch, train_on, end)
    assert watch(run) == 0 and not left
    first, second = seen
    assert REFRESH in first and REFRESH in second
    assert "<b>4</b><span>of 4 steps" in first and "<b>1,234</b><span>of 4 steps" in second
    assert "Gradients by layer" in first and 'id="predictions"' in first
    assert run.report.read_text("utf-8") == "judged on 10"
    assert capsys.readouterr().out == f"open {run.report} in a browser\n{run.report}\n"


def test_what_comes_from_a_checkpoint_names_its_step_though_the_log_is_further(run):
    run.append({"step": 500, "future": 5.0, "seconds": 9.0})
    live_page.LivePage(run, 3).write()
    text = run.report.read_text("utf-8")
    assert text.count("Computed with the weights of step 4.") == 2  # pictures, and chart
    assert "training loss of the future, step 500" in text


def test_the_step_of_the_next_weights_is_known_from_the_settings():
    def said(step, **run):
        return live_page.about_weights(config.load(overrides={"run": {"steps": 2500} | run}), step)

    start = "Computed with the weights of step 0, before training; the next are saved at step"
    assert said(0, checkpoint_every=1000) == f"{start} 1,000."
    assert said(0, checkpoint_every=0) == f"{start} 2,500."
    assert said(1200, checkpoint_every=1000).endswith(
        " step 1,200; the next are saved at step 2,000."
    )
    assert said(2000, checkpoint_every=1000).endswith("at step 2,500.")
    assert said(2500, checkpoint_every=1000) == "Computed with the weights of step 2,500."


def test_predictions_are_made_once_for_each_checkpoint(run, monkeypatch):
    made, real = [], live_page.evaluated
    monkeypatch.setattr(live_page, "evaluated", lambda *words: made.append(1) or real(*words))
    page = live_page.LivePage(run, 3)
    page.write()
    page.write()
    assert len(made) == 1
    os.utime(run.checkpoint, ns=(1, 1))
    page.write()
    assert len(made) == 2


def test_a_run_that_nobody_trains_gets_its_report_at_once(run, monkeypatch):
    meanwhile(monkeypatch)
    assert watch(run) == 0
    assert run.report.read_text("utf-8") == "judged on 10"


def test_a_stop_signal_ends_the_watching_and_leaves_a_page_that_stays_as_it_is(run, monkeypatch):
    meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    with run.claim():
        assert watch(run) == 128 + signal.SIGINT
    text = run.report.read_text("utf-8")
    assert 'http-equiv="refresh"' not in text and 'id="training"' in text


def test_a_run_that_starts_later_is_waited_for(made, tmp_path, capsys, monkeypatch):
    """First there is no folder, then an empty one, then one without a checkpoint, or a log."""
    folder, waited, real = RunFolder(tmp_path / "later" / "run"), [], live_page._sleep
    names = "config.toml", "checkpoint.safetensors", "metrics.jsonl"

    def slept(seconds, stop):
        there = {name for name in names if (folder.path / name).exists()}
        waited.append((folder.path.exists(), there))
        real(0.01, stop)

    def train():
        """Do what training does, one file at a time, each after the page has waited for it."""
        until = time.monotonic() + 60
        wait_for(lambda: (False, set()) in waited, until)
        with folder.claim():
            for k, name in enumerate(names):
                wait_for(lambda k=k: (True, set(names[:k])) in waited, until)
                shutil.copyfile(made / name, folder.path / ".new")
                os.replace(folder.path / ".new", folder.path / name)
            wait_for(lambda: (True, set(names)) in waited, until)

    monkeypatch.setattr(live_page, "_sleep", slept)
    trainer = threading.Thread(target=train)
    trainer.start()
    status = watch(folder)
    trainer.join()
    printed = capsys.readouterr()
    assert status == 0 and (True, set(names)) in waited, printed
    assert printed.err == f"waiting for a run in {folder.path}: Ctrl-C ends it\n"
    assert printed.out == f"open {folder.report} in a browser\n{folder.report}\n"
    assert folder.report.read_text("utf-8") == "judged on 10"


def wait_for(happened, until):
    """Wait until `happened()`, at most until the time `until`."""
    while not happened() and time.monotonic() < until:
        time.sleep(0.005)


def test_waiting_for_a_run_ends_with_a_stop_signal_and_leaves_nothing(tmp_path, monkeypatch):
    meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert watch(RunFolder(tmp_path / "never")) == 128 + signal.SIGINT
    assert os.listdir(tmp_path) == []


def test_a_stop_signal_before_the_first_checkpoint_leaves_no_page(run, monkeypatch):
    run.checkpoint.unlink()
    meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    with run.claim():
        assert watch(run) == 128 + signal.SIGINT
    assert not run.report.exists()


def test_a_folder_says_whether_a_process_trains_in_it(run):
    assert not run.is_training()
    with run.claim():
        assert run.is_training()
    assert not run.is_training()
    assert not RunFolder(run.path / "nowhere").is_training()


def test_speed_and_time_left_come_from_the_newest_rows_of_the_log():
    settings = config.load(overrides={"run": {"steps": 1000}})
    rows = [{"step": step, "seconds": 50.0 + step / 100, "future": 7.0} for step in (100, 200, 300)]
    rows.insert(0, {"step": 10, "validation future": 8.0})
    assert numbers(settings, rows) == [
        ("300", "of 1,000 steps"),
        ("10 ms", "for each step"),
        ("7 s", "left"),
        ("7.0", "training loss of the future, step 300"),
    ]
    short = config.load(overrides={"run": {"steps": 1000, "minutes": 0.9}})
    assert "left" not in dict(map(reversed, numbers(short, rows)))  # the log does not tell it
    assert numbers(settings, []) == [("0", "of 1,000 steps")]


def test_the_norm_of_a_layer_is_that_of_all_its_parameters(run):
    found = layer_gradients(run.rows())
    assert list(found) == [
        "encoder.0", "reconstruct.stack.0", "reconstruct.readout", "predict.stack.0",
        "predict.readout",
    ]  # fmt: skip
    rows = [json.loads(line) for line in run.log.read_text().splitlines()]
    total = [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    squares = np.square([norms for _, norms in found.values()]).sum(axis=0)
    np.testing.assert_allclose(squares**0.5, total, rtol=1e-5)


class Writer:
    """A stand-in for the library's writer that remembers what it was given."""

    made = []

    def __init__(self, path):
        self.path, self.rows = path, []
        Writer.made.append(self)

    def add_scalar(self, tag, value, step):
        self.rows.append((tag, step, value))

    def flush(self):
        """Leave a file, as the library does."""
        Path(self.path, "events.out.tfevents.1").touch()

    close = flush


@pytest.fixture
def library(monkeypatch):
    """TensorBoard's library, or a stand-in of it: the writers that were made."""
    module = types.ModuleType("tensorboard.summary")
    module.Writer, Writer.made = Writer, []
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", module)
    return Writer.made


def test_tensorboard_gets_every_row_of_the_log_once(run, library):
    log = TensorBoardLog(run)
    log.update()
    run.append({"step": 9, "future": 5.0, "gradient_norm encoder.0.Wx": 2.0, "seconds": 1.0})
    run.append({"step": 9, "validation future": 6.0})
    log.update()
    (writer,) = library
    assert writer.rows[-3:] == [
        ("training/future", 9, 5.0), ("gradient norm/encoder.0.Wx", 9, 2.0),
        ("validation/future", 9, 6.0),
    ]  # fmt: skip
    assert len(writer.rows) == len(set(writer.rows)), "a number is there twice"
    run.cut_log(4)
    log.update()
    assert library[1].rows == writer.rows[:-3], "a run that went back is written anew"


def test_watching_updates_tensorboard_too(run, library, monkeypatch, capsys):
    claim = run.claim()
    claim.__enter__()
    rows = []
    meanwhile(
        monkeypatch,
        lambda: (rows.append(len(library[0].rows)), claim.__exit__(None, None, None)),
    )
    words = [str(run.path), "--watch", "--every", "3", "--sequences", "10", "--tensorboard"]
    assert run_command(lambda: report.main(words)) == 0
    assert rows == [len(library[0].rows)] and rows[0] > 10
    assert f"tensorboard --logdir {run.path}" in capsys.readouterr().out


def test_tensorboard_itself_reads_what_was_written(run):
    if find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(run)
    log.update()
    log.close()
    found = EventAccumulator(str(log.path))
    found.Reload()
    assert {"training/future", "validation/future", "training/learning rate"} <= set(
        found.Tags()["tensors"]
    )
    assert len(found.Tensors("training/future")) == 4


def test_tensorboard_makes_nothing_where_no_run_is(tmp_path, library, capsys):
    words = [str(tmp_path / "nowhere"), "--tensorboard"]
    assert run_command(lambda: report.main(words)) == 2
    assert not (tmp_path / "nowhere").exists()
    assert "expected a run folder" in capsys.readouterr().err


def test_without_the_library_one_line_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    assert run_command(lambda: report.main([str(run.path), "--tensorboard"])) == 2
    printed = capsys.readouterr().err
    assert "pip install -e '.[tensorboard]'" in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["--watch", "--every", "0"], "--every > 0"),
        (["--every", "3"], "expected --watch for --every"),
        (["--watch", "--best"], "got both"),
    ],
)
def test_watching_refuses_in_one_line(run, capsys, words, said):
    assert run_command(lambda: report.main([str(run.path), *words])) == 2
    printed = capsys.readouterr().err
    assert said in printed and re.fullmatch(r"error: .*\n", printed)
