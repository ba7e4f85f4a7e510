"""The command lines, as a clumsy or hostile user types them: one line, status 2, nothing left."""

import gzip
import importlib
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import small

import minilstm
from data_tools import (
    convert_pth,
    fetch_mnist,
    inspect_file,
    learn_video,
    make_actions,
    make_digits,
    make_moving_mnist,
)
from minilstm import __main__ as entry
from minilstm import (
    bench,
    classify,
    demo,
    evaluate,
    gradcheck,
    interop,
    report,
    reproduce,
    train,
    visualize,
)
from minilstm.__main__ import commands
from minilstm.command import USUAL, Parser, run_command
from minilstm.config import SECTIONS, flag_of, from_toml
from minilstm.config.loading import cells_from
from minilstm.data import Clips, write_percepts
from minilstm.errors import RunError
from minilstm.experiments import demo_page, run_figures
from minilstm.files import expect_writable, shell_word
from minilstm.training.progress import Progress

PACKAGE = Path(minilstm.__file__).parent
COMMANDS = sorted(
    path.stem
    for path in PACKAGE.glob("[!_]*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)
TINY = "--past 3 --future 3 --hidden 4 --batch-size 4 --steps 2"
SMALL = f"--frame-size 8 --digit-size 5 {TINY}"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Default run folders and relative paths stay inside the test's folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures: they take longer than a tiny run."""
    monkeypatch.setattr(Progress, "draw", lambda run: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """The folder of a small run."""
    run = tmp_path_factory.mktemp("made") / "run"
    train_undrawn(small(model={"hidden": 4}), run)
    return run


@pytest.fixture
def run(tmp_path, made, undrawn):
    """A copy of the small run, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def call(module, *arguments):
    """The exit status of a command, called in this process."""
    try:
        return run_command(lambda: module.main([str(word) for word in arguments]))
    except SystemExit as stopped:  # argparse leaves this way
        return stopped.code


def refusal(capsys, module, *arguments):
    """The one line on stderr of a command that exits with 2 and prints nothing else."""
    capsys.readouterr()
    status = call(module, *arguments)
    printed = capsys.readouterr()
    assert status == 2, printed
    assert printed.out == "" and printed.err.startswith("error: "), printed
    assert printed.err.count("\n") == 1 and printed.err.endswith("\n"), printed
    return printed.err


def train_refusal(capsys, *arguments):
    """The refusal of a small training run, which must leave no trace in the folder."""
    before = snapshot(".")
    words = TINY if "--data" in arguments else SMALL  # other data have no --digit-size
    message = refusal(capsys, train, *words.split(), "--quiet", *arguments)
    assert snapshot(".") == before, "something was written"
    return message


def snapshot(folder):
    """Everything in a folder, by path: the bytes of files, None for folders."""
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")
    }


def python(*arguments, **keywords):
    """A fresh interpreter, which has to end soon."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **keywords,
    )


class Asked(Exception):  # noqa: N818
    """The command would parse its arguments now: `parser` is its parser."""

    def __init__(self, parser):
        self.parser = parser


def parser_of(monkeypatch, module, *words):
    """The parser of a command, which does not start."""

    def stop(parser, *_):
        raise Asked(parser)

    with monkeypatch.context() as patch, pytest.raises(Asked) as asked:
        patch.setattr(Parser, "parse_known_args", stop)
        importlib.import_module(module).main(list(words))
    return asked.value.parser


# ----------------------------------------------------------------- what is there


def test_the_main_commands_are_among_those_that_were_found():
    assert {"train", "evaluate", "gradcheck"} <= set(COMMANDS)


# ------------------------------------------------------------------------- one for all


def test_the_list_of_commands_has_a_line_for_every_module_with_a_main(capsys):
    assert call(entry) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    listed = {line[0]: line[1] for line in lines if line and line[0] in COMMANDS}
    modules = [importlib.import_module(f"minilstm.{p.stem}") for p in PACKAGE.glob("[!_]*.py")]
    assert listed == {
        module.__name__.removeprefix("minilstm."): module.__doc__.splitlines()[0]
        for module in modules
        if hasattr(module, "main")
    }


def as_a_program(capsys, monkeypatch, *words):
    """The status and the output of `python -m words`, without a process of its own."""
    monkeypatch.setattr(sys, "argv", list(words))
    programs = {f"minilstm.{word}" for word in (*COMMANDS, "__main__")}
    for name in programs & sys.modules.keys():
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return ended.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    "words, status",
    [
        *((f"{command} --help", 0) for command in COMMANDS),
        ("gradcheck nonesuch", 2),
        ("gradcheck Dropout", 0),
    ],
)
def test_both_spellings_of_a_command_print_the_same_and_end_alike(
    capsys, monkeypatch, words, status
):
    alone = as_a_program(capsys, monkeypatch, *f"minilstm.{words}".split())
    by_name = as_a_program(capsys, monkeypatch, *f"minilstm {words}".split())
    assert alone == by_name and alone[0] == status
    printed = alone[1]
    assert (printed.out == "") == (status == 2) and (printed.err == "") == (status == 0)
    if words.endswith("--help"):
        command = words.partition(" ")[0]
        assert printed.out.startswith(f"usage: python -m minilstm.{command} ")


@pytest.mark.parametrize(
    "word, nearest",
    (("trian", "train"), ("--visualise", "visualize"), ("--versoin", "--version")),
)
def test_an_unknown_command_is_refused_with_the_nearest(capsys, word, nearest):
    assert f"got {word!r}: did you mean {nearest!r}?" in refusal(capsys, entry, word)


def test_the_version_is_that_of_the_package(capsys):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert call(entry, "--version") == 0
    assert capsys.readouterr().out == f"minilstm {project['version']}\n"
    assert project["scripts"] == {"minilstm": "minilstm.__main__:main"}


@pytest.mark.parametrize("command", [*commands(), "data_tools"])
def test_every_command_answers_with_the_version(command, capsys):
    module = "data_tools.inspect_file" if command == "data_tools" else f"minilstm.{command}"
    assert call(importlib.import_module(module), "--version") == 0
    assert capsys.readouterr().out == f"minilstm {minilstm.__version__}\n"


def test_the_help_of_train_names_every_setting_with_its_default_and_choices(capsys):
    assert call(train, "--help") == 0
    words = capsys.readouterr().out.split()
    text = " ".join(words)
    for section in SECTIONS.values():
        for item in fields(section):
            assert {flag_of(item), f"{flag_of(item)},"} & set(words), flag_of(item)
            assert all(choice in text for choice in item.metadata["choices"])
    for flag in ("--out", "--force", "--quiet", "--config", "PRESET"):
        assert flag in text
    assert text.count("(default:") >= sum(len(fields(s)) for s in SECTIONS.values())


def test_importing_the_trainer_is_light():
    heavy = {"matplotlib", "scipy", "tqdm", "safetensors", "PIL", "cupy", "tomli_w"}
    code = "import sys, minilstm.train, minilstm.evaluate; print(*sys.modules)"
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    assert not heavy & {name.partition(".")[0] for name in found.stdout.split()}


def test_a_flag_that_takes_several_words_adds_them_up_when_it_is_given_twice(monkeypatch):
    tools = [f"data_tools.{path.stem}" for path in (PACKAGE.parent / "data_tools").glob("*.py")
             if "def main(" in path.read_text("utf-8")]  # fmt: skip
    lines = [[f"minilstm.{name}"] for name in COMMANDS if name != "__main__"]
    lines += [["minilstm.bench", "gpu"], *([tool] for tool in tools)]
    several = 0
    for line in lines:
        parser = parser_of(monkeypatch, *line)
        for flag in (item for item in parser._actions if item.nargs == "+" and item.option_strings):
            assert type(flag).__name__ == "_ExtendAction" and not flag.default, (line, flag.dest)
            several += 1
    assert len(tools) > 9 and several == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_imported_without_running(command):
    assert callable(importlib.import_module(f"minilstm.{command}").main)


def test_presets_and_flags_may_stand_in_any_order(undrawn):
    flags = SMALL.split()
    words = ["--quiet", "table2-predictor", *flags, "toronto2015", "--layers", "1", "--out", "run"]
    assert call(train, *words) == 0
    settings = from_toml(Path("run/config.toml"))
    assert settings.model.kind == "predictor" and settings.model.layers == 1
    assert settings.optimizer.rule == "rmsprop" and settings.model.hidden == 4


def test_a_run_is_repeated_from_its_own_configuration(run):
    assert call(train, "--config", run / "config.toml", "--quiet", "--out", "again") == 0
    first, again = (load_file(f"{out}/checkpoint.safetensors") for out in (run, "again"))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_run_without_a_name_is_called_after_its_model_and_seed(undrawn):
    assert call(train, *SMALL.split(), "--quiet", "--model", "predictor", "--seed", "3") == 0
    assert Path("runs/predictor-3/checkpoint.safetensors").is_file()


# ----------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["papre"], "'paper'"),
        ([""], "argument PRESET: expected a value, got an empty one"),
        (["--hiden", "8"], "--hidden"),
        (["--hidden"], "--hidden"),
        (["--hidden", "0"], ">= 1"),
        (["--past", "0"], ">= 1"),
        (["--future", "-1"], ">= 1"),
        (["--batch-size", "0"], ">= 1"),
        (["--layers", "-2"], ">= 1"),
        (["--steps", "0"], ">= 1"),
        (["--hidden", "eight"], "integer"),
        (["--hidden", "8.5"], "integer"),
        (["--hidden", "2000000"], "<= 1048576"),
        (["--hidden", "8", "16"], "'16': choose one; --config FILE takes a file"),
        (["--fused=no"], "expected no value after it, got 'no'"),
        (["--verbose"], "got --verbose: leave it out"),
        (["--learning-rate", "fast"], "a number"),
        (["--learning-rate", "nan"], "finite"),
        (["--minutes", "inf"], "finite"),
        (["--dropout", "1"], "< 1"),
        (["--seed", "-1"], ">= 0"),
        (["--model", "compsite"], "'composite'"),
        (["--cell", "lstm"], "slides-lstm"),
        (["--digit-size", "9"], "frame_size"),
        (["--digit-size", "29", "--frame-size", "40"], "<= 28"),
        (["--num-digits", "100000"], "num_digits"),
        (["--model", "predictor", "--conditional", "both"], "predictor"),
        (["--feeding", "own"], "conditional"),
        (["--reconstruction-weight", "0", "--future-weight", "0"], "weight"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--data", "film.avi"], ".npy"),
        (["--data", "patches"], "--path"),
        (["--data", "patches", "--path", "nowhere.npz"], "nowhere.npz"),
        (["--path", "my.npy"], "data.path empty"),
        (["--data", "percepts"], "--path"),
        (["--data", "percepts", "--path", "nowhere"], "nowhere"),
        (["--data", "nowhere.npy"], "nowhere.npy"),
        (["--digits", "nowhere"], "nowhere"),
        (["--hidden", "1000000000"], "hidden"),
        (["--hidden", "1000000"], "memory"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(capsys, words, said):
    assert said in train_refusal(capsys, *words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\nhiden = 8\n", "'hidden'"),
        ("[modle]\nhidden = 8\n", "'model'"),
        ("[model]\nhidden = '8'\n", "integer"),
        ("[model]\nhidden = true\n", "integer"),
        ("[model]\nhidden = 0\n", ">= 1"),
        ("model = 3\n", "[model]"),
        ("[model\n", "TOML"),
        ("\x00\x01", "TOML"),
        ("[model]\nhidden = 8\nhidden = 9\n", "TOML"),
    ],
)
def test_a_wrong_configuration_file_is_refused_naming_file_and_remedy(capsys, text, said):
    Path("my.toml").write_text(text)
    message = train_refusal(capsys, "--config", "my.toml")
    assert said in message and "my.toml" in message


def test_bytes_that_are_no_text_and_folders_are_no_configuration(capsys):
    Path("my.toml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in train_refusal(capsys, "--config", "my.toml")
    assert "directory" in train_refusal(capsys, "--config", ".").lower()


def test_a_configuration_may_begin_with_a_byte_order_mark():
    Path("my.toml").write_bytes(b"\xef\xbb\xbf[model]\nhidden = 9\n")
    assert from_toml(Path("my.toml")).model.hidden == 9


def test_a_name_of_two_lines_is_still_refused_in_one(capsys):
    train_refusal(capsys, "--config", "two\nlines.toml")
    train_refusal(capsys, "--data", "two\nlines.npy")


@pytest.mark.parametrize("module", [train, evaluate])
def test_a_missing_cupy_is_one_line_that_says_what_to_install(capsys, monkeypatch, run, module):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails, wherever the test runs
    words = [run] if module is evaluate else [*SMALL.split(), "--out", "other"]
    message = refusal(capsys, module, *words, "--backend", "cupy")
    assert "pip install" in message and "cupy" in message
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RUN"),
        (["RUN", ""], "got an empty one"),
        (["RUN", "more"], "more"),
        (["RUN", "--jsn"], "--json"),
        (["RUN", "--sequences", "0"], "expected a whole number from 1 to"),
        (["RUN", "--sequences", "many"], "many"),
        (["RUN", "--data", "patches"], "moving-mnist or a .npy file"),
        (["RUN", "--data", "film.avi"], ".npy"),
        (["RUN", "--data", "nowhere.npy"], "nowhere.npy"),
        (["RUN", "--digits", "nowhere"], "nowhere"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(capsys, run, words, said):
    words = [run if word == "RUN" else word for word in words]
    assert said in refusal(capsys, evaluate, *words)


def of_old_version(run):
    """Take the settings out of a checkpoint, so that those in config.toml can't be compared."""
    file = run / "checkpoint.safetensors"
    save_file(load_file(file), file, metadata=ABOUT)


def test_other_frames_than_those_of_the_run_are_refused_in_words(capsys, run):
    np.savez("grey.npz", patches=np.random.default_rng(0).integers(0, 256, (20, 6, 4, 4), np.uint8))
    np.savez(
        "rgb.npz", patches=np.random.default_rng(0).integers(0, 256, (20, 6, 4, 4, 3), np.uint8)
    )
    tiny = "--past 3 --future 3 --hidden 4 --batch-size 4 --steps 1 --quiet".split()
    assert call(train, "patches", "--path", "rgb.npz", *tiny, "--out", "patches") == 0
    said = refusal(capsys, evaluate, "patches", "--data", "grey.npz")
    assert "expected frames of 4x4x3 pixels, which patches was trained on, got 4x4" in said
    of_old_version(run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("frame_size = 8", "frame_size = 9"))
    assert "expected frames of 64 numbers, as run was trained on, got 81" in refusal(
        capsys, evaluate, "run", "--sequences", 2
    )


def test_a_run_on_percepts_has_no_page_and_clips_without_labels_are_refused(capsys, undrawn):
    frames, many = np.random.default_rng(0).random((120, 5), np.float32), np.full(20, 6)
    Path("p").mkdir()
    write_percepts(Path("p"), Clips(frames, many, np.full(20, -1), ("a",), np.arange(20)))
    tiny = "--past 3 --future 3 --hidden 3 --batch-size 2 --steps 1 --quiet --out run".split()
    assert call(train, "--data", "percepts", "--path", "p", *tiny) == 0
    for module in (demo, report):
        assert "expected a run on pictures" in refusal(capsys, module, "run")
    words = "--data percepts --path p --encoder scratch".split()
    assert "p: expected clips with labels, got none" in refusal(capsys, classify, *words)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_place_of_a_file_is_refused_not_waited_for(capsys, run):
    os.mkfifo("a.npy")
    os.mkfifo("a.npz")
    np.save("sequences.npy", np.full((20, 30, 8, 8), 9, np.uint8))
    train.main([*TINY.split(), "--data", "sequences.npy", "--out", "own", "--quiet"])
    for module, *words in (
        (train, "--data", "a.npy"),
        (train, "patches", "--path", "a.npz"),
        (evaluate, "run", "--data", "a.npy"),
        (evaluate, "own", "--data", "a.npy"),
        (interop, "import", "a.npy", "new", "--like", "run"),
        (convert_pth, "a.npy", "b.safetensors"),
        (fetch_mnist, "mnist", "--from", "a.npy"),
    ):
        assert "expected a file, got a pipe or a device" in refusal(capsys, module, *words), words


@pytest.mark.parametrize(
    ("path", "word"),
    [("-dash", "./-dash"), ("a b", "'a b'"), ("-a b", "'./-a b'"), ("runs/-x", "runs/-x")],
)
def test_a_path_is_one_word_of_the_shell_and_no_flag(path, word):
    assert shell_word(path) == shell_word(Path(path)) == word
    if path == "-dash":
        assert f"minilstm.report {word}" in " ".join(demo_page.what_next(path))
        said = " ".join(learn_video.what_next(Path("v"), Path(path), 1, 0))
        assert f"minilstm.evaluate {word}/run" in said


def test_a_run_without_permission_is_not_called_missing(capsys, run, monkeypatch):
    """Root may read all, so the system's answers stand in for those that others get."""
    (run / "config.toml").rename("aside")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert "got run, which you may not read: ask its owner" in refusal(capsys, evaluate, "run")
        Path("aside").rename(run / "config.toml")
        said = refusal(capsys, report, "run")
        assert "got no permission in" in said and "copy the run to a folder of yours" in said
    monkeypatch.setattr("safetensors.safe_open", unreadable)
    assert "a file that you may not read: ask its owner" in refusal(capsys, evaluate, "run")


def unreadable(*_, **__):
    raise FileNotFoundError("No such file or directory")


def test_settings_that_matplotlib_can_not_read_are_one_line(tmp_path, run):
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    words = "-m", "minilstm.visualize", "run", "--only", "gates"
    found = python(*words, cwd=tmp_path, env=environment)
    assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr
    assert "expected settings that Matplotlib can read" in found.stderr


THINGS = "figure|fit|frame|gradient|layer|line|minute|number|parameter|run|sequence|step|unit"


def test_a_count_of_one_has_the_singular(capsys, undrawn):
    tiny = "--digit-size 4 --frame-size 8 --past 1 --future 1 --hidden 1 --batch-size 1 --steps 1"
    assert call(train, *tiny.split(), "--num-digits", "1", "--out", "run") == 0
    for module, *words in (
        (evaluate, "run", "--sequences", 1),
        (demo, "run", "--sequences", 1),
        (visualize, "run", "--only", "gates"),
        (inspect_file, "run"),
        (gradcheck, "Dropout"),
        (reproduce, "fig7", "--scale", "smoke", "--plan"),
    ):
        assert call(module, *words) == 0, words
    texts = [Path(name).read_text("utf-8") for name in ("demo/demo.html", "run/figures/figures.md")]
    for text in (capsys.readouterr().out, *texts):
        assert re.findall(rf"\b1 (?:test )?(?:{THINGS})s\b", text) == []


# ----------------------------------------------------------------- run folders


@pytest.mark.parametrize(
    "name", ["file", "file/run", "file/deep/run", "/proc/nowhere/run", "n" * 300]
)
def test_a_run_folder_that_cannot_be_made_is_refused(capsys, name):
    Path("file").write_text("mine")
    message = train_refusal(capsys, "--out", name)
    assert name in message and "choose another" in message


def test_an_existing_run_is_left_alone(capsys, run):
    message = train_refusal(capsys, "--out", run)
    assert "--force" in message and str(run) in message


def test_a_folder_of_other_things_is_left_alone_even_by_force(capsys):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    train_refusal(capsys, "--out", "mine")
    train_refusal(capsys, "--out", "mine", "--force")


def test_force_overwrites_the_files_of_a_run_and_no_others(run):
    (run / "notes.txt").write_text("mine")
    before = snapshot(run)
    words = [*SMALL.split(), "--quiet", "--seed", "7", "--out", run, "--force"]
    assert call(train, *words) == 0
    after = snapshot(run)
    assert after.keys() == before.keys()
    assert after[str(run / "notes.txt")] == b"mine"
    for name in ("config.toml", "checkpoint.safetensors", "metrics.jsonl"):
        assert after[str(run / name)] != before[str(run / name)]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 2], "the log of the run before is still there"


def test_force_keeps_the_run_when_the_new_settings_are_wrong(capsys, run):
    train_refusal(capsys, "--out", run, "--force", "--data", "nowhere.npy")
    train_refusal(capsys, "--out", run, "--force", "--digits", "nowhere")


def test_force_on_a_run_with_a_folder_in_place_of_a_file_is_refused_in_words(capsys, run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    printed = refusal(capsys, train, *SMALL.split(), "--quiet", "--out", run, "--force")
    assert str(run) in printed and "choose another" in printed


def test_an_empty_folder_is_a_fine_place_for_a_run(undrawn):
    Path("empty").mkdir()
    assert call(train, *SMALL.split(), "--quiet", "--out", "empty") == 0


@pytest.mark.parametrize(
    "words, or_a_name",
    [
        ("train --resume {}", False),
        ("evaluate {}", True),
        ("report {}", True),
        ("visualize {}", True),
        ("demo {}", True),
        ("classify --init-from {}", True),
        ("interop export {} a.safetensors", True),
        ("interop import a.safetensors b --like {}", True),
        ("data_tools.pack_model {} out --command a --commit b", False),
    ],
)  # fmt: skip
def test_a_run_that_is_not_there_is_refused_with_what_this_command_takes(capsys, words, or_a_name):
    Path("empty").mkdir()
    Path("file").write_text("[model]\n")
    for name, said in (
        ("nix", "got nix, which does not exist: give the folder that --out named"),
        ("empty", "got empty, which has no config.toml: give the folder that --out named"),
        ("file", "got file, which is a file: give its folder"),
    ):
        if name == "file" and "--like" in words:  # which takes a file of settings
            continue
        command, *rest = words.format(name).split()
        module = importlib.import_module(command if "." in command else f"minilstm.{command}")
        printed = refusal(capsys, module, *rest)
        assert f"expected a run folder of minilstm.train, {said}" in printed
        assert (", or the name of a trained model: one-digit" in printed) == or_a_name
    assert sorted(os.listdir()) == ["empty", "file"]


def test_watching_waits_for_no_run_where_none_can_be_made(capsys):
    """A folder with other files, and a file. A run that starts later is in test_live_page.py."""
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    assert "mine, which has no config.toml" in refusal(capsys, report, "mine", "--watch")
    said = refusal(capsys, report, "mine/thesis.txt", "--watch")
    assert "mine/thesis.txt, which is a file" in said


def test_a_damaged_configuration_of_a_run_is_named(capsys, run):
    (run / "config.toml").write_text("[model]\nhiden = 8\n")
    assert "config.toml" in refusal(capsys, evaluate, run)
    (run / "config.toml").write_bytes(b"\x80\x04garbage")
    assert "config.toml" in refusal(capsys, evaluate, run)


# ----------------------------------------------------------------- checkpoints


def damage_header(raw):
    return b"\xff" * 8 + raw[8:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:4],
        lambda raw: raw[:100],
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: np.random.default_rng(0).bytes(len(raw)),
        lambda raw: pickle.dumps({"encoder.0.Wx": [1.0]}),
        lambda raw: raw.replace(b"minilstm", b"maxilstm", 1),
        lambda raw: raw.replace(b'{\\"', b'[\\"', 1),
        damage_header,
    ],
    ids="empty 4-bytes 100-bytes truncated longer random pickle foreign no-json header".split(),
)
def test_a_damaged_checkpoint_is_refused_by_name(capsys, run, damage):
    path = run / "checkpoint.safetensors"
    raw = path.read_bytes()
    damaged = damage(raw)
    assert damaged != raw
    path.write_bytes(damaged)
    assert str(path) in refusal(capsys, evaluate, run)
    with pytest.raises(RunError):
        minilstm.load(run)


def test_a_missing_checkpoint_is_named(capsys, run):
    (run / "checkpoint.safetensors").unlink()
    assert "checkpoint.safetensors" in refusal(capsys, evaluate, run)
    (run / "checkpoint.safetensors").mkdir()
    assert "checkpoint.safetensors" in refusal(capsys, evaluate, run)


def test_best_weights_that_are_not_there_are_named(capsys, run):
    (run / "best.safetensors").unlink()
    assert "leave --best out" in refusal(capsys, evaluate, "run", "--best")


def test_a_pickle_in_place_of_a_checkpoint_is_never_run(capsys, run):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (Path("exploded"),))

    (run / "checkpoint.safetensors").write_bytes(pickle.dumps(Bomb()))
    refusal(capsys, evaluate, run)
    assert not Path("exploded").exists()


ABOUT = {"minilstm": json.dumps({"step": 2, "D": 64})}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("encoder.0.Wx"), "encoder.0.Wx is missing"),
        (lambda a: a.update({"encoder.7.Wx": a["encoder.0.Wx"]}), "encoder.7.Wx is unknown"),
        (
            lambda a: a.update({"encoder.0.Wh": a["encoder.0.Wh"].T.copy()}),
            "encoder.0.Wh has shape (16, 4), not (4, 16)",
        ),
        (lambda a: a.update({"predict.readout.b": a["predict.readout.b"] * np.nan}), "finite"),
    ],
)
def test_wrong_arrays_in_a_checkpoint_are_listed(capsys, run, change, said):
    arrays = load_file(run / "checkpoint.safetensors")
    change(arrays)
    save_file(arrays, run / "checkpoint.safetensors", metadata=ABOUT)
    assert said in refusal(capsys, evaluate, run)


def test_all_arrays_that_are_amiss_are_listed_together(capsys, run):
    of_old_version(run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("hidden = 4", "hidden = 5"))
    message = refusal(capsys, evaluate, run)
    for name in ("encoder.0.Wx", "reconstruct.stack.0.Wh", "predict.readout.W"):
        assert name in message


@pytest.mark.parametrize(
    "about", ["[]", "3", "{}", '{"D": "64"}', '{"D": 0}', '{"D": true}', '{"D": 6.5}', "nonsense"]
)
def test_a_checkpoint_that_describes_itself_wrongly_is_refused(capsys, run, about):
    arrays = load_file(run / "checkpoint.safetensors")
    save_file(arrays, run / "checkpoint.safetensors", metadata={"minilstm": about})
    assert "checkpoint.safetensors" in refusal(capsys, evaluate, run)


# ----------------------------------------------------------------- data files


def npy(array, path="my.npy", **keywords):
    np.save(path, array, **keywords)
    return Path(path)


GOOD = np.zeros((20, 12, 8, 8), np.uint8)
BAD_FILES = {
    "empty": lambda p: p.write_bytes(b""),
    "truncated header": lambda p: p.write_bytes(p.read_bytes()[:40]),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "random": lambda p: p.write_bytes(np.random.default_rng(0).bytes(500)),
    "claims more": lambda p: p.write_bytes(p.read_bytes().replace(b"(20, 12,", b"(20, 99,", 1)),
    "text": lambda p: p.write_text("0, 1, 2"),
    "pickled objects": lambda p: npy(np.array([{}, []], object), p, allow_pickle=True),
    "pickle": lambda p: p.write_bytes(pickle.dumps(GOOD)),
    "floats": lambda p: npy(GOOD.astype("float32"), p),
    "NaN": lambda p: npy(np.full(GOOD.shape, np.nan), p),
    "three dimensions": lambda p: npy(GOOD[0], p),
    "no sequences": lambda p: npy(GOOD[:, :0], p),
    "no pixels": lambda p: npy(GOOD[..., :0], p),
    "no axis of time": lambda p: npy(GOOD[:19], p),
    "two axes of time": lambda p: npy(np.zeros((20, 20, 8, 8), np.uint8), p),
    "folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_of_sequences_is_refused_by_both_commands(capsys, run, name):
    path = npy(GOOD)
    BAD_FILES[name](path)
    assert "my.npy" in refusal(capsys, evaluate, run, "--data", path)
    assert "my.npy" in train_refusal(capsys, "--data", path, "--out", "other")


def test_a_file_with_too_few_or_too_short_sequences_is_refused(capsys):
    assert "10 sequences" in train_refusal(capsys, "--data", npy(GOOD[:, :9]))
    assert "20" in train_refusal(capsys, "--data", npy(GOOD), "--past", "15", "--future", "6")


def test_an_empty_or_damaged_folder_of_digits_is_refused(capsys, run):
    Path("digits").mkdir()
    assert "digits" in train_refusal(capsys, "--digits", "digits")
    assert "digits" in refusal(capsys, evaluate, run, "--digits", "digits")
    header = b"\0\0\x08\x03" + np.array([60_000, 28, 28], ">u4").tobytes()
    for raw in (b"", b"\0\0", b"GIF89a", header, header + b"\0" * 1000, b"\x1f\x8b\x08garbage"):
        Path("digits/train-images-idx3-ubyte").write_bytes(raw)
        assert "train-images-idx3-ubyte" in train_refusal(capsys, "--digits", "digits")
    Path("digits/train-images-idx3-ubyte").unlink()
    whole = gzip.compress(header + bytes(60_000 * 28 * 28), 1)
    for raw in (whole, whole[:-9]):  # right size but not the original; cut short
        Path("digits/train-images-idx3-ubyte.gz").write_bytes(raw)
        assert "train-images-idx3-ubyte.gz" in train_refusal(capsys, "--digits", "digits")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(capsys, monkeypatch):
    """Benchmarks and classifiers take minutes or hours, and write at the end."""
    Path("file").write_text("")
    Path("folder").mkdir()
    for name, folders, said in (
        ("missing/a.json", False, "no folder missing"),
        ("file/a.json", True, "in place of a folder"),
        ("folder", False, "a folder of that name"),
    ):
        with pytest.raises(RunError, match=said):
            expect_writable(name, folders)
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no permission in"):
        patch.setattr(os, "access", lambda *_: False)  # as for anybody but root
        expect_writable("folder/new/a.json", folders=True)
    expect_writable("folder/new/a.json", folders=True)
    expect_writable("folder/a.json")

    def measure(*_):
        raise AssertionError("measured first")

    monkeypatch.setattr(bench, "compare", measure)
    monkeypatch.setattr(bench, "sweep", measure)
    assert "missing" in refusal(capsys, bench, "--json", "missing/a.json")
    assert "missing" in refusal(capsys, bench, "growth", "--out", "missing/a.png")
    monkeypatch.setattr(classify, "fit", measure)
    words = "--encoder scratch --frame-size 6 --length 6 --labels 1 --out file/x".split()
    assert "file" in refusal(capsys, classify, *words)


# ----------------------------------------------------------------- real processes, real signals


def test_a_process_that_a_test_starts_imports_the_package_that_the_test_imports():
    found = python("-c", "import minilstm; print(minilstm.__file__)")
    assert found.stdout.strip() == minilstm.__file__


def test_a_refusal_in_a_real_process_has_no_traceback_and_status_2(tmp_path):
    found = python("-m", "minilstm.train", "papre", cwd=tmp_path)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


EVERY_COMMAND_ON_ONE_RUN = """
import sys
from data_tools import inspect_file, pack_model
from minilstm import classify, demo, evaluate, interop, report, train
from minilstm.command import run_command
from minilstm.experiments import run_figures
from minilstm.training.progress import Progress

Progress.draw, run_figures.draw = lambda run: None, lambda runs, folder: None
name, small = sys.argv[1], sys.argv[2].split()
run, film, cell = name, f"{name}.npy", ["--cell", f"{name}.py:Mine"]
for module, *words in (
    (train, *small, "--data", film, *cell, "--out", run),
    (train, *small, "--data", film, "--out", f"{name}-1"),
    (train, "--resume", run, "--extend-to", "3"),
    (evaluate, run, "--sequences", "2", "--keep", f"{name}.npz"),
    (report, run, "--sequences", "2"),
    (demo, run, "--sequences", "2", "--out", f"{name}-demo"),
    (interop, "export", f"{name}-1", f"{name}.safetensors", "--keep-peepholes"),
    (interop, "import", f"{name}.safetensors", f"{name}-2", "--like", f"{name}-1"),
    (inspect_file, run),
    (inspect_file, film, "--sheet", f"{name}.png"),
    (train, *small, "--frame-size", "8", "--digit-size", "5", "--out", f"{name}-4"),
    (pack_model, f"{name}-4", f"{name}-packed", "--commit", "a", "--command", f"train {name}"),
    (classify, "--init-from", run, "--frame-size", "8", "--length", "6", "--steps", "2", "--labels",
     "2", "--validation", "1", "--test", "1", "--window", "6", "--out", f"{name}-3"),
):
    assert run_command(lambda: module.main(words)) == 0, words
"""


def test_every_command_takes_names_with_letters_that_the_locale_lacks(tmp_path):
    """In the locale C, without the UTF-8 mode of Python, a name is bytes that are not decoded."""
    np.save(tmp_path / "Übung.npy", np.zeros((12, 20, 8, 8), np.uint8))
    own = "from minilstm import PeepholeLSTM\n\n\nclass Mine(PeepholeLSTM):\n    pass\n"
    (tmp_path / "Übung.py").write_text(own)
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = "-c", EVERY_COMMAND_ON_ONE_RUN, "Übung", "--past 3 --future 3 --hidden 4 --steps 2"
    found = python(*words, cwd=tmp_path, env=environment)
    assert found.returncode == 0, found.stderr
    assert "\\xdcbung" in found.stdout  # its output has no letters either
    config = from_toml(tmp_path / "Übung/config.toml")
    assert config.data.source == "Übung.npy" and config.model.cell_file.path.endswith("Übung.py")
    assert "Übung" in (tmp_path / "Übung/report.html").read_text("utf-8")
    assert (
        json.loads((tmp_path / "Übung-3/results.json").read_text("utf-8"))["init_from"] == "Übung"
    )
    assert "train Übung" in (tmp_path / "Übung-packed/about.toml").read_text("utf-8")


def test_a_name_that_is_no_utf_8_is_fine_for_a_run_and_no_setting(capsys, run, monkeypatch):
    monkeypatch.setattr(run_figures, "draw", lambda runs, folder: None)
    name = os.fsdecode(b"\xdcbung")
    run.rename(name)
    assert call(evaluate, name, "--sequences", "2") == 0
    assert call(report, name, "--sequences", "2") == 0
    assert "\\xdcbung/report.html" in capsys.readouterr().out
    said = train_refusal(capsys, "--data", f"{name}.npy")
    assert "expected data.source in UTF-8, got '\\\\xdcbung.npy': rename it" in said


def test_numbers_that_explode_say_so_once(capsys, undrawn):
    flags = "--quiet --optimizer sgd --clip-norm 0 --learning-rate 1e37 --log-every 1 --out run"
    message = refusal(capsys, train, *SMALL.split(), *flags.split(), "--steps", 60)
    assert message.startswith("error: expected finite")


def test_a_reader_that_stops_reading_is_a_warning(run):
    words = [sys.executable, "-m", "minilstm.evaluate", str(run), "--sequences", "2", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read().startswith("warning: standard output can't be written (Broken")
    process.stderr.close()
    assert process.wait(timeout=30) == 0


# ------------------------------------------------------------------ flags as others spell them


@pytest.mark.parametrize(
    "module, words, said",
    [
        (evaluate, "run --sequences 1.5", "--sequences: expected a whole number from 1 to"),
        (report, "run --every x", "--every: expected a number, got 'x'"),
        (report, "run --watch --every inf", "expected --every > 0, in seconds, got inf"),
        (evaluate, "run --sequences", "--sequences: expected a value after it, got none"),
        (evaluate, "run --backend gpu", "expected one of 'numpy', 'cupy', got 'gpu'"),
        (evaluate, "", "expected RUN, got nothing there: add it"),
        (bench, "--seconds 0", "expected a number from 0.001 to"),
        (reproduce, "fig5 --seeds 0", "expected a whole number from 1 to 1,000,000,000, got '0'"),
        (make_moving_mnist, "--out a.npy --seed -1", "expected a whole number from 0 to"),
        (gradcheck, "LSTM --seed -1", "expected --seed >= 0, got -1"),
        (evaluate, "run --keep kept", "got a name that does not end in .npz"),
        (make_digits, "--digits bundled --out a.npz", "got bundled, which this command makes"),
        (evaluate, f"run --sequences {10**9}", f"got {10**9}: lower --sequences to"),
        (classify, f"--encoder scratch --labels {10**9}", "expected clips that fit into the"),
        (make_moving_mnist, f"--out a.npy --sequences {10**9}", "expected a file that fits into"),
        (make_actions, f"--out a.npz --per-class {10**9}", "expected a file that fits into"),
    ],
)
def test_a_number_that_can_not_be_is_refused_at_once(capsys, request, module, words, said):
    if words.startswith("run"):
        request.getfixturevalue("run")
    assert said in refusal(capsys, module, *words.split())
    assert not [path for path in os.listdir() if path != "run"]


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("--lr", "--learning-rate"), ("--lr=0.1", "--learning-rate"), ("--epochs", "--steps"),
        ("--hidden_size", "--hidden"), ("--gpu", "--backend cupy"), ("--BS", "--batch-size"),
        ("--learning-rat", "--learning-rate"), ("-o", "--out"), ("--verson", "--version"),
    ],
)  # fmt: skip
def test_a_flag_as_other_programs_spell_it_is_answered_with_ours(capsys, typed, meant):
    message = train_refusal(capsys, typed, "3")
    assert f"got {typed}: did you mean {meant}?" in message


def test_a_word_too_many_is_no_setting(capsys):
    assert "expected no further word, got b: leave it out" in refusal(capsys, report, "a", "b")


def test_a_usual_spelling_is_answered_only_with_a_flag_that_the_command_has(capsys):
    message = refusal(capsys, evaluate, "run", "--lr", "3")
    assert "--learning-rate" not in message


def test_every_usual_spelling_stands_for_a_flag_of_training_and_is_none_itself(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    flags = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    assert {meant.partition(" ")[0] for meant in USUAL.values()} <= flags
    assert not set(USUAL) & flags


# ------------------------------------------------------------------------- the tab key


def completions(line):
    """Words that the tab key offers after `line`, by argcomplete's own protocol."""
    if find_spec("argcomplete") is None:
        pytest.skip("argcomplete is not installed")
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked |= {"COMP_TYPE": "9", "_ARGCOMPLETE_STDOUT_FILENAME": "offered"}
    done = python("-m", "minilstm", env=os.environ | asked)
    assert done.returncode == 0 and done.stderr == ""
    return Path("offered").read_text("utf-8").replace("\013", "\n").split()


@pytest.mark.parametrize(
    "line, offered",
    [
        ("minilstm ev", ["evaluate"]),
        ("minilstm eval", ["evaluate"]),
        ("minilstm train one", ["one-digit"]),
        ("minilstm train --learn", ["--learning-rate"]),
        ("minilstm train --optimizer ", ["adam", "rmsprop", "sgd"]),
        ("minilstm train --cell st", ["standard"]),
    ],
)
def test_the_tab_key_completes_commands_flags_presets_and_choices(line, offered):
    assert completions(line) == offered


def test_a_cell_is_completed_by_the_cells_and_by_files_of_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pyproject.toml", "pgru.py", "mine.py"):
        Path(name).touch()
    Path("parts").mkdir()
    Path("parts", "gru.py").touch()
    assert cells_from("p") == ["peephole", "parts/", "pgru.py:"]
    assert cells_from("parts/") == ["parts/gru.py:"]
    assert {"standard", "mine.py:"} < set(cells_from("")) and "pyproject.toml" not in cells_from("")


@pytest.mark.parametrize("line", ["minilstm train --st", "minilstm evaluate run --be", "minilstm "])
def test_the_tab_key_asks_the_parser_of_the_command_that_was_typed(line, monkeypatch):
    """With a stand-in, so that it is tested where argcomplete is not installed."""
    asked = []

    def autocomplete(parser, **keywords):
        asked.append(parser.prog)
        raise SystemExit(0)

    monkeypatch.setitem(sys.modules, "argcomplete", types.ModuleType("argcomplete"))
    sys.modules["argcomplete"].autocomplete = autocomplete
    monkeypatch.setattr(sys, "argv", ["minilstm"])
    run_module = lambda name, **_: importlib.import_module(name).main()  # noqa: E731
    monkeypatch.setattr(entry.runpy, "run_module", run_module)
    for name, value in (("_ARGCOMPLETE", "1"), ("COMP_LINE", line), ("COMP_POINT", str(len(line)))):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        entry.main()
    word = line.split()[1:2]
    assert asked == [f"python -m minilstm.{word[0]}" if word else "minilstm"]
    assert os.environ["_ARGCOMPLETE"] == ("2" if word else "1")
