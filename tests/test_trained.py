"""Trained models of the package: packed, found by name, checked, and used wherever a RUN is."""

import json
import re
import shutil
import tomllib

import numpy as np
import pytest
from small import small

import minilstm
from data_tools import pack_model
from minilstm import config, evaluate, report, train, visualize
from minilstm.command import run_command
from minilstm.errors import DataError, RunError
from minilstm.experiments import run_figures
from minilstm.runs import build, checkpoint, trained

NAME = "tiny-digit"
SETTINGS = small(
    model={"layers": 1},
    run={"steps": 6, "log_every": 2, "validate_every": 3},
    optimizer={"learning_rate": 0.02},
)
WORDS = ["--command", "python -m minilstm.train one-digit", "--commit", "0123abc"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, train_undrawn):
    """A folder with a small run, and with the same run packed, to be copied."""
    top = tmp_path_factory.mktemp("made")
    train_undrawn(SETTINGS, top / "run")
    assert pack_model.main([str(top / "run"), str(top / "packed"), *WORDS]) == 0
    return top


@pytest.fixture
def package(made, tmp_path, monkeypatch):
    """The folder of a trained model of the package, which is the packed run in this test.

    Reports have no figures: they take longer than all the rest.
    """
    monkeypatch.setattr(run_figures, "draw", lambda runs, folder: None)
    shutil.copytree(made / "packed", tmp_path / "trained" / NAME)
    monkeypatch.setattr(trained, "MODELS", tmp_path / "trained")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "trained" / NAME


def call(module, *arguments):
    """The exit status of a command, called in this process."""
    return run_command(lambda: module.main([str(word) for word in arguments]))


def test_a_packed_run_has_half_the_bytes_and_nothing_of_the_optimizer(made):
    full, _ = checkpoint.read(made / "run" / "checkpoint.safetensors")
    packed, about = checkpoint.read(made / "packed" / "checkpoint.safetensors")
    assert {x.dtype.name for x in packed.values()} == {"float16"}
    assert packed.keys() == {name for name in full if not name.startswith("optimizer.")}
    for name, array in packed.items():
        np.testing.assert_array_equal(array, full[name].astype(np.float16))
    assert about["step"] == 6 and about["D"] == 64


def test_the_description_of_a_packed_run_has_its_command_commit_hash_and_table(made, capsys):
    about = tomllib.loads((made / "packed" / "about.toml").read_text("utf-8"))
    assert about["command"] == WORDS[1] and about["commit"] == WORDS[3]
    assert about["sha256"] == trained.hash_of(made / "packed" / "checkpoint.safetensors")
    assert evaluate.main([str(made / "packed")]) == 0
    assert about["evaluate"] == capsys.readouterr().out


def test_a_packed_run_names_the_bundled_digits_and_the_cpu(made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    text = (run / "config.toml").read_text("utf-8")
    text = text.replace('digits = "bundled"', 'digits = "/home/somebody/mnist"')
    text = text.replace('backend = "numpy"', 'backend = "cupy"')
    text = text.replace('precision = "float32"', 'precision = "tf32"')
    (run / "config.toml").write_text(text)
    assert build.read_config(run).run.precision == "tf32"
    pack_model.pack_model(run, tmp_path / "packed", "command", "commit")
    found = build.read_config(tmp_path / "packed")
    assert found == config.load(overrides=SETTINGS)
    assert not any(b"somebody" in path.read_bytes() for path in (tmp_path / "packed").iterdir())


def test_a_weight_without_a_place_in_float16_is_refused(made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    arrays, about = checkpoint.read(run / "checkpoint.safetensors")
    arrays["encoder.0.b"][0] = 1e5
    text = {"minilstm": json.dumps(about)}
    checkpoint.write(run / "checkpoint.safetensors", arrays, text)
    with pytest.raises(RunError, match="float16 can hold, got others in encoder.0.b"):
        pack_model.pack_model(run, tmp_path / "packed", "command", "commit")


def test_a_model_is_loaded_by_its_name(package, made):
    assert trained.trained_models() == [NAME]
    by_name, by_path = minilstm.load(NAME), minilstm.load(made / "packed")
    np.testing.assert_array_equal(by_name.flat().value, by_path.flat().value)
    assert by_name.dtype == np.float32


def test_every_command_that_reads_a_run_takes_the_name(package, capsys):
    assert call(evaluate, NAME) == 0
    assert capsys.readouterr().out == trained.read_about(package)["evaluate"]
    before = sorted(path.name for path in package.iterdir())
    assert call(visualize, NAME, "--only", "fig9") == 0
    assert call(report, NAME, "--sequences", "20") == 0
    assert "tiny-digit-report.html" in capsys.readouterr().out
    assert "<h1>tiny-digit</h1>" in (package.parents[1] / "here/tiny-digit-report.html").read_text()
    assert (package.parents[1] / "here/tiny-digit-figures/fig9.png").is_file()
    assert sorted(path.name for path in package.iterdir()) == before  # nothing goes in there


def test_a_folder_of_that_name_wins_and_one_line_says_so(package, made, capsys):
    shutil.copytree(made / "run", NAME)
    for command in (evaluate, visualize, report):
        words = ["--only", "fig9"] if command is visualize else ["--sequences", "20"]
        assert call(command, NAME, *words) == 0
        said = capsys.readouterr().err
        assert said.count("note:") == 1 and said.count("\n") == 1
        assert "it is used, not the trained model of that name" in said
    assert (package.parents[1] / "here" / NAME / "report.html").is_file()


def test_training_does_not_resume_a_trained_model(package, capsys):
    for run in (NAME, package):
        assert call(train, "--resume", run) == 2
        said = capsys.readouterr().err
        assert "without the optimizer's state" in said and said.count("\n") == 1
    assert not (package.parents[1] / "here" / NAME).exists()  # no new run in a folder of that name


def test_a_changed_byte_of_the_weights_is_found(package, capsys):
    path = package / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="the file is damaged, install minilstm again"):
        minilstm.load(NAME)
    assert call(evaluate, NAME) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "sha256 = 3", "no toml", "\0"])
def test_a_damaged_description_is_refused_in_one_line(package, text):
    (package / "about.toml").write_text(text)
    with pytest.raises(RunError, match="expected a description of a trained model"):
        minilstm.load(NAME)


def test_an_unknown_run_is_refused_with_the_names_that_there_are(package):
    with pytest.raises(RunError, match=f"or the name of a trained model: {NAME}"):
        minilstm.load("tiny-digits")


@pytest.mark.parametrize("run", [None, 3, b"one-digit", ["one-digit"]])
def test_a_run_that_is_neither_a_path_nor_a_name_is_refused(run):
    with pytest.raises(RunError, match="expected the path or the name of a run, got"):
        minilstm.load(run)


def test_packing_overwrites_nothing(package, made, tmp_path):
    (tmp_path / "letter").write_text("mine")
    before = {path: path.read_bytes() for path in package.iterdir()}
    for out in (package, tmp_path / "letter", tmp_path):
        with pytest.raises(RunError, match="expected a new or empty folder for OUT, got"):
            pack_model.pack_model(made / "run", out, "command", "commit")
    assert {path: path.read_bytes() for path in package.iterdir()} == before
    with pytest.raises(RunError, match="letter"):
        pack_model.pack_model(made / "run", tmp_path / "letter" / "out", "command", "commit")


def test_if_judging_fails_no_folder_is_left_and_the_command_can_be_repeated(
    made, tmp_path, monkeypatch, capsys
):
    words = [made / "run", tmp_path / "new" / "packed", *WORDS]

    def fails(*_):
        raise DataError("no digits")

    with monkeypatch.context() as patch:
        patch.setattr(pack_model, "evaluated", fails)
        assert call(pack_model, *words) == 2
    assert capsys.readouterr().err == "error: no digits\n"
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "packed").mkdir()  # an empty folder is no obstacle
    assert call(pack_model, *words) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["packed"]
    for name in ("about.toml", "checkpoint.safetensors", "config.toml", "metrics.jsonl"):
        first, second = (folder / name for folder in (made / "packed", words[1]))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "old, new",
    [
        ('path = ""', 'path = "/home/somebody/film.npz"'),
        ('source = "moving-mnist"', 'source = "/home/somebody/mnist.npy"'),
        ('cell = "peephole"', f'cell = "/home/somebody/gru.py:GRU@sha256:{"0" * 64}"'),
    ],
)
def test_a_run_that_needs_files_of_ones_own_is_not_packed(made, tmp_path, old, new):
    run = shutil.copytree(made / "run", tmp_path / "run")
    text = (run / "config.toml").read_text("utf-8")
    assert text.count(old) == 1
    text = text.replace(old, new)
    if "film" in new:
        text = text.replace('source = "moving-mnist"', 'source = "patches"')
    (run / "config.toml").write_text(text)
    with pytest.raises(RunError, match="judged anywhere.*got one that needs /home/somebody/"):
        pack_model.pack_model(run, tmp_path / "packed", "command", "commit")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ------------------------------------------------------------------ the models of the package

MODELS = trained.trained_models()


def test_the_models_of_the_package_are_small_and_described():
    for name in MODELS:
        folder, about = trained.find_run(name), trained.read_about(trained.MODELS / name)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 6e6
        assert {path.name for path in folder.iterdir()} == {
            "about.toml", "checkpoint.safetensors", "config.toml", "metrics.jsonl"
        }  # fmt: skip
        assert about["command"].startswith("python -m minilstm.train one-digit ")
        assert re.fullmatch("[0-9a-f]{7,40}", about["commit"])


def test_evaluate_prints_the_table_beside_a_model_of_the_package(capsys):
    """Within rounding: on another machine the last digit may differ by one."""
    for name in MODELS:
        assert evaluate.main([name]) == 0
        tables = capsys.readouterr().out, trained.read_about(trained.MODELS / name)["evaluate"]
        numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*", text)] for text in tables]
        np.testing.assert_allclose(*numbers, atol=0.11)


def test_the_models_of_the_package_predict_sharp_digits():
    for name in MODELS:
        table = trained.read_about(trained.MODELS / name)["evaluate"]
        sharpness = float(re.search(r"^future, free-running.* (\d\.\d+)$", table, re.MULTILINE)[1])
        assert sharpness >= 0.5
