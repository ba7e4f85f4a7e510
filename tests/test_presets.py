"""The historical presets: one real update of each against arithmetic done by hand."""

import math

import numpy as np
import pytest

from minilstm import config
from minilstm.config import preset_names
from minilstm.layers import init, layer
from minilstm.runs import build
from minilstm.training.batches import draw_batch
from minilstm.training.step import Batch, training_step

HISTORICAL = ("paper", "toronto2015", "github2016")
T, B, SIZE, H = 3, 5, 4, 6  # in place of 10 frames, 80 or 128 sequences, 64 pixels, 2048 units
D = SIZE * SIZE
TINY = {
    "data": {"past": T, "future": T, "frame_size": SIZE, "digit_size": SIZE},
    "model": {"hidden": H, "layers": 2},
    "run": {"batch_size": B, "precision": "float64"},
}

# What PAPER.md read in the papers and in both releases, said a second time.
ROWS = {
    "paper": {
        "rule": "rmsprop",
        "decay": 0.95,
        "epsilon": 1e-8,
        "rate": 1e-3,
        "clamp": 1e-3,
        "l2": 1e-4,
        "divided_by": B,
        "weights": None,  # one over the root of the fan-in
        "peepholes": 0.0,
        "forget": 0.0,
    },
    "toronto2015": {
        "rule": "rmsprop",
        "decay": 0.95,
        "epsilon": 0.0,
        "rate": 1e-3,
        "clamp": 1e-3,
        "l2": 1e-4,
        "divided_by": B,
        "weights": 0.01,
        "peepholes": 0.1,
        "forget": 5.0,
    },
    "github2016": {
        "rule": "sgd",
        "rate": 1e-4,
        "clamp": 1e-4,
        "l2": 1e-4,
        "divided_by": 1,
        "weights": 0.01,
        "peepholes": 0.1,
        "forget": 0.0,
    },
}


def small(name, **model):
    return config.load([name], overrides=TINY | {"model": TINY["model"] | model})


def make_batch(rng):
    frames = rng.random((2 * T, B, D))
    return Batch(frames[:T], frames[T:], True, None)


def gradient_by_hand(model, batch, divided_by):
    """dL/dw by name: sigmoid minus truth, summed over pixels and frames, through backward."""
    outputs, cache = model.forward(batch.past, batch.future, T, True)
    targets = (batch.past[::-1], batch.future)
    dlogits = tuple(
        (1 / (1 + np.exp(-z)) - y) / divided_by for z, y in zip(outputs, targets, strict=True)
    )
    model.zero_grad()
    model.backward(dlogits, cache)
    return {name: param.grad.copy() for name, param in model.params().items()}


def update_by_hand(row, w, dw, v, s, decayed):
    """One number: the new w, v and s of an update, in the order of the releases' util.py."""
    g = dw + row["l2"] * w if decayed else dw
    if row["rule"] == "rmsprop":
        s = row["decay"] * s + (1 - row["decay"]) * g * g
        v = 0.9 * v - row["rate"] * g / (math.sqrt(s) + row["epsilon"])
    else:
        v = 0.9 * v - row["rate"] * g
    v = min(max(v, -row["clamp"]), row["clamp"])
    return w + v, v, s


@pytest.mark.parametrize("name", HISTORICAL)
def test_six_updates_equal_those_done_by_hand_number_by_number(name):
    settings, row = small(name, conditional="both"), ROWS[name]
    model = build.build_model(settings, D)
    rng = np.random.default_rng(3)
    for param in model.params().values():  # so that L2 on a bias, or none on a peephole, shows
        param.value += rng.uniform(-0.3, 0.3, param.value.shape)
    optimizer = build.build_optimizer(model, settings)
    rate = build.build_schedule(settings)
    batch = make_batch(rng)
    batch.past[...], batch.future[...] = batch.past > 0.1, 1.0  # bright: large gradients

    w = {key: param.value.copy().ravel().tolist() for key, param in model.params().items()}
    v = {key: [0.0] * len(values) for key, values in w.items()}
    s = {key: [1.0] * len(values) for key, values in w.items()}
    clamped = []
    for k in range(6):
        dw = gradient_by_hand(model, batch, row["divided_by"])
        training_step(model, optimizer, batch, settings, rate(k))
        for key, grad in dw.items():
            decayed = not key.endswith(".b")
            for j, slope in enumerate(grad.ravel().tolist()):
                w[key][j], v[key][j], s[key][j] = update_by_hand(
                    row, w[key][j], slope, v[key][j], s[key][j], decayed
                )
                clamped.append(abs(v[key][j]) == row["clamp"])
        for key, param in model.params().items():
            np.testing.assert_allclose(
                param.value.ravel(), w[key], rtol=0, atol=1e-14, err_msg=f"{key}, update {k + 1}"
            )
    assert 0.005 < np.mean(clamped) < 0.995, "the clamp must both act and not act for this to tell"


@pytest.mark.parametrize("name", HISTORICAL)
def test_the_gradient_itself_is_never_clipped(name):
    settings = small(name)
    model = build.build_model(settings, D)
    batch = make_batch(np.random.default_rng(0))
    dw = gradient_by_hand(model, batch, ROWS[name]["divided_by"])
    optimizer = build.build_optimizer(model, settings)
    training_step(model, optimizer, batch, settings, 1e-3)
    for key, param in model.params().items():
        np.testing.assert_allclose(param.grad, dw[key], rtol=1e-10, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("name", HISTORICAL)
def test_the_learning_rate_decays_by_a_tenth_every_ten_thousand_steps(name):
    rate = build.build_schedule(small(name))
    start = ROWS[name]["rate"]
    assert rate(0) == rate(9_999) == start
    assert rate(10_000) == pytest.approx(0.9 * start, rel=1e-12)
    assert rate(35_000) == pytest.approx(0.729 * start, rel=1e-12)


@pytest.mark.parametrize("name", HISTORICAL)
def test_parameters_start_inside_their_bounds_and_fill_them(name):
    settings, row = small(name, hidden=40, conditional="both"), ROWS[name]
    params = build.build_model(settings, D).params()
    for key, param in params.items():
        value = param.value
        if key.endswith(".Wp"):
            bound = row["peepholes"]
        elif key.endswith(".b"):
            gates = value.reshape(4, -1) if "readout" not in key else value[None]
            expected = np.zeros_like(gates)
            if "readout" not in key:
                expected[1] = row["forget"]  # gates i f g o
            np.testing.assert_array_equal(gates, expected, err_msg=key)
            continue
        else:
            bound = row["weights"] or len(value) ** -0.5  # rows are inputs
        assert np.abs(value).max() <= bound, key
        assert np.abs(value).max() >= 0.95 * bound, key
        assert abs(value.mean()) <= 0.1 * bound + (0.1 if key.endswith(".Wp") else 0) * bound, key


@pytest.mark.parametrize(
    ("name", "start", "batch"),
    [("paper", "step", 128), ("toronto2015", "read", 128), ("github2016", "step", 80)],
)
def test_a_historical_preset_says_what_its_code_did(name, start, batch):
    settings = config.load([name])
    assert (settings.model.start, settings.run.batch_size) == (start, batch)
    assert settings.model.hidden == 2048 and settings.model.cell == "peephole"
    data = settings.data
    assert (data.frame_size, data.digit_size, data.num_digits) == (64, 28, 2)
    assert (data.past, data.future, data.speed) == (10, 10, "constant")


# ------------------------------------------------------------------ sizes, without the memory


class Weightless:
    """A stand-in for Param that has a shape and next to no memory."""

    def __init__(self, value, decayed=True):
        self.value, self.decayed = value, decayed


class Shapes:
    """A stand-in for a generator whose draws are all the same byte, seen again and again."""

    def uniform(self, low, high, shape):
        return np.broadcast_to(np.int8(0), shape)

    def spawn(self, n):
        return [self] * n


@pytest.fixture
def count(monkeypatch):
    """The number of parameters of a configuration at full size, in millions."""
    for module in (init, layer):
        monkeypatch.setattr(module, "Param", Weightless)
    monkeypatch.setattr(build, "keyed_rng", lambda *key: Shapes())

    def millions(presets, **model):
        settings = config.load(presets, overrides={"model": model})
        model = build.build_model(settings, settings.data.frame_size**2)
        return sum(param.value.size for param in model.params().values()) / 1e6

    return millions


@pytest.mark.parametrize(
    ("layers", "conditional", "millions"),
    [(1, "none", 100.7), (1, "both", 167.8), (2, "none", 201.4), (2, "both", 268.5)],
)
def test_full_size_models_have_the_published_number_of_parameters(
    count, layers, conditional, millions
):
    found = count(["paper"], layers=layers, conditional=conditional)
    assert found == pytest.approx(millions, abs=0.1)


def test_the_rows_of_table_2_are_what_their_names_say(count):
    H, D = 2048, 64 * 64
    gates = H * 4 * H + 4 * H + 3 * H  # recurrence, biases, peepholes of one layer
    upper = gates + H * 4 * H
    encoder = D * 4 * H + gates + upper
    decoder = gates + upper + H * D + D
    fed = D * 4 * H
    for row, size in (
        ("predictor", encoder + decoder),
        ("conditional-predictor", encoder + decoder + fed),
        ("composite", encoder + 2 * decoder),
        ("conditional-composite", encoder + 2 * decoder + fed),
    ):
        assert count([f"table2-{row}", "paper"]) * 1e6 == pytest.approx(size, rel=1e-12), row
        assert f"table2-{row}" in preset_names()


@pytest.mark.parametrize("how", HISTORICAL)
@pytest.mark.parametrize("what", [name for name in preset_names() if name.startswith("table2")])
def test_a_row_of_table_2_combines_with_every_way_to_train_it(what, how):
    for presets in ([what, how], [how, what]):
        both = config.load(presets)
        row, training = config.load([what]), config.load([how])
        assert both.optimizer == training.optimizer and both.init == training.init
        assert (both.model.kind, both.model.conditional, both.model.layers) == (
            row.model.kind,
            row.model.conditional,
            row.model.layers,
        )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_trains_a_step_when_made_small(name, tmp_path):
    data = dict(TINY["data"])
    if name in ("film", "patches"):  # whose file is the user's
        data["path"] = str(tmp_path / "my.npy")
        frames = np.random.default_rng(0).integers(0, 256, (10, 20, SIZE, SIZE), np.uint8)
        np.save(data["path"], frames)
    settings = config.load([name], overrides=TINY | {"data": data, "model": {"hidden": H}})
    model = build.build_model(settings, D)
    before = model.flat().value.copy()
    optimizer = build.build_optimizer(model, settings)
    source = build.open_source(settings, "train")
    batch = draw_batch(source, settings, 0)
    found = training_step(model, optimizer, batch, settings, build.build_schedule(settings)(0))
    assert all(np.isfinite(x) for x in found.values())
    assert np.any(model.flat().value != before)
