"""The output of commands: no output stream ends a run, and a log file stays short."""

import importlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from small import small

from minilstm import gradcheck, streams, train
from minilstm.command import Parser, run_command, stop_signals
from minilstm.evaluation import judging
from minilstm.experiments import run_figures
from minilstm.figures import curves, strips
from minilstm.runs import checkpoint
from minilstm.runs.run_folder import read_log
from minilstm.streams import (
    Output,
    print_above,
    progress_bar,
    safe_streams,
    shown_on_terminal,
    warn_instead,
)
from minilstm.training.progress import Progress

TINY = (
    "--frame-size 8 --digit-size 5 --past 3 --future 3 --hidden 4 --batch-size 4 --steps 12 "
    "--log-every 1 --validate-every 0"
)


class Broken(io.StringIO):
    """A stream that fails from the start."""

    def __init__(self, error=28):
        super().__init__()
        self.error = OSError(error, os.strerror(error))

    def write(self, text):
        raise self.error


def shell(command, cwd, **environment):
    """Run a line of the shell: (exit status, what it printed on stderr)."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd, env=os.environ | environment, capture_output=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


def steps_of(run):
    return checkpoint.read(run / "checkpoint.safetensors", arrays=False)[1]["step"]


# ---------------------------------------------------------------- real processes


@pytest.mark.parametrize(
    "redirected, status, said",
    [
        ("", 0, "warning: there is no picture"),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">/dev/full", 1, "warning: standard output can't be written (No space left on device)"),
        ("| true", 0, "warning: standard output can't be written (Broken pipe)"),
    ],
)
def test_no_output_stream_ends_a_run(tmp_path, redirected, status, said):
    """The name has a letter that ASCII lacks. Drawing fails, which saves time."""
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    line = f"{sys.executable} -m minilstm.train {TINY} --out Übung {redirected}"
    found, errors = shell(line, tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    run = tmp_path / "Übung"
    assert (found, steps_of(run)) == (status, 12), errors
    assert said in errors and "Traceback" not in errors, errors
    assert [row["step"] for row in read_log(run / "metrics.jsonl")][-1] == 12
    assert (run / "best.safetensors").read_bytes()[8:9] == b"{"  # nothing was printed into a file


def test_a_terminal_that_is_closed_stops_a_run_in_good_order_and_nohup_lets_it_go_on():
    before = signal.getsignal(signal.SIGHUP)
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # the shell sends one, too
        assert stop.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- streams


def test_a_letter_that_the_encoding_lacks_is_written_as_an_escape():
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, "ascii"), "standard output")
    output.write("Übung \udcc3\udc9cbung \udcff")  # the second as the locale C gives it
    output.flush()
    assert raw.getvalue() == b"\\xdcbung \\xdcbung \\xff"


def test_a_result_that_is_lost_gives_status_1_and_a_closed_pipe_none(monkeypatch, capsys):
    for error, status in ((28, 1), (32, 0)):
        monkeypatch.setattr(sys, "stdout", Broken(error))
        assert run_command(lambda: print("result") or 0) == status
    monkeypatch.setattr(sys, "stdout", Broken())
    assert run_command(lambda: print("result") or 3) == 3
    monkeypatch.undo()
    assert capsys.readouterr().err.count("warning: standard output can't be written") == 3


def test_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), safe_streams():
        assert sys.stdout is not before[0]
        print(1 / 0)
    assert (sys.stdout, sys.stderr) == before


def test_a_bar_in_a_file_is_a_line_a_minute(monkeypatch, capsys):
    monkeypatch.setattr(streams, "LINE_SECONDS", 0.05)
    with progress_bar(total=10**6, unit="step") as bar:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            bar.update()
    written = capsys.readouterr().err
    assert 4 <= written.count("\n") <= 12 and "\r" not in written
    assert all("step" in line for line in written.splitlines())
    with progress_bar(total=3, quiet=True) as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_long_command_shows_a_bar_on_a_terminal_only(monkeypatch, capsys):
    assert list(shown_on_terminal(range(3), "predicting")) == [0, 1, 2]
    print_above("a row")
    assert capsys.readouterr() == ("a row\n", "")
    monkeypatch.setattr(streams, "on_terminal", lambda: True)
    assert list(shown_on_terminal([7], "predicting")) == [7]
    assert capsys.readouterr().err == ""  # one item needs no bar
    for _ in shown_on_terminal(range(3), "predicting"):
        print_above("a row")
    printed = capsys.readouterr()
    assert printed.out == 3 * "a row\n"
    assert "predicting: " in printed.err and printed.err.rpartition("\r")[2].strip() == ""


@pytest.mark.parametrize(
    "words, doing",
    [("evaluate", "predicting"), ("visualize --only fig9 gates", "drawing"),
     ("gradcheck li", "checking"), ("gradcheck linear", "")],
)  # fmt: skip
def test_evaluate_visualize_and_gradcheck_show_their_progress(
    words, doing, tmp_path, monkeypatch, capsys, train_undrawn
):
    seen = []
    real = streams.shown_on_terminal

    def shown(items, what):
        items = list(items)
        seen.append(what.split()[0] if len(items) > 1 else "")
        return real(items, what)

    for module in (judging, run_figures, gradcheck):
        monkeypatch.setattr(module, "shown_on_terminal", shown)
    command, *rest = words.split()
    if command != "gradcheck":
        train_undrawn(small(), tmp_path / "run")
        rest.insert(0, str(tmp_path / "run"))
    seen.clear()
    assert importlib.import_module(f"minilstm.{command}").main(rest) == 0
    assert doing in seen


def test_an_optional_part_that_fails_is_a_warning(capsys):
    with warn_instead("there is no picture"):
        print(1 / 0)
    said = "warning: there is no picture because of: ZeroDivisionError (division by zero)\n"
    assert capsys.readouterr().err == said
    with pytest.raises(KeyboardInterrupt), warn_instead("there is no picture"):
        raise KeyboardInterrupt


def test_a_picture_that_cant_be_drawn_does_not_fail_a_run(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("Failed to process string with tex because latex could not be found")

    monkeypatch.setattr(curves, "plot_curves", fail)
    monkeypatch.setattr(strips, "prediction_strip", fail)
    words = [*TINY.split(), "--quiet", "--out", str(tmp_path / "run")]
    assert run_command(lambda: train.main(words)) == 0
    errors = capsys.readouterr().err
    assert errors.count("warning:") == 2 and "latex could not be found" in errors
    assert steps_of(tmp_path / "run") == 12


# ---------------------------------------------------------------- empty values


@pytest.mark.parametrize(
    "words, name",
    [
        (["--resume", ""], "--resume"),
        (["--resume="], "--resume"),
        (["--out", ""], "--out"),
        (["--config", ""], "--config"),
        (["--digits", ""], "--digits"),
        (["paper", ""], "PRESET"),
    ],
)
def test_an_empty_value_is_refused_by_name_and_no_run_is_touched(
    tmp_path, monkeypatch, capsys, words, name
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    (tmp_path / "runs").mkdir()
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: train.main([*TINY.split(), "--quiet", "--force", *words]))
    assert stopped.value.code == 2 and not list((tmp_path / "runs").iterdir())
    assert f"argument {name}: expected a value, got an empty one" in capsys.readouterr().err


def test_every_command_refuses_empty_values(capsys):
    parser = Parser(prog="any")
    parser.add_argument("things", nargs="*", metavar="THING")
    parser.add_argument("--film")
    parser.add_subparsers().add_parser("inner").add_argument("--json", metavar="FILE")
    for words, name in (
        (["--film", ""], "--film"),
        (["", "inner"], "THING"),
        (["inner", "--json", ""], "--json"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert f"argument {name}: expected a value" in capsys.readouterr().err
