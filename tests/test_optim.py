"""The update rules against hand arithmetic, torch, and the promises of their docstrings."""

import copy
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import minilstm
from minilstm import config
from minilstm.errors import ConfigError, ShapeError
from minilstm.layers.layer import Flat
from minilstm.optim import SGD, Adam, RMSProp, clip_norm, exponential, schedule
from minilstm.runs import build

RULES = [SGD, RMSProp, Adam]
TINY = np.finfo("float32").tiny


def stand_in(value, grad=None, decayed=0):
    """A stand-in for the result of `model.flat()`, without a model."""
    value = np.array(value)
    grad = np.zeros_like(value) if grad is None else np.array(grad, value.dtype)
    return Flat(value, grad, decayed)


def random_stand_in(size, dtype="float32", decayed=0, seed=0):
    rng = np.random.default_rng(seed)
    return stand_in(
        rng.standard_normal(size).astype(dtype), rng.standard_normal(size).astype(dtype), decayed
    )


def of_preset(name, flat):
    """The optimizer that a preset describes."""
    return build.build_optimizer(SimpleNamespace(flat=lambda: flat), config.load([name]))


def clamp(x, bound):
    return min(max(x, -bound), bound)


# A weight and a bias with gradients that the clamp stops and does not stop, over three steps.
WEIGHTS = [0.8, -0.3, 0.5, 0.02]
GRADIENTS = [[0.3, -2.5, 0.1, 4.0], [0.2, 1.5, -0.4, 3.0], [-0.7, 0.0, 0.05, -6.0]]
DECAYED = 2


def sgd_of_github2016(w, dw, decayed, memory):
    g = dw + 1e-4 * w if decayed else dw
    memory["v"] = clamp(0.9 * memory.get("v", 0.0) - 1e-4 * g, 1e-4)
    return w + memory["v"]


def rmsprop_with(epsilon):
    def rule(w, dw, decayed, memory):
        g = dw + 1e-4 * w if decayed else dw
        memory["s"] = 0.95 * memory.get("s", 1.0) + 0.05 * g * g
        g = g / (math.sqrt(memory["s"]) + epsilon)
        memory["v"] = clamp(0.9 * memory.get("v", 0.0) - 1e-3 * g, 1e-3)
        return w + memory["v"]

    return rule


@pytest.mark.parametrize(
    "preset, learning_rate, by_hand",
    [
        ("github2016", 1e-4, sgd_of_github2016),
        ("toronto2015", 1e-3, rmsprop_with(epsilon=0.0)),
        ("paper", 1e-3, rmsprop_with(epsilon=1e-8)),
    ],
)
def test_a_historical_preset_updates_as_by_hand(preset, learning_rate, by_hand):
    assert config.load([preset]).optimizer.learning_rate == learning_rate
    flat = stand_in(WEIGHTS, decayed=DECAYED)
    optimizer = of_preset(preset, flat)
    expected, memories = list(WEIGHTS), [{} for _ in WEIGHTS]
    clamped = 0
    for gradient in GRADIENTS:
        flat.grad[:] = gradient
        optimizer.step(learning_rate)
        for k, dw in enumerate(gradient):
            expected[k] = by_hand(expected[k], dw, k < DECAYED, memories[k])
            clamped += abs(memories[k]["v"]) == optimizer.clamp_update
        np.testing.assert_allclose(flat.value, expected, rtol=1e-14, atol=0)
    assert 0 < clamped < len(WEIGHTS) * len(GRADIENTS)  # the clamp is seen both at work and idle


def test_adam_updates_as_by_hand():
    flat = stand_in(WEIGHTS, decayed=DECAYED)
    optimizer = Adam(flat, momentum=0.8, decay=0.99, epsilon=1e-3, l2=0.1, clamp_update=0.0105)
    expected, m, s = list(WEIGHTS), [0.0] * 4, [0.0] * 4
    for step, gradient in enumerate(GRADIENTS, start=1):
        flat.grad[:] = gradient
        optimizer.step(0.01)
        for k, dw in enumerate(gradient):
            g = dw + 0.1 * expected[k] if k < DECAYED else dw
            m[k] = 0.8 * m[k] + 0.2 * g
            s[k] = 0.99 * s[k] + 0.01 * g * g
            mean, mean_square = m[k] / (1 - 0.8**step), s[k] / (1 - 0.99**step)
            expected[k] += clamp(-0.01 * mean / (math.sqrt(mean_square) + 1e-3), 0.0105)
        np.testing.assert_allclose(flat.value, expected, rtol=1e-14, atol=1e-16)


def test_adam_updates_as_torch():
    torch = pytest.importorskip("torch", reason="torch is the independent witness; not installed")
    flat = random_stand_in(50, "float64", decayed=50)
    theirs = torch.tensor(flat.value.copy(), requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.02)
    ours = Adam(flat, momentum=0.8, decay=0.95, epsilon=1e-6, l2=0.02)
    rng = np.random.default_rng(1)
    for _ in range(20):
        flat.grad[:] = rng.standard_normal(50)
        theirs.grad = torch.tensor(flat.grad.copy())
        ours.step(3e-3)
        adam.step()
    np.testing.assert_allclose(flat.value, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_l2_pulls_on_the_decayed_part_only(rule):
    flat = stand_in(np.ones(6), decayed=4)
    optimizer = rule(flat, l2=0.1)
    optimizer.step(0.01)
    assert (flat.value[:4] < 1).all() and (flat.value[4:] == 1).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_array_keeps_its_dtype_and_place(rule, dtype):
    flat = random_stand_in(10, dtype, decayed=5)
    value, grad, before = flat.value, flat.grad, flat.grad.copy()
    optimizer = rule(flat, l2=0.1, clamp_update=0.5)
    states = dict(optimizer.state)
    optimizer.step(np.float64(0.1))
    assert flat.value is value and value.dtype == dtype
    assert flat.grad is grad and (grad == before).all()
    for name, array in optimizer.state.items():
        assert array is states[name] and array.dtype == dtype and array.shape == value.shape


@pytest.mark.parametrize("rule", RULES)
def test_a_float64_learning_rate_does_not_widen_float32(rule):
    results = []
    for learning_rate in (1 / 3, np.float64(1 / 3)):
        flat = random_stand_in(1000)
        rule(flat).step(learning_rate)
        results.append(flat.value.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("rule", RULES)
def test_the_chunk_size_changes_no_bit(rule):
    results = []
    for chunk in (1, 7, 64, 1000, 131_072):
        flat = random_stand_in(1000, decayed=613)
        optimizer = rule(flat, l2=0.01, clamp_update=0.03, chunk=chunk)
        for _ in range(3):
            optimizer.step(0.01)
        results.append([flat.value, *optimizer.state.values()])
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            assert ours.tobytes() == first.tobytes()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decayed", [0, 5])
def test_no_parameters_or_none_of_one_kind_are_fine(rule, decayed):
    for size in {0, decayed}:
        flat = random_stand_in(size, decayed=size)
        rule(flat, l2=0.1).step(0.1)
        assert np.isfinite(flat.value).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_step_allocates_nothing(rule):
    flat = random_stand_in(300_000, decayed=200_001)
    optimizer = rule(flat, l2=0.01, clamp_update=0.1)
    optimizer.step(0.01)
    tracemalloc.start()
    try:
        optimizer.step(0.01)
        norm = clip_norm(flat.grad, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert norm > 1
    assert peak < 8_000, f"expected a few views, got {peak} bytes"


def subnormals(array):
    return int(((array != 0) & (np.abs(array) < TINY)).sum())


def test_a_plain_running_mean_sinks_into_subnormals_and_stays():
    mean = np.ones(4, "float32")
    for _ in range(5_000):
        mean *= np.float32(0.9)
    assert subnormals(mean) == 4  # what the next test finds nothing of


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("learning_rate, l2", [(1e-3, 0.0), (1e-3, 1e-4), (0.5, 0.2)])
def test_silent_gradients_leave_no_subnormals(rule, learning_rate, l2):
    flat = random_stand_in(64, decayed=48)
    optimizer = rule(flat, l2=l2)
    rng = np.random.default_rng(2)
    for step in range(6_000):
        flat.grad[:] = rng.standard_normal(64)
        if step > 50:
            flat.grad[::2] = 0  # every second input has gone dark
        optimizer.step(learning_rate)
        if step % 10 == 0:
            for name, array in {"value": flat.value, **optimizer.state}.items():
                assert subnormals(array) == 0, f"{name} after {step} steps"
    assert np.isfinite(flat.value).all()
    if l2 == 0:
        first = next(iter(optimizer.state.values()))  # the velocity or the mean
        assert np.abs(first[::2]).max() < 1e-30


def test_rmsprop_without_epsilon_survives_silence_and_what_comes_after():
    flat = random_stand_in(8)
    optimizer = of_preset("toronto2015", flat)
    for gradient in [1.0] * 10 + [0.0] * 5_000 + [1e-12, 1.0, -3.0]:
        flat.grad[:] = gradient
        optimizer.step(1e-3)
    assert np.isfinite(flat.value).all() and (optimizer.state["mean_square"] > 0).all()


def test_the_flush_touches_nothing_above_1e_24():
    optimizer = SGD(stand_in(np.zeros(1, "float32")))
    exponents = np.linspace(-23.9, 30, 100_000)
    x = (10.0**exponents).astype("float32") * np.tile([1, -1], 50_000).astype("float32")
    flushed = x.copy()
    optimizer._flush(flushed)
    np.testing.assert_array_max_ulp(flushed, x, 1)
    assert (flushed == x)[np.abs(x) > 1e-16].all()


@pytest.mark.parametrize("rule", RULES)
def test_a_copied_state_continues_to_the_same_bits(rule):
    flat = random_stand_in(100, decayed=60)
    optimizer = rule(flat, l2=0.01)
    optimizer.step(0.01)
    again = stand_in(flat.value, flat.grad, flat.decayed)
    resumed = rule(again, l2=0.01)
    resumed.steps = optimizer.steps
    for name, array in optimizer.state.items():
        resumed.state[name][:] = array
    optimizer.step(0.01)
    resumed.step(0.01)
    assert again.value.tobytes() == flat.value.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_norm_shortens_long_gradients_and_leaves_short_ones(dtype):
    grad = np.array([3.0, -4.0], dtype)
    assert clip_norm(grad, 10.0) == 5.0
    assert grad.tolist() == [3.0, -4.0]
    norm = clip_norm(grad, 1.0)
    assert norm == 5.0 and norm.dtype == dtype and grad.dtype == dtype
    np.testing.assert_allclose(grad, [0.6, -0.8], rtol=1e-6)


def test_clip_norm_of_nothing_of_too_much_and_of_nan():
    zero = np.zeros(3, "float32")
    assert clip_norm(zero, 1.0) == 0 and (zero == 0).all()
    huge = np.full(3, 1e30, "float32")
    assert clip_norm(huge, 1.0) == np.inf and (huge == 0).all()
    broken = np.array([1.0, np.nan], "float32")
    assert np.isnan(clip_norm(broken, 1.0)) and np.isnan(broken).all()
    endless = np.array([1.0, -np.inf], "float32")
    assert clip_norm(endless, 1.0) == np.inf and np.isnan(endless[1])


def test_the_clamp_bounds_the_update_and_the_clip_does_not():
    flat = stand_in(np.zeros(2), [100.0, 1.0])
    SGD(flat, momentum=0.0, clamp_update=0.5).step(1.0)
    assert flat.value.tolist() == [-0.5, -0.5]  # the direction has changed
    flat = stand_in(np.zeros(2), [100.0, 1.0])
    clip_norm(flat.grad, 0.5)
    SGD(flat, momentum=0.0).step(1.0)
    assert flat.value[0] / flat.value[1] == pytest.approx(100)  # the direction is kept


def test_the_constant_schedule_is_constant():
    rate = schedule("constant", 0.1)
    assert {rate(step) for step in range(0, 100_000, 777)} == {0.1}


def test_the_exponential_schedule_is_a_staircase():
    rate = schedule("exponential", 1.0, decay_factor=0.5, decay_every=10)
    assert [rate(step) for step in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert exponential(25_000, 1e-4) == 1e-4 * 0.9**2


def test_the_cosine_schedule_ends_at_its_floor_and_stays():
    rate = schedule("cosine", 2.0, steps=100, floor=0.1)
    assert rate(0) == 2.0
    assert rate(50) == pytest.approx(1.1)
    assert rate(100) == rate(101) == rate(10_000) == pytest.approx(0.2)
    assert all(rate(step) > rate(step + 1) for step in range(100))


@pytest.mark.parametrize("kind", ["constant", "exponential", "cosine"])
def test_warmup_rises_linearly_to_the_schedule(kind):
    plain, warm = schedule(kind, 1.0, steps=100), schedule(kind, 1.0, steps=100, warmup_steps=4)
    factors = [warm(step) / plain(step) for step in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_decay_of_a_historical_preset_acts():
    settings = config.load(["github2016"]).optimizer
    rate = schedule(
        settings.schedule,
        settings.learning_rate,
        decay_factor=settings.decay_factor,
        decay_every=settings.decay_every,
    )
    moved = []
    for step in (0, 10_000):
        flat = stand_in(np.zeros(1), [0.5])
        of_preset("github2016", flat).step(rate(step))
        moved.append(flat.value[0])
    assert moved[1] == pytest.approx(0.9 * moved[0], rel=1e-12)


@pytest.mark.parametrize(
    "kind, lengths, expected",
    [
        ("cosin", {}, "expected one of constant, exponential, cosine, got 'cosin'"),
        ("cosine", {"steps": 0}, "expected steps of 1 or more, got 0"),
        ("exponential", {"decay_every": 0}, "expected decay_every of 1 or more, got 0"),
        ("constant", {"warmup_steps": -5}, "expected warmup_steps of 0 or more, got -5"),
    ],
)
def test_an_impossible_schedule_is_refused(kind, lengths, expected):
    with pytest.raises(ConfigError, match=expected):
        schedule(kind, 0.1, **lengths)


def test_lengths_of_other_schedules_are_not_looked_at():
    assert schedule("constant", 0.1, steps=None, decay_every=0)(5) == 0.1


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_refuses_numbers_that_would_spoil_the_weights(rule):
    share = "momentum" if rule is SGD else "decay"
    for settings in ({"momentum": 1.5}, {"momentum": None}, {share: 1.0}, {"l2": -1}):
        with pytest.raises(ConfigError, match="expected .* got"):
            rule(stand_in([1.0]), **settings)
    with pytest.raises(ConfigError, match="expected clamp_update of 0 or more, got -1"):
        rule(stand_in([1.0]), clamp_update=-1)


def test_a_rule_refuses_a_model_in_place_of_its_flat_arrays():
    model = minilstm.Linear(4, 3, np.random.default_rng(0))
    for given in (model, model.params()):
        with pytest.raises(ConfigError, match=r"expected model.flat\(\), got"):
            Adam(given)


@pytest.mark.parametrize("limit", (math.inf, 1e39, 1e300))
def test_a_limit_that_no_norm_reaches_changes_no_gradient(limit):
    grad = np.ones(4, "float32")
    assert clip_norm(grad, limit) == 2 and (grad == 1).all()


@pytest.mark.parametrize("limit", (-1.0, math.nan, None))
def test_a_limit_below_zero_is_refused(limit):
    with pytest.raises(ConfigError, match="expected limit of 0 or more, got"):
        clip_norm(np.ones(4), limit)


def test_a_gradient_of_several_axes_is_not_clipped_by_a_matrix_product():
    with pytest.raises(ShapeError, match="expected grad of shape"):
        clip_norm(np.ones((3, 3)), 1.0)


def test_adam_without_epsilon_is_refused_because_a_silent_gradient_would_be_0_over_0():
    with pytest.raises(ConfigError, match="expected epsilon > 0 after rounding, for adam"):
        Adam(stand_in([1.0], [0.0]), epsilon=0.0)
    flat = stand_in([1.0, 2.0], [0.0, 0.0])
    optimizer = Adam(flat, momentum=0.9, decay=0.9, epsilon=1e-30)
    for _ in range(20):
        optimizer.step(0.1)
    assert flat.value.tolist() == [1.0, 2.0]


def test_an_optimizer_is_not_copied_because_the_copy_would_not_move_the_copied_model():
    model = minilstm.Composite(4, 3, 1, np.random.default_rng(0))
    optimizer = SGD(model.flat())
    with pytest.raises(ConfigError, match="expected no copy of an optimizer"):
        copy.deepcopy((model, optimizer))
    with pytest.raises(ConfigError, match="expected no copy of an optimizer"):
        copy.copy(optimizer)  # calls what pickle calls
    other = copy.deepcopy(model)  # what the message says works
    again = SGD(other.flat())
    for name, array in optimizer.state.items():
        again.state[name][...] = array
    other.flat().grad.fill(1)
    before = other.flat().value.copy()
    again.step(0.1)
    assert (other.flat().value != before).all() and (model.flat().value == before).all()


@pytest.mark.parametrize("name", ("value", "grad"))
def test_an_array_of_a_model_with_an_optimizer_is_filled_and_not_replaced(name):
    """The model would use the new array, and the optimizer would update the old one."""
    model = minilstm.Linear(4, 3, np.random.default_rng(0))
    Adam(model.flat())
    with pytest.raises(ConfigError, match=r"write param\.grad \+= array .* or param\.value\[..."):
        setattr(model.W, name, np.zeros((4, 3), "float32"))
    model.W.grad += 1
    getattr(model.W, name)[...] = 2
    assert (getattr(model.flat(), name) == 2).sum() == 12


def test_an_optimizer_refuses_a_step_after_astype_gave_the_model_other_arrays():
    model = minilstm.Linear(4, 3, np.random.default_rng(0))
    optimizer = Adam(model.flat())
    model.astype("float64")
    with pytest.raises(ConfigError, match="make a new optimizer"):
        optimizer.step(0.1)
    Adam(model.flat()).step(0.1)
