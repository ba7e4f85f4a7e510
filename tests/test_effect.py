"""A flag that was typed and has no effect is refused. Presets and files may hold such settings."""

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small import small

from data_tools import extract_flow, inspect_file, make_actions
from minilstm import bench, classify, config, evaluate, interop, report, reproduce, train
from minilstm.command import run_command
from minilstm.config import SECTIONS, ClassifySettings, Config, flag_of
from minilstm.data import Clips, write_percepts
from minilstm.training import loop
from minilstm.training.progress import Progress

# For each row of Config.conditions: a value of its flags, settings that do not meet the condition,
# and settings that do. None: only on other hardware.
ROWS = {
    "--digits": ("elsewhere", "--data a.npy", None),
    "--frame-size": ("9", "--data a.npy", ""),
    "--num-digits": ("2", "--data actions", ""),
    "--digit-size": ("6", "--data actions", ""),
    "--speed": ("random", "--data actions", ""),
    "--stride": ("3", "", "--data percepts --path percepts"),
    "--dropout": ("0.3", "--layers 1", "--layers 2"),
    "--init-scale": ("0.3", "--init fan-in", "--init uniform"),
    "--peephole-scale": ("0.3", "--cell standard", "--cell peephole"),
    "--forget-bias": ("0.3", "--cell slides-lstm", "--cell standard"),
    "--reconstruction-weight": ("2", "--model predictor", "--model autoencoder"),
    "--future-weight": ("2", "--model autoencoder", "--model predictor"),
    "--mean-square-decay": ("0.5", "--optimizer sgd", "--optimizer rmsprop"),
    "--epsilon": ("0.5", "--optimizer sgd", "--optimizer rmsprop"),
    "--schedule-steps": ("3", "--schedule exponential", "--schedule cosine"),
    "--schedule-floor": ("0.5", "--schedule constant", "--schedule cosine --schedule-steps 2"),
    "--decay-factor": ("0.5", "--schedule cosine", "--schedule exponential --decay-every 1"),
    "--decay-every": ("1", "--schedule constant", "--schedule exponential"),
    "--truth-start": ("0.5", "--conditional both", "--conditional both --feeding scheduled"),
    "--truth-end": (
        "0.9",
        "--conditional both --feeding own",
        "--conditional both --feeding scheduled --truth-steps 2",
    ),
    "--truth-steps": ("2", "", "--conditional both --feeding scheduled"),
    "--threads": ("2", "--backend cupy", None),
    "--graph": (None, "", None),
    "--no-graph": (None, "", None),
    "--fused": (None, "", None),
    "--no-fused": (None, "", None),
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Runs and data lie in the test's folder."""
    monkeypatch.chdir(tmp_path)


def refusal(capsys, module, words):
    """The one line with which a command refuses."""
    assert run_command(lambda: module.main(words.split())) == 2, words
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1, printed
    return printed.err


def refused(condition, flag):
    """The line that refuses `flag`."""
    return (
        f"error: expected {condition} for {flag}, got other settings, with which it has no effect: "
        f"leave {flag} out\n"
    )


@pytest.mark.parametrize(
    "own, sections", [(Config(), SECTIONS.values()), (ClassifySettings(), [ClassifySettings])]
)
def test_every_flag_of_a_condition_is_a_flag_of_the_command(own, sections):
    items = {flag_of(item): item for section in sections for item in fields(section)}
    flags = " ".join(flags for flags, _, _ in own.conditions()).split()
    assert len(flags) == len(set(flags)) > 10
    for flag in flags:
        assert flag in items or type(items[flag.replace("--no-", "--")].default) is bool


def test_every_row_is_tried_here():
    assert set(ROWS) == {flag for flags, _, _ in Config().conditions() for flag in flags.split()}


@pytest.mark.parametrize("flag", ROWS)
def test_a_flag_without_effect_is_refused_before_anything_is_written(capsys, flag):
    value, unmet, _ = ROWS[flag]
    conditions = {
        name: words for flags, _, words in Config().conditions() for name in flags.split()
    }
    said = refusal(capsys, train, f"{unmet} {flag} {value or ''}")
    assert said == refused(conditions[flag], flag)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("flag", ROWS)
def test_presets_and_files_may_hold_what_has_no_effect(flag):
    """Otherwise `train large --schedule constant` would be refused."""
    value, unmet, _ = ROWS[flag]
    if value is not None:
        settings(unmet, f"{flag} {value}")


def test_the_settings_of_a_preset_are_not_typed(monkeypatch):
    called = []
    monkeypatch.setattr(loop, "train", lambda settings, *_, **__: called.append(settings))
    train.main(["one-digit", "--schedule", "constant", "--decay-every=3", "--schedule=exponential"])
    assert called[0].optimizer.decay_every == 3 and called[0].optimizer.schedule_steps == 7000


def settings(*words):
    """The settings of these flags, on top of those of a small run. Nothing is refused."""
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    typed = parser.parse_args(" ".join(words).split())
    own = small(run={"steps": 4}, optimizer={"warmup_steps": 0})
    return config.load(
        overrides={name: own.get(name, {}) | config.given(typed, name) for name in SECTIONS}
    )


@pytest.mark.slow
@pytest.mark.parametrize("flag", [flag for flag, row in ROWS.items() if row[2] is not None])
def test_the_conditions_are_true(flag, monkeypatch):
    """In training a flag changes no weight where it is refused, and some weight elsewhere."""
    rng = np.random.default_rng(0)
    np.save("a.npy", rng.integers(0, 256, (12, 20, 8, 8), np.uint8))
    Path("percepts").mkdir()
    clips = rng.random((200, 5), np.float32), np.full(20, 10), np.zeros(20, int), ("a",)
    write_percepts(Path("percepts"), Clips(*clips, np.arange(20)))
    monkeypatch.setattr(Progress, "draw", lambda run: None)
    value, unmet, met = ROWS[flag]
    for others in (unmet, met):
        found = []
        for k, words in enumerate(("", f"{flag} {value}")):
            loop.train(settings(others, words), Path(f"{others}-{k}"), quiet=True)
            arrays = load_file(f"{others}-{k}/checkpoint.safetensors")
            found.append({name: array.tobytes() for name, array in arrays.items()})
        assert (found[0] == found[1]) == (others == unmet), others or "the defaults"


@pytest.mark.parametrize(
    "module, words, condition, flag",
    [
        (classify, "--encoder scratch --path p", "--data percepts", "--path"),
        (classify, "--encoder scratch --fold 1", "--data percepts", "--fold"),
        (classify, "--encoder scratch --data percepts --length 4", "--data actions", "--length"),
        (classify, "--encoder frozen --l2 1", "--encoder finetuned or scratch", "--l2"),
        (classify, "--init-from run --hidden 4", "no --init-from", "--hidden"),
        (classify, "--encoder scratch --cell a.py:A", "--init-from RUN", "--cell"),
        (classify, "--encoder scratch --no-graph", "--backend cupy", "--no-graph"),
        (bench, "profile --decay-every 3", "--schedule exponential", "--decay-every"),
        (bench, "growth --quick --seconds 3", "no --quick", "--seconds"),
        (evaluate, "run --commit a", "--keep FILE", "--commit"),
        (evaluate, "run --backend cupy --threads 1", "--backend numpy", "--threads"),
        (report, "run --every 3", "--watch", "--every"),
        (interop, "export run a.safetensors --like run", "import", "--like"),
        (interop, "import a.safetensors b --keep-peepholes", "export", "--keep-peepholes"),
        (reproduce, "fig5 --seeds 3", "a table or fig12", "--seeds"),
        (reproduce, "fig6 --digits d", "a target on digits", "--digits"),
        (reproduce, "table1 --patches p", "table2 or fig6", "--patches"),
        (reproduce, "table2 --rgb p", "table1, table3, table4 or fig12", "--rgb"),
        (reproduce, "table1 --folds 3", "--rgb or --flow", "--folds"),
        (reproduce, "table1 --rgb p --lists l --folds 3", "no --lists", "--folds"),
        (reproduce, "table1 --rgb p --partly", "--lists", "--partly"),
        (reproduce, "table2 --backend cupy --long", "--backend numpy", "--long"),
        (make_actions, "--out a.npz --split test --seed 3", "--split train", "--seed"),
        (inspect_file, "a --force", "--sheet FILE", "--force"),
        (extract_flow, "videos out --network vgg16", "--weights FILE", "--network"),
    ],
)
def test_other_commands_refuse_their_own(capsys, module, words, condition, flag):
    assert refusal(capsys, module, words) == refused(condition, flag)
    assert list(Path().iterdir()) == []
