"""Weights to PyTorch and back: to the bit without it, and, where it is installed, its outputs."""

import textwrap

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minilstm
from minilstm import interop, train
from minilstm.backend import use_backend
from minilstm.command import run_command
from minilstm.config import Config, from_toml
from minilstm.errors import ConfigError, RunError
from minilstm.layers.linear import Linear
from minilstm.layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from minilstm.layers.rnn import ElmanRNN, SlidesRNN
from minilstm.layers.samples import randomize
from minilstm.layers.stack import Stack
from minilstm.models import Autoencoder, Composite, FuturePredictor
from minilstm.runs import build, torch_names
from minilstm.runs.torch_names import from_torch, read_arrays, to_torch
from minilstm.training import loop
from minilstm.training.step import training_step

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
CELLS = (LSTM, PeepholeLSTM, ElmanRNN)
SIZES = ((1, 1, 1), (5, 3, 1), (1, 4, 2), (0, 3, 2), (6, 2, 3))  # D, H, layers


def made(dtype, seed, make):
    """A layer in `dtype` with random parameters, biases and peepholes too."""
    rng = np.random.default_rng(seed)
    with use_backend("numpy", dtype):
        return randomize(make(rng), rng)


def values(layer):
    """All parameters, to the bit."""
    return {name: param.value.tobytes() for name, param in layer.params().items()}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- without PyTorch


def makers():
    for D, H, layers in SIZES:
        for cell in CELLS:
            size = f"{cell.__name__} {D} {H}"
            yield size, lambda rng, D=D, H=H, cell=cell: cell(D, H, rng)
            yield (
                f"Stack of {layers} {size}",
                lambda rng, D=D, H=H, n=layers, cell=cell: Stack(D, H, n, rng, cell),
            )
    yield "Linear 4 3", lambda rng: Linear(4, 3, rng)
    yield "Linear 1 1", lambda rng: Linear(1, 1, rng)
    for cls, conditional in (
        (Autoencoder, "reconstruction"),
        (FuturePredictor, "none"),
        (Composite, "none"),
        (Composite, "both"),
    ):
        for cell in CELLS:
            yield (
                f"{cls.__name__} {conditional} {cell.__name__}",
                lambda rng, c=cls, cell=cell, how=conditional: c(6, 3, 2, rng, how, cell=cell),
            )


MAKERS = dict(makers())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_there_and_back_is_the_same_to_the_bit(name, dtype, tmp_path):
    one, other = (made(dtype, seed, MAKERS[name]) for seed in (1, 2))
    other.flat()  # so that its parameters are views of one array, which must be kept
    assert values(one) != values(other)
    save_file(to_torch(one, keep_peepholes=True), tmp_path / "file")
    from_torch(other, read_arrays(tmp_path / "file"))
    assert values(one) == values(other)
    ours = np.concatenate([p.value.ravel() for p in other.params().values()])
    np.testing.assert_array_equal(np.sort(other.flat().value), np.sort(ours))


def test_every_array_lies_where_the_table_says():
    D, H = 5, 3
    model = made("float32", 1, lambda rng: Composite(D, H, 2, rng, "future", cell=PeepholeLSTM))
    arrays = to_torch(model, keep_peepholes=True)
    layer, second = model.encoder.layers[0], model.predict.stack.layers[1]
    for name, want in {
        "encoder.weight_ih_l0": layer.Wx.value.T,
        "encoder.weight_hh_l0": layer.Wh.value.T,
        "encoder.bias_ih_l0": layer.b.value,
        "encoder.bias_hh_l0": np.zeros(4 * H, "float32"),
        "encoder.weight_peephole_l0": layer.Wp.value,
        "predict.stack.weight_ih_l1": second.Wx.value.T,
        "reconstruct.stack.weight_ih_l0": np.zeros((4 * H, 1), "float32"),  # no input
        "reconstruct.readout.weight": model.reconstruct.readout.W.value.T,
        "reconstruct.readout.bias": model.reconstruct.readout.b.value,
    }.items():
        np.testing.assert_array_equal(arrays[name], want, err_msg=name)
        assert arrays[name].dtype == np.float32
        assert arrays[name].flags.c_contiguous
    assert len(arrays) == 3 * 2 * 5 + 2 * 2
    assert arrays["predict.stack.weight_ih_l0"].shape == (4 * H, D)


def test_the_arrays_are_copies():
    layer = made("float32", 1, lambda rng: PeepholeLSTM(2, 3, rng))
    before = values(layer)
    for array in to_torch(layer, keep_peepholes=True).values():
        array.fill(7)
    assert values(layer) == before


def test_both_biases_are_added_and_no_bias_is_zero():
    layer = made("float32", 1, lambda rng: LSTM(2, 3, rng))
    arrays = to_torch(layer)
    arrays["bias_ih_l0"], arrays["bias_hh_l0"] = np.full(12, 0.25, "f4"), np.arange(12.0)
    from_torch(layer, arrays)
    np.testing.assert_array_equal(layer.b.value, np.arange(12) + 0.25)
    from_torch(layer, {name: a for name, a in arrays.items() if "bias" not in name})
    assert not layer.b.value.any()
    model = made("float32", 1, lambda rng: Autoencoder(4, 2, 2, rng, cell=ElmanRNN))
    from_torch(model, {name: a for name, a in to_torch(model).items() if "bias" not in name})
    assert all(not p.value.any() for name, p in model.params().items() if name.endswith(".b"))


def test_peepholes_of_zero_are_left_out_and_absent_ones_are_zero():
    layer = made("float32", 1, lambda rng: PeepholeLSTM(2, 3, rng))
    layer.Wp.value[...] = 0
    assert "weight_peephole_l0" not in to_torch(layer)
    assert not to_torch(layer, keep_peepholes=True)["weight_peephole_l0"].any()
    arrays = to_torch(layer)
    layer.Wp.value[...] = 1
    from_torch(layer, arrays)
    assert not layer.Wp.value.any()


@pytest.mark.parametrize("theirs", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ours", DTYPES)
def test_other_precisions_are_converted(theirs, ours):
    layer = made(ours, 1, lambda rng: LSTM(2, 3, rng))
    arrays = {name: array.astype(theirs) for name, array in to_torch(layer).items()}
    from_torch(layer, arrays)
    assert layer.dtype == ours
    np.testing.assert_array_equal(layer.Wx.value.T, arrays["weight_ih_l0"].astype(ours))


# ---------------------------------------------------------------- refusals


def stack_of_two(cell=LSTM, D=2):
    return made("float32", 1, lambda rng: Stack(D, 3, 2, rng, cell))


def test_peepholes_are_refused_unless_they_are_kept():
    model = made("float32", 1, lambda rng: Composite(4, 2, 1, rng))
    model.encoder.layers[0].Wp.value[...] = 0
    with pytest.raises(ConfigError, match=r"reconstruct\.stack\.\*_l0.*--keep-peepholes"):
        to_torch(model)


@pytest.mark.parametrize("cell", [SlidesLSTM, SlidesRNN])
def test_the_cells_of_the_slides_are_refused(cell):
    for make in (
        lambda rng: cell(2, 3, rng),
        lambda rng: Stack(2, 3, 2, rng, cell),
        lambda rng: Composite(4, 2, 1, rng, cell=cell),
    ):
        layer = made("float32", 1, make)
        for call in (to_torch, lambda layer: from_torch(layer, {})):
            with pytest.raises(ConfigError, match=f"got {cell.__name__}, .*no equivalent"):
                call(layer)


def test_a_parameter_that_no_table_names_is_refused_not_lost():
    model = made("float32", 1, lambda rng: Composite(4, 2, 1, rng, cell=LSTM))
    model.temperature = minilstm.Param(np.ones(1))
    with pytest.raises(ConfigError, match="got Composite"):
        to_torch(model)


def test_everything_amiss_is_named_at_once_and_nothing_is_changed():
    stack = stack_of_two()
    before, arrays = values(stack), to_torch(stack)
    del arrays["weight_hh_l0"], arrays["bias_hh_l1"]
    arrays["weight_ih_l0"] = arrays["weight_ih_l0"].T
    arrays["bias_ih_l0"] = arrays["bias_ih_l0"].astype(int)
    arrays["weight_hh_l1"][0, 0] = np.nan
    arrays["weight_ih_l1"] = np.full((12, 3), 1e39)
    arrays["weight_ih_l0_reverse"] = arrays["weight_hr_l0"] = np.zeros((3, 3), "f4")
    with pytest.raises(RunError) as caught:
        from_torch(stack, arrays)
    message = str(caught.value)
    for part in (
        "this Stack",
        "weight_hh_l0 is missing",
        "bias_hh_l1 is missing",
        "weight_ih_l0 has shape (2, 12), not (12, 2)",
        "bias_ih_l0 has dtype int64, not one of floats",
        "weight_hh_l1 is not finite in float32",
        "weight_ih_l1 is not finite in float32",
        "weight_ih_l0_reverse is unknown",
        "weight_hr_l0 is unknown",
    ):
        assert part in message, part
    assert message.count(";") == 7 and "\n" not in message
    assert values(stack) == before


def test_half_of_the_biases_is_not_no_bias():
    stack = stack_of_two()
    arrays = to_torch(stack)
    del arrays["bias_ih_l1"], arrays["bias_hh_l1"]
    with pytest.raises(RunError, match="bias_hh_l1 is missing; bias_ih_l1 is missing"):
        from_torch(stack, arrays)


def test_peepholes_for_a_cell_without_are_refused():
    arrays = to_torch(stack_of_two(PeepholeLSTM), keep_peepholes=True)
    with pytest.raises(RunError, match="weight_peephole_l0 is unknown"):
        from_torch(stack_of_two(LSTM), arrays)


def test_another_cell_and_another_depth_are_refused():
    deeper = made("float32", 1, lambda rng: Stack(2, 3, 3, rng, LSTM))
    for other, why in ((stack_of_two(ElmanRNN), "has shape"), (deeper, "_l2 is unknown")):
        with pytest.raises(RunError, match=why):
            from_torch(stack_of_two(), to_torch(other))
    with pytest.raises(RunError, match="_l2 is missing"):
        from_torch(deeper, to_torch(stack_of_two()))


def test_a_weight_for_an_input_that_is_not_there_must_be_zero():
    stack = stack_of_two(D=0)
    arrays = to_torch(stack)
    arrays["weight_ih_l0"][3] = 0.1
    with pytest.raises(RunError, match="weight_ih_l0 is not zero, but this stack has no input"):
        from_torch(stack, arrays)


# ---------------------------------------------------------------- the witness: PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: an optional witness")


def module_of(torch, cell, D, H, layers, dtype, **keywords):
    """PyTorch's own, of width 1 where we have none."""
    kind = torch.nn.RNN if cell is ElmanRNN else torch.nn.LSTM
    return kind(max(D, 1), H, layers, dtype=getattr(torch, dtype), **keywords)


def outputs_of_both(torch, stack, module, D, dtype):
    """(y, final states) of ours, of theirs, and what backward needs."""
    T, B = 6, 3
    x = np.random.default_rng(3).standard_normal((T, B, D)).astype(dtype)
    (y, final), cache = stack.forward(x)
    x_ = torch.tensor(x) if D else torch.zeros(T, B, 1, dtype=getattr(torch, dtype))
    y_, final_ = module(x_)
    final_ = final_ if isinstance(final_, tuple) else (final_,)
    final = [np.stack(parts) for parts in zip(*final, strict=True)]  # per layer -> per state
    return (y, *final), (y_, *final_), cache


def close(ours, theirs, dtype, of):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, of
    scale = max(1, np.abs(theirs).max())
    np.testing.assert_allclose(
        ours / scale, theirs / scale, rtol=0, atol=TOLERANCE[dtype], err_msg=of
    )


def gradients_by_their_names(layer):
    """The gradients, mapped as parameters are: they take the values' place for a moment."""
    params = layer.params().values()
    kept = [param.value.copy() for param in params]
    for param in params:
        param.value[...] = param.grad
    named = to_torch(layer)
    for param, value in zip(params, kept, strict=True):
        param.value[...] = value
    return named


def compare_gradients(layer, module, dtype):
    theirs = {name: param.grad for name, param in module.named_parameters()}
    ours = gradients_by_their_names(layer)
    assert ours.keys() == theirs.keys()
    for name, got in ours.items():
        if "bias_hh" in name:  # the gradient of both biases is that of their sum
            got = ours[name.replace("bias_hh", "bias_ih")]
        close(got, theirs[name], dtype, f"gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", [LSTM, ElmanRNN])
def test_pytorch_loads_ours_and_computes_the_same(torch, cell, size, dtype):
    D, H, layers = size
    stack = made(dtype, 1, lambda rng: Stack(D, H, layers, rng, cell))
    module = module_of(torch, cell, D, H, layers, dtype)
    arrays = {name: torch.from_numpy(array) for name, array in to_torch(stack).items()}
    module.load_state_dict(arrays)
    ours, theirs, cache = outputs_of_both(torch, stack, module, D, dtype)
    for k, (got, want) in enumerate(zip(ours, theirs, strict=True)):
        close(got, want, dtype, f"output {k}")
    dy = np.random.default_rng(4).standard_normal(ours[0].shape).astype(dtype)
    stack.backward((dy, None), cache)
    (theirs[0] * torch.tensor(dy)).sum().backward()
    compare_gradients(stack, module, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("cell", CELLS)
def test_ours_loads_pytorchs_file_and_computes_the_same(torch, cell, bias, dtype, tmp_path):
    from safetensors.torch import save_file as save_tensors

    D, H, layers = 5, 4, 3
    torch.manual_seed(0)
    module = module_of(torch, cell, D, H, layers, dtype, bias=bias)
    save_tensors(module.state_dict(), tmp_path / "theirs.safetensors")
    stack = made(dtype, 1, lambda rng: Stack(D, H, layers, rng, cell))
    from_torch(stack, read_arrays(tmp_path / "theirs.safetensors"))
    ours, theirs, _ = outputs_of_both(torch, stack, module, D, dtype)
    for k, (got, want) in enumerate(zip(ours, theirs, strict=True)):
        close(got, want, dtype, f"output {k}")
    other = made(dtype, 2, lambda rng: Stack(D, H, layers, rng, cell))
    from_torch(other, module.state_dict())  # tensors on the CPU serve, too
    assert values(other) == values(stack)


@pytest.mark.parametrize("keywords", [{"bidirectional": True}, {"proj_size": 2}], ids=str)
def test_what_we_do_not_have_is_refused_by_name(torch, keywords):
    module = torch.nn.LSTM(2, 3, 2, **keywords)
    named = r"weight_ih_l0_reverse is unknown" if "bidirectional" in keywords else r"weight_hr_l0"
    with pytest.raises(RunError, match=named):
        from_torch(stack_of_two(), module.state_dict())


def test_parameters_serve_as_a_state_dict_does_and_a_type_that_numpy_lacks_is_refused(torch):
    module, one, two = torch.nn.LSTM(2, 3, 2), stack_of_two(), stack_of_two()
    from_torch(one, dict(module.named_parameters()))
    from_torch(two, module.state_dict())
    assert values(one) == values(two)
    with pytest.raises(
        RunError, match=r"BFloat16.* in weight_ih_l0: convert tensors by \.float\(\)"
    ):
        from_torch(one, module.bfloat16().state_dict())
    assert values(one) == values(two)


def test_nn_lstm_needs_an_input_as_the_docstring_says(torch):
    with pytest.raises(ValueError, match="input_size must be greater than zero"):
        torch.nn.LSTM(0, 3)


def run_the_docstring(**names):
    """The code in the docstring of torch_names.py, as a reader would copy it; what it defines."""
    text = torch_names.__doc__
    start, stop = (
        text.index("    import safetensors.torch"),
        text.index("These parts exist in only"),
    )
    exec(textwrap.dedent(text[start:stop]), names)
    return names


@pytest.fixture
def dtype_of_both(torch, request):
    """float32 or float64, in which torch makes its modules until the test ends."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype_of_both", DTYPES, indirect=True)
def test_the_docstring_loads_a_composite_and_computes_the_same(torch, dtype_of_both, in_folder):
    from safetensors.torch import save_file as save_tensors

    dtype, (D, H, layers, T, B) = dtype_of_both, (7, 5, 2, 6, 3)
    model = made(dtype, 1, lambda rng: Composite(D, H, layers, rng, cell=LSTM))
    save_file(to_torch(model), "FILE.safetensors")
    copied = run_the_docstring(D=D, H=H, layers=layers)
    module = copied["model"]

    past = np.random.default_rng(5).random((4, B, D)).astype(dtype)
    logits, cache = model.forward(past, T=T)
    logits_ = module(torch.tensor(past), T)
    assert logits[0].shape == (4, B, D) and logits[1].shape == (T, B, D)
    dlogits = []
    for k, (got, want) in enumerate(zip(logits, logits_, strict=True)):
        close(got, want, dtype, f"logits {k}")
        dlogits.append(np.random.default_rng(k).standard_normal(got.shape).astype(dtype))
    model.backward(tuple(dlogits), cache)
    sum((z * torch.tensor(d)).sum() for z, d in zip(logits_, dlogits, strict=True)).backward()
    compare_gradients(model, module, dtype)

    fresh = copied["Composite"](D, H, layers)  # and the other way
    with torch.no_grad():
        for decoder in (fresh.reconstruct, fresh.predict):
            decoder.stack.weight_ih_l0.zero_()
    save_tensors(fresh.state_dict(), "theirs.safetensors")
    from_torch(model, read_arrays("theirs.safetensors"))
    logits, _ = model.forward(past, T=T)
    for k, (got, want) in enumerate(zip(logits, fresh(torch.tensor(past), T), strict=True)):
        close(got, want, dtype, f"logits {k} of theirs")


# ---------------------------------------------------------------- the command


SETTINGS = """
[model]
hidden = 3
layers = 2
cell = "{cell}"
[data]
frame_size = 4
digit_size = 3
[run]
precision = "{precision}"
"""


def call(*words):
    """The exit status of the command, called in this process."""
    try:
        return run_command(lambda: interop.main([str(word) for word in words]))
    except SystemExit as stopped:  # argparse leaves this way
        return stopped.code


def refusal(capsys, *words):
    """The one line on stderr of a command that exits with 2, and writes nothing."""
    capsys.readouterr()
    assert call(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: "), printed
    assert printed.err.count("\n") == 1, printed
    return printed.err


def run_of(folder, cell="standard", precision="float64"):
    """A run folder `run` made by an import, with random weights; its model."""
    (folder / "settings.toml").write_text(SETTINGS.format(cell=cell, precision=precision))
    config = from_toml(folder / "settings.toml")
    model = made(precision, 1, lambda rng: build.build_model(config, 16))
    save_file(to_torch(model, keep_peepholes=True), folder / "weights.safetensors")
    assert call("import", "weights.safetensors", "run", "--like", "settings.toml") == 0
    return model


def test_weights_for_other_frames_than_those_of_the_settings_are_refused(in_folder, capsys):
    run_of(in_folder)
    small = build.build_model(from_toml(in_folder / "settings.toml"), 9)
    save_file(to_torch(small, keep_peepholes=True), in_folder / "small.safetensors")
    capsys.readouterr()
    for like in ("run", "settings.toml"):
        assert call("import", "small.safetensors", "new", "--like", like) == 2
        assert f"for the 16 pixels of {like}, got 9" in capsys.readouterr().err
        assert not (in_folder / "new").exists()


@pytest.mark.parametrize("precision", DTYPES)
def test_a_run_goes_out_and_comes_back(in_folder, capsys, precision):
    model = run_of(in_folder, precision=precision)
    assert capsys.readouterr().out == "wrote run\n"
    assert call("export", "run", "out.safetensors") == 0
    assert capsys.readouterr().out == "wrote out.safetensors\n"
    assert call("import", "out.safetensors", "deep/again", "--like", "run") == 0
    for run in ("run", "deep/again"):
        assert values(minilstm.load(run)) == values(model)
    assert (in_folder / "deep/again/config.toml").read_text() == (
        in_folder / "run/config.toml"
    ).read_text()
    assert load_file("out.safetensors").keys() == to_torch(model).keys()


def test_the_command_keeps_peepholes_on_request_alone(in_folder, capsys):
    model = run_of(in_folder, cell="peephole")
    assert "--keep-peepholes" in refusal(capsys, "export", "run", "out.safetensors")
    assert not (in_folder / "out.safetensors").exists()
    assert call("export", "run", "out.safetensors", "--keep-peepholes") == 0
    assert call("import", "out.safetensors", "again", "--like", "run") == 0
    assert values(minilstm.load("again")) == values(model)


def test_what_the_command_refuses(in_folder, capsys):
    run_of(in_folder)
    weights = (in_folder / "weights.safetensors").read_bytes()
    (in_folder / "torn.safetensors").write_bytes(weights[:-9])
    save_file({"lstm.weight_ih_l0": np.zeros((4, 2))}, "other.safetensors")
    save_file({"encoder.weight_ih_l0": np.zeros((0, 16))}, "empty.safetensors")
    save_file({"encoder.weight_ih_l0": np.zeros((4, 16))}, "small.safetensors")
    like = ("--like", "run")
    for words, why in (
        (("export", "nowhere", "x.safetensors"), "expected a run folder"),
        (("export", "run", "x.pt"), "a name that does not end in .safetensors"),
        (("export", "run", "weights.safetensors"), "expected a new file, got weights.safetensors"),
        (("export", "run", "no/such/x.safetensors"), "got no folder no/such"),
        (("export", "run", "x" * 300 + ".safetensors"), "expected a file that can be written"),
        (("export", "run", "x.safetensors", *like), "expected import for --like"),
        (("import", "weights.safetensors", "x"), "expected --like RUN with import, got none"),
        (
            ("import", "weights.safetensors", "x", *like, "--keep-peepholes"),
            "expected export for --keep-peepholes",
        ),
        (("import", "weights.safetensors", "x", "--lik", "run"), "did you mean --like?"),
        (
            ("import", "weights.safetensors", "run", *like),
            "run: expected a folder to write to, got File exists",
        ),
        (("import", "weights.safetensors", "x", "--like", "no"), "expected a run folder of"),
        (("import", "weights.safetensors", "x", "--like", "x" * 300), "expected a run folder of"),
        (
            ("import", "weights.safetensors", "x" * 300, *like),
            "got File name too long",
        ),
        (("import", "nowhere", "x", *like), "expected a whole safetensors file"),
        (("import", "run", "x", *like), "expected a whole safetensors file"),
        (("import", "torn.safetensors", "x", *like), "expected a whole safetensors file"),
        (("import", "other.safetensors", "x", *like), "got none: name its modules"),
        (("import", "empty.safetensors", "x", *like), "got (0, 16)"),
        (("import", "small.safetensors", "x", *like), "has shape (4, 16), not (12, 16)"),
        (("inport", "weights.safetensors", "x", *like), "'export', 'import', got 'inport'"),
        ((), "expected ACTION, FROM, TO, got nothing there"),
    ):
        assert why in refusal(capsys, *words), words
        assert not (in_folder / "x").exists()
    assert (in_folder / "weights.safetensors").read_bytes() == weights


def test_a_type_that_numpy_lacks_is_refused(torch, in_folder):
    from safetensors.torch import save_file as save_tensors

    save_tensors({"weight": torch.zeros(2, dtype=torch.bfloat16)}, "half.safetensors")
    with pytest.raises(RunError, match="float32 or float64.*BF16"):
        read_arrays("half.safetensors")


def test_training_goes_on_from_imported_weights(in_folder, monkeypatch):
    """`--resume` of an imported run starts at step 0, from these weights and no others."""
    model = run_of(in_folder, precision="float32")
    text = (in_folder / "run" / "config.toml").read_text()
    (in_folder / "run" / "config.toml").write_text(
        text.replace(f"\nsteps = {Config().run.steps}", "\nsteps = 2")
    )
    starts = []
    step = training_step
    monkeypatch.setattr(
        loop,
        "training_step",
        lambda model, *rest: starts.append(values(model)) or step(model, *rest),
    )
    assert train.main(["--resume", "run", "--quiet"]) == 0
    assert len(starts) == 2 and starts[0] == values(model)
    assert values(minilstm.load("run")) != values(model)
