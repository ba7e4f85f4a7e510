"""The README: its Python runs, its training commands start, its links lead to files."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

import minilstm
from minilstm import train
from minilstm.command import Parser
from minilstm.training import loop
from minilstm.training.distributed import ALONE

README = Path(minilstm.__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="no README beside the package")
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
BLOCKS = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


class Understood(Exception):  # noqa: N818
    """The command would start now."""


def test_the_readme_is_read_in_a_few_minutes():
    assert len(TEXT.split()) <= 1200


def test_the_readme_has_what_is_looked_for():
    assert len(PYTHON) == 2 and len(COMMANDS) >= 6


def test_the_readme_loads_and_rolls_out_a_run(tmp_path, monkeypatch, train_undrawn):
    monkeypatch.chdir(tmp_path)
    train_undrawn(
        {"model": {"hidden": 8}, "run": {"batch_size": 2, "steps": 1}}, "runs/composite-0"
    )
    names = {}
    exec(compile(PYTHON[0], str(README), "exec"), names)
    assert names["future"].shape == (50, 5, 1600)


def test_the_readme_trains_by_hand_and_checks_its_gradients():
    """With a smaller model, because the check of the README's takes seconds."""
    code = PYTHON[1]
    for shown, smaller in (
        ("D=6, H=4, layers=2", "D=2, H=2, layers=1"),
        ("(5, 3, 6)", "(5, 3, 2)"),
    ):
        assert shown in code
        code = code.replace(shown, smaller)
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert len(names["rows"]) > 10


@pytest.mark.parametrize("line", [c for c in COMMANDS if "minilstm.train" in c])
def test_every_training_command_of_the_readme_is_understood(monkeypatch, line):
    """Up to where it would start: an unknown flag or preset ends it before."""

    def stop(*arguments, **named):
        raise Understood

    monkeypatch.setattr(loop, "train", stop)
    monkeypatch.setattr(train, "use_backend", lambda *_: contextlib.nullcontext())  # without a GPU
    monkeypatch.setattr(train, "Ranks", lambda library: ALONE)  # nor an MPI
    monkeypatch.setattr(train, "resumed_settings", lambda options: minilstm.config.load())
    words = shlex.split(line.replace("DIR", "bundled"))
    arguments = words[words.index("minilstm.train") + 1 :]
    if "--help" in arguments:
        monkeypatch.setattr(Parser, "print_help", stop)
    with pytest.raises(Understood):
        train.main(arguments)
