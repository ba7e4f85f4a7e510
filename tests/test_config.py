"""Settings: one definition gives TOML, flags, defaults and errors that say what to do."""

import argparse
import dataclasses
import subprocess
import sys
import tomllib

import pytest

from minilstm.config import (
    PRESETS,
    SECTIONS,
    Config,
    DataSettings,
    ModelSettings,
    add_arguments,
    flag_of,
    from_arguments,
    from_toml,
    load,
    preset_names,
)
from minilstm.errors import ConfigError
from minilstm.runs.build import build_schedule

SETTINGS = [
    (name, item) for name, section in SECTIONS.items() for item in dataclasses.fields(section)
]
IDS = [f"{name}.{item.name}" for name, item in SETTINGS]


def make_parser():
    parser = argparse.ArgumentParser(prog="train", allow_abbrev=False)
    add_arguments(parser)
    return parser


def from_flags(*flags):
    return from_arguments(make_parser().parse_args(flags))


def refusal(function, *arguments, **keywords):
    """The one line of the ConfigError that the call raises."""
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message and "expected " in message and "got" in message
    return message


def another(item):
    """A value other than the default that the field allows."""
    choices = item.metadata["choices"]
    if choices:
        return next(choice for choice in choices if choice != item.default)
    if isinstance(item.default, str):
        return "elsewhere.npy"
    if isinstance(item.default, bool):
        return not item.default
    if isinstance(item.default, int):
        return item.default + 1
    return item.default * 0.7 or 0.3


# -- the definition ---------------------------------------------------------------------------


def test_every_section_is_a_frozen_dataclass_named_as_in_toml():
    for name, section in SECTIONS.items():
        assert section.__name__ == f"{name.capitalize()}Settings" and section.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.hidden = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model = ModelSettings()


@pytest.mark.parametrize("name, item", SETTINGS, ids=IDS)
def test_every_setting_has_help_and_the_type_of_its_default(name, item):
    assert item.type == type(item.default).__name__
    assert type(item.default) in (int, float, str, bool)
    assert item.metadata["help"] and not item.metadata["help"].endswith(".")
    assert item.default in (item.metadata["choices"] or (item.default,))


def test_no_two_settings_share_a_flag():
    flags = [flag_of(item) for _, item in SETTINGS] + ["--config", "--help"]
    assert len(set(flags)) == len(flags)


def test_importing_the_configuration_is_light():
    check = "import sys, minilstm.config; sys.exit('tomli_w' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# -- TOML -------------------------------------------------------------------------------------


def test_toml_and_back_is_the_same():
    config = load(
        ["paper", "table2-conditional-composite"], overrides={"data": {"digits": 'a"\\é'}}
    )
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.1 + 0.2)
    )
    assert from_toml(config.to_toml()) == config
    assert from_toml(Config().to_toml()) == Config() == from_toml("")


@pytest.mark.parametrize("text", ["[run]\nzebra = 3", "[quantum]\nhidden = 3"])
def test_a_name_like_no_known_one_may_be_of_another_version(tmp_path, text):
    message = refusal(from_toml, text)
    assert "did you mean" not in message
    assert message.endswith(": leave it out, or use the version of minilstm that has it")


def test_a_choice_like_no_other_gets_no_suggestion():
    message = refusal(from_toml, "[data]\nspeed = 'zzz'")
    assert message.endswith("one of constant, random, got 'zzz': choose one of them")


def test_a_path_is_a_file_and_a_string_is_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[model]\nhidden = 7\n")
    assert from_toml(path) == from_toml("[model]\nhidden = 7") == load([], path)
    assert from_toml(path).model.hidden == 7


def test_an_integer_serves_as_a_float_and_is_one_from_then_on():
    rate = from_toml("[optimizer]\nlearning_rate = 1").optimizer.learning_rate
    assert type(rate) is float and rate == 1.0


@pytest.mark.parametrize(
    "text, words",
    [
        ("[model]\nhiden = 3", ["[model]", "'hiden'", "did you mean 'hidden'?"]),
        ("[modle]\nhidden = 3", ["'modle'", "did you mean 'model'?"]),
        ("[model]\nhidden = true", ["model.hidden", "an integer >= 1", "True", "--hidden"]),
        ("[model]\nhidden = 3.0", ["model.hidden", "an integer", "3.0"]),
        ("[model]\nhidden = '3'", ["model.hidden", "an integer", "'3'"]),
        ("[model]\nhidden = 0", ["model.hidden", ">= 1", "0"]),
        ("[model]\nhidden = [3]", ["model.hidden", "[3]"]),
        ("[model]\ncell = 3", ["model.cell", "text", "3"]),
        ("[model]\ncell = 'pephole'", ["peephole, standard", "did you mean 'peephole'?"]),
        ("[model]\ndropout = 1", ["model.dropout", ">= 0 and < 1", "1.0"]),
        ("[optimizer]\nlearning_rate = nan", ["learning_rate", "a finite number > 0", "nan"]),
        ("[optimizer]\nlearning_rate = inf", ["learning_rate", "inf", "--learning-rate"]),
        ("[optimizer]\nlearning_rate = true", ["learning_rate", "a number", "True"]),
        ("[optimizer]\nlearning_rate = 0", ["learning_rate", "> 0", "0.0"]),
        ("[init]\nforget_bias = -inf", ["forget_bias", "a finite number", "-inf"]),
        ("[optimizer]\nl2 = 1" + 400 * "0", ["optimizer.l2"]),
        ("model = 3", ["a table [model]", "3"]),
        (
            "[data]\nsource = 'moving-mist'",
            ["moving-mnist", ".npy", "did you mean 'moving-mnist'?"],
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_name(text, words):
    message = refusal(from_toml, text)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "text, line", [("[model]\nhidden = = 3\n", "line 2"), ("[model]\n\nhidden = ", "line 3")]
)
def test_damaged_toml_is_named_with_file_and_line(tmp_path, text, line):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    message = refusal(load, config_file=path)
    assert "broken.toml" in message and line in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert "nowhere.toml" in refusal(load, config_file=tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes("# caf\xe9".encode("latin-1"))
    assert "UTF-8" in refusal(load, config_file=tmp_path / "latin.toml")
    assert "expected a TOML file" in refusal(load, config_file=tmp_path)


def test_a_wrong_setting_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[run]\nsteps = -1")
    assert "mine.toml" in refusal(load, config_file=path)


# -- settings that contradict each other ------------------------------------------------------


@pytest.mark.parametrize(
    "text, word",
    [
        ("[data]\ndigit_size = 41", "frame_size"),
        ("[data]\npath = 'clips.npy'", "data.source to patches"),
        ("[model]\nkind = 'predictor'\nconditional = 'reconstruction'", "reconstructs nothing"),
        ("[model]\nkind = 'predictor'\nconditional = 'both'", "reconstructs nothing"),
        ("[model]\nkind = 'autoencoder'\nconditional = 'future'", "predicts nothing"),
        ("[feeding]\ninputs = 'own'", "conditional"),
        ("[feeding]\ninputs = 'scheduled'", "conditional"),
        ("[model]\nkind = 'autoencoder'\n[loss]\nreconstruction_weight = 0", "loss weight"),
        ("[loss]\nreconstruction_weight = 0\nfuture_weight = 0", "loss weight"),
    ],
)
def test_contradictions_are_refused(text, word):
    assert word in refusal(from_toml, text)


def test_what_does_not_contradict_is_allowed():
    Config(
        data=DataSettings(source="clips.npy", frame_size=8)
    )  # digit_size concerns Moving MNIST only
    from_toml("[model]\nconditional = 'future'\n[feeding]\ninputs = 'scheduled'")
    from_toml("[loss]\nreconstruction_weight = 0")


def test_a_section_made_by_hand_is_checked_too():
    assert "model.layers" in refusal(ModelSettings, layers=0)


# -- presets and precedence -------------------------------------------------------------------


def test_the_presets_are_those_promised():
    assert preset_names() == [
        "actions",
        "film",
        "github2016",
        "large",
        "one-digit",
        "paper",
        "patches",
        "table2-composite",
        "table2-conditional-composite",
        "table2-conditional-predictor",
        "table2-predictor",
        "toronto2015",
    ]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_is_partial_and_says_its_source(name):
    config = load([name])
    if name == "patches":
        assert (config.data.source, config.data.past, config.data.future) == ("patches", 16, 13)
    elif name == "film":
        assert (config.data.source, config.data.past, config.data.future) == ("patches", 10, 10)
    elif name == "actions":
        assert (config.data.source, config.data.frame_size) == ("actions", 24)
    elif name == "one-digit":
        assert (config.data.num_digits, config.data.frame_size, config.model.layers) == (1, 24, 1)
    else:
        digits = config.data.frame_size, config.data.digit_size, config.data.num_digits
        assert digits == (64, 28, 2)
        assert (config.data.past, config.data.future, config.model.hidden) == (10, 10, 2048)
    text = (PRESETS / f"{name}.toml").read_text("utf-8")
    assert text.startswith("# ")
    assert 0 < sum(len(table) for table in tomllib.loads(text).values()) < len(SETTINGS)


@pytest.mark.parametrize("recipe", ["large", "paper", "toronto2015", "github2016"])
@pytest.mark.parametrize("model", [name for name in preset_names() if "table2" in name])
def test_a_model_and_a_recipe_combine_in_either_order(model, recipe):
    assert load([model, recipe]) == load([recipe, model])
    assert load([model, recipe]).model.layers == 2


@pytest.mark.parametrize(
    "name, kind, conditional",
    [
        ("table2-predictor", "predictor", "none"),
        ("table2-composite", "composite", "none"),
        ("table2-conditional-predictor", "predictor", "future"),
        ("table2-conditional-composite", "composite", "future"),
    ],
)
def test_the_rows_of_table_2_are_those_models(name, kind, conditional):
    model = load([name]).model
    assert (model.kind, model.conditional, model.layers) == (kind, conditional, 2)


def test_the_paper_starts_from_fan_in_and_zeros():
    init = load(["github2016", "paper"]).init
    assert (init.weights, init.peephole_scale, init.forget_bias) == ("fan-in", 0, 0)


def test_the_schedule_of_the_large_recipe_ends_with_its_3_8_million_sequences():
    config = load(["table2-composite", "large"])
    assert config.run.steps == config.optimizer.schedule_steps
    assert 3.8e6 <= config.run.steps * config.run.batch_size < 3.8e6 + config.run.batch_size
    rate = build_schedule(config)
    assert rate(100) < rate(200) == pytest.approx(8e-4, rel=1e-3)
    assert rate(config.run.steps) == pytest.approx(0.02 * 8e-4)
    assert (config.run.backend, config.run.precision) == ("numpy", "float32"), "the user's choice"


def test_later_wins(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[run]\nbatch_size = 5\nseed = 5\n")
    assert load(["toronto2015"]).run.batch_size == 128
    assert load(["toronto2015", "github2016"]).run.batch_size == 80
    assert load(["github2016", "toronto2015"]).run.batch_size == 128
    assert load(["github2016"], path).run.batch_size == 5
    config = load(["github2016"], path, {"run": {"batch_size": 6}})
    assert (config.run.batch_size, config.run.seed, config.model.hidden) == (6, 5, 2048)
    flags = ["github2016", "--config", str(path), "--batch-size", "6"]
    assert from_flags(*flags) == config


def test_an_unknown_preset_is_refused_with_the_nearest_and_the_list():
    message = refusal(load, ["table2-compsite"])
    assert "did you mean 'table2-composite'?" in message and "toronto2015" in message
    refusal(load, ["../presets/paper"])


def test_unknown_overrides_are_refused():
    assert "did you mean 'hidden'?" in refusal(load, overrides={"model": {"hiden": 3}})


# -- flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, item", SETTINGS, ids=IDS)
def test_every_setting_has_a_flag_that_sets_it_alone(name, item):
    value = another(item)
    words = [flag_of(item), str(value)]
    if type(item.default) is bool:
        words = [flag_of(item).replace("--", "--" if value else "--no-")]
    namespace = make_parser().parse_args(words)
    assert getattr(namespace, f"{name}.{item.name}") == value
    given = [dest for dest in vars(namespace) if "." in dest]
    assert given == [f"{name}.{item.name}"]


def test_no_flags_give_the_defaults():
    assert from_flags() == Config()


def test_flags_read_as_words():
    config = from_flags(
        *"--data moving-mnist --model predictor --conditional future --hidden 32".split(),
        *"--layers 2 --num-digits 1 --optimizer sgd --learning-rate 1e-2 --init uniform".split(),
        *"--feeding scheduled --forget-bias -1.5".split(),
    )
    assert (config.model.kind, config.model.hidden, config.model.layers) == ("predictor", 32, 2)
    assert (config.data.num_digits, config.optimizer.rule) == (1, "sgd")
    assert (config.optimizer.learning_rate, config.init.weights) == (0.01, "uniform")
    assert (config.feeding.inputs, config.init.forget_bias) == ("scheduled", -1.5)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--hidden", "many"], ["argument --hidden", "an integer >= 1", "'many'"]),
        (["--hidden", "0"], ["argument --hidden", ">= 1"]),
        (["--hidden", "1e3"], ["argument --hidden", "an integer"]),
        (["--learning-rate", "nan"], ["argument --learning-rate", "finite"]),
        (["--optimizer", "adm"], ["argument --optimizer", "did you mean 'adam'?"]),
        (["--hid", "3"], ["unrecognized arguments"]),
    ],
)
def test_a_wrong_flag_exits_with_2_and_one_line(capsys, flags, words):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(flags)
    assert caught.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("train: error: ")
    assert [word for word in words if word not in last] == []


def test_flags_that_contradict_raise_a_config_error():
    refusal(from_flags, "--digit-size", "64", "--frame-size", "32")
    refusal(from_flags, "papper")
    assert "--config a and --config b" in refusal(from_flags, "--config", "a", "--config", "b")


def test_help_names_every_flag_its_choices_and_its_default():
    text = " ".join(make_parser().format_help().split())
    for name, item in SETTINGS:
        assert f"{flag_of(item)} " in text and f"[{name}]:" in text
        # argparse breaks long lines at hyphens as well as at spaces
        assert f"(default:{item.default})".replace("-", "") in text.replace(" ", "").replace(
            "-", ""
        )
        assert "|".join(item.metadata["choices"]) in text


def test_other_arguments_of_a_command_are_left_alone():
    parser = make_parser()
    parser.add_argument("--out")
    namespace = parser.parse_args(["--out", "runs/1.5", "--hidden", "3"])
    assert from_arguments(namespace).model.hidden == 3
