"""Weights out of .pth files: PyTorch's own files to the bit, and hostile ones refused in a line."""

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from data_tools import convert_pth
from data_tools.convert_pth import MAGIC, VERSION, read_pth
from minilstm.command import run_command
from minilstm.errors import DataError, RunError

DATA = os.environ.get("MINILSTM_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="needs real weights: set MINILSTM_DATA to the folder that has percepts/"
)

# ----------------------------------- files as PyTorch writes them, instruction by instruction


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def whole(n):
    raw = n.to_bytes(max(1, n.bit_length() // 8 + 1), "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


DICTIONARY = b"ccollections\nOrderedDict\n)R"


def storage(key, count, kind="FloatStorage"):
    name = f"ctorch\n{kind}\n".encode()
    return tuple_of(text("storage"), name, text(key), text("cpu"), whole(count)) + b"Q"


def tensor(key, count, shape, strides, offset=0, kind="FloatStorage"):
    shape, strides = (tuple_of(*map(whole, numbers)) for numbers in (shape, strides))
    arguments = storage(key, count, kind), whole(offset), shape, strides, b"\x89", DICTIONARY
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(*arguments) + b"R"


def table(**tensors):
    items = b"".join(text(name) + program for name, program in tensors.items())
    return b"\x80\x02" + DICTIONARY + b"(" + items + b"u."


def archive(program, storages, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        made.writestr("any/data.pkl", program)
        made.writestr("any/byteorder", b"little")
        for key, raw in storages.items():
            made.writestr(f"any/data/{key}", raw)
    return file.getvalue()


def legacy(program, storages):
    head = MAGIC, VERSION, {"little_endian": True}
    parts = [pickle.dumps(item, protocol=2) for item in head]
    parts += [program, pickle.dumps(list(storages), protocol=2)]
    parts += [struct.pack("<q", len(raw) // 4) + raw for raw in storages.values()]
    return b"".join(parts)


FORMATS = {"archive": archive, "legacy": legacy}
NUMBERS = np.arange(12, dtype="<f4")
GOOD = (
    table(a=tensor("0", 12, (3, 4), (4, 1)), b=tensor("0", 12, (2, 3), (1, 4), offset=2)),
    {"0": NUMBERS.tobytes()},
)


def read(tmp_path, raw):
    (tmp_path / "w.pth").write_bytes(raw)
    return read_pth(tmp_path / "w.pth")


def refused(tmp_path, raw):
    """The one line with which a file is refused, at a bounded cost of memory."""
    (tmp_path / "w.pth").write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as refusal:
            read_pth(tmp_path / "w.pth")
        assert tracemalloc.get_traced_memory()[1] < 10e6 + 100 * len(raw)
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------------------------ good files


@pytest.mark.parametrize("form", FORMATS)
def test_views_of_one_storage_come_out_with_their_offsets_and_strides(tmp_path, form):
    found = read(tmp_path, FORMATS[form](*GOOD))
    np.testing.assert_array_equal(found["a"], NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(found["b"], [[2, 6, 10], [3, 7, 11]])
    assert list(found) == ["a", "b"] and found["b"].flags.c_contiguous


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_saves_comes_out_to_the_bit(tmp_path, new):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.randn(6, 5)
    state = network.state_dict()  # with its attribute of versions
    dtypes = "float64 float16 int64 int32 int16 int8 uint8 bool".split()
    state |= {name: torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, name)) for name in dtypes}
    state |= {"transposed": base.T, "part": base[1:, 2], "scalar": torch.tensor(2.5)}
    state |= {"none": torch.zeros(0, 3), "parameter": torch.nn.Parameter(base[0])}
    torch.save(state, tmp_path / "t.pth", _use_new_zipfile_serialization=new)
    found = read_pth(tmp_path / "t.pth")
    assert list(found) == list(state)
    for name, expected in state.items():
        expected = expected.detach().numpy()
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_and_a_training_checkpoint_are_read(tmp_path, protocol, new):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {"epoch": 3, "best": 0.25, "name": "mine", "state_dict": network.state_dict()}
    tree |= {"ema": network.state_dict(), "optimizer": optimizer.state_dict()}
    if protocol > 2:  # the second writes bytes by a call
        tree["mark"] = b"x"
    how = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    torch.save(tree, tmp_path / "t.pth", **how)
    found = read_pth(tmp_path / "t.pth")
    assert list(found) == ["weight", "bias"]
    np.testing.assert_array_equal(found["weight"], network.weight.detach())


@pytest.mark.parametrize("new", [True, False])
def test_bfloat16_and_views_of_the_opposite_sign_come_out_right(tmp_path, new):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    z = torch.tensor([1 + 2j, 3 - 4j])
    wide = torch.randn(5, generator=torch.Generator().manual_seed(0))
    state = {"minus": z.conj().imag, "plus": z.imag, "b": wide.to(torch.bfloat16)}
    torch.save(state, tmp_path / "t.pth", _use_new_zipfile_serialization=new)
    found = read_pth(tmp_path / "t.pth")
    assert found["minus"].tolist() == [-2, 4] and found["plus"].tolist() == [2, -4]
    assert found["b"].dtype == np.float32
    np.testing.assert_array_equal(found["b"], wide.to(torch.bfloat16).float())
    torch.save({"a": z.conj()}, tmp_path / "t.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(DataError, match="conjugate|ComplexFloatStorage"):
        read_pth(tmp_path / "t.pth")


@needs_data
def test_the_real_weights_become_safetensors(tmp_path, capsys):
    source, out = Path(DATA, "percepts/mobilenet_v2-b0353104.pth"), tmp_path / "w.safetensors"
    assert convert_pth.main([str(source), str(out)]) == 0
    assert "314 tensors, 3,539,036 numbers" in capsys.readouterr().out
    found = load_file(out)
    assert found["classifier.1.weight"].shape == (1000, 1280)
    assert found["features.1.conv.0.1.num_batches_tracked"].dtype == np.int64
    with pytest.raises(RunError, match="--force"):
        convert_pth.main([str(source), str(out)])


# ------------------------------------------------------------------------------------- bad files


class Harmful:
    """Creates a file, if anybody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_program_that_calls_something_is_refused_and_never_run(tmp_path, protocol):
    mark = tmp_path / "it_ran"
    program = pickle.dumps({"a": Harmful(mark)}, protocol)
    for raw in (archive(program, {}), legacy(program, {}), program):
        refused(tmp_path, raw)
    assert not mark.exists()
    pickle.loads(program)  # the trap is a real one
    assert mark.exists()


@pytest.mark.parametrize("call", ["posix\nsystem", "builtins\neval", "torch\nload", "a\nb c"])
def test_no_call_but_those_of_tensors_is_known(tmp_path, call):
    program = b"\x80\x02c" + call.encode() + b"\n" + tuple_of(text("true")) + b"R."
    assert call.replace("\n", ".") in refused(tmp_path, archive(program, {}))


HUGE = 10**12
BOMBS = {
    "a memo of 2**31 places": b"\x80\x02]r\xff\xff\xff\x7f.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "an integer of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "many marks": b"\x80\x02" + b"(" * 10**5 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 20_000 + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a storage of 4 TB": table(a=tensor("0", HUGE, (3,), (1,))),
    "a storage of 2**2000 numbers": table(a=tensor("0", 2**2000, (3,), (1,))),
    "a negative storage": table(a=tensor("0", -12, (3,), (1,))),
    "one number shown 10**12 times": table(a=tensor("0", 12, (HUGE,), (0,))),
    "one row shown a million times": table(a=tensor("0", 12, (10**6, 12), (0, 1))),
    "a view behind its storage": table(a=tensor("0", 12, (3,), (1,), offset=10)),
    "a view before its storage": table(a=tensor("0", 12, (3,), (1,), offset=-1)),
    "a backward view": table(a=tensor("0", 12, (3,), (-1,), offset=5)),
    "a stride of 2**63": table(a=tensor("0", 12, (2,), (2**63,))),
    "a negative size": table(a=tensor("0", 12, (-3,), (1,))),
    "a thousand dimensions": table(a=tensor("0", 12, (1,) * 1000, (1,) * 1000)),
    "more strides than sizes": table(a=tensor("0", 12, (3,), (1, 1))),
    "one storage in two sizes": table(a=tensor("0", 12, (3,), (1,)), b=tensor("0", 6, (3,), (1,))),
    "a type that NumPy lacks": table(a=tensor("0", 12, (3,), (1,), kind="ComplexFloatStorage")),
    "dimensions of 2040 bits": table(a=tensor("0", 12, (2**2030,) * 30, (1,) * 30)),
    "no tensor": table(a=whole(3)),
    "a tensor of two tables": table(a=table(x=tensor("0", 12, (3,), (1,)))[2:-1]).replace(
        b"u.", text("b") + table(x=tensor("0", 12, (3,), (1,)))[2:-1] + b"u."
    ),
    "no table": b"\x80\x02K\x01.",
    "an empty table": table(),
    "no end": GOOD[0][:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_one_line(tmp_path, bomb, form):
    refused(tmp_path, FORMATS[form](BOMBS[bomb], GOOD[1]))


def test_sizes_that_are_no_numbers_are_refused_before_anything_is_computed_with_them(tmp_path):
    """The product of the sizes "x" and 10**10 would be a text of 10 GB."""
    program = table(a=tensor("0", 12, (5, 7), (1, 1))).replace(whole(5), text("x"))
    assert "sizes are no whole numbers" in refused(tmp_path, archive(program, GOOD[1]))


def test_a_tensor_with_an_argument_that_nobody_knows_is_refused(tmp_path):
    known = tensor("0", 12, (3,), (1,))
    program = known.removesuffix(b"tR") + b"}" + text("flip") + b"\x88stR"
    assert "unknown arguments" in refused(tmp_path, archive(table(a=program), GOOD[1]))


def test_a_name_that_is_a_number_is_told_from_one_that_is_a_text(tmp_path):
    program = table(a=tensor("0", 12, (3,), (1,))).replace(text("a"), whole(7))
    assert "named 7, a number" in refused(tmp_path, archive(program, GOOD[1]))


def test_a_few_bytes_can_not_keep_the_reader_busy(tmp_path):
    """Lists of lists, each twice in the next, have 2**26 innermost ones to compare."""
    nested = b"]" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(26))
    head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, VERSION, {"little_endian": True}))
    keys = b"\x80\x02](" + nested + nested + b"e."  # equal, but not the same
    program = table(a=tensor("0", 12, (3,), (1,)))
    sizes = table(a=tensor("0", 12, (2**2030,) * 3000, (1,) * 3000))
    start = time.process_time()
    assert "keys of storages" in refused(tmp_path, head + program + keys)
    assert "bits" in refused(tmp_path, archive(sizes, GOOD[1]))
    assert time.process_time() - start < 1


def test_a_zip_bomb_is_refused_unpacked_or_overlapping(tmp_path):
    zeros = {"0": bytes(10**8)}
    program = table(a=tensor("0", 25 * 10**6, (25 * 10**6,), (1,)))
    assert "compressed" in refused(tmp_path, archive(program, zeros, zipfile.ZIP_DEFLATED))
    names = [str(n) for n in range(50)]
    program = table(**{f"t{n}": tensor(n, 12, (12,), (1,)) for n in names})
    raw = archive(program, {n: NUMBERS.tobytes() for n in names})
    assert len(read(tmp_path, raw)) == 50
    many = {n: bytes(400) for n in names}
    program = table(**{f"t{n}": tensor(n, 10**5, (10**5,), (1,)) for n in names})
    assert "larger than the file" in refused(tmp_path, archive(program, many))


def mutated(raw, rng):
    """A file that was damaged somewhere: bytes changed, cut off, doubled or left out."""
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(len(raw))), rng.integers(4)
        if kind == 0:
            raw[at] = rng.integers(256)
        elif kind == 1:
            raw[at : at + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).astype("<u4").tobytes()
        elif kind == 2:
            raw[at : at + int(rng.integers(1, 20))] = b""
        else:
            raw[at:at] = raw[at : at + int(rng.integers(1, 20))]
    return bytes(raw)


def fuzz(path, count, seed=0):
    """(files that were read all the same, files that were refused) of damaged ones."""
    rng, outcomes = np.random.default_rng(seed), [0, 0]
    goods = [make(*GOOD) for make in FORMATS.values()]
    for n in range(count):
        path.write_bytes(mutated(goods[n % len(goods)], rng))
        try:
            found = read_pth(path)
        except DataError as error:
            assert "\n" not in str(error)
            outcomes[1] += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
            outcomes[0] += 1
    return outcomes


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    read_all_the_same, refusals = fuzz(tmp_path / "w.pth", 1000)
    assert read_all_the_same > 10 and refusals > 500


def test_a_file_that_is_there_is_overwritten_with_force_alone(tmp_path):
    source, out = tmp_path / "w.pth", tmp_path / "w.safetensors"
    source.write_bytes(archive(*GOOD))
    out.write_bytes(b"words")
    with pytest.raises(RunError, match="--force"):
        convert_pth.main([str(source), str(out)])
    assert out.read_bytes() == b"words"
    assert convert_pth.main([str(source), str(out), "--force"]) == 0
    np.testing.assert_array_equal(load_file(out)["a"], NUMBERS.reshape(3, 4))


def test_the_command_says_in_one_line_what_is_wrong_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(archive(*GOOD)[:-30])
    for source in (tmp_path / "w.pth", tmp_path / "missing.pth", tmp_path):
        arguments = [str(source), str(tmp_path / "w.safetensors")]
        assert run_command(lambda arguments=arguments: convert_pth.main(arguments)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
