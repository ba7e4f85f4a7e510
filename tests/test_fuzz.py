"""Hostile input for every reader: dozens of damaged files of each, and trees made up whole.

The machinery is in fuzz.py, and so is the command that tries ten thousand of each.
"""

import json
import os
import re
import tempfile
import warnings

import fuzz
import numpy as np
import pytest
import tomli_w
from fuzz import READERS, Forbidden, Hang, Reader, attempt, damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from minilstm import config, data
from minilstm.errors import DataError, MinilstmError

INPUTS = {"evaluate": 50, "run": 100, "resumed": 100}  # of the slow ones; 150 of the others
TRIED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The one folder where an input is written and read."""
    monkeypatch.chdir(tmp_path)


def assert_harmless(name, tree):
    """The input ends in a valid result or in minilstm's own error: which one, and its message."""
    kind, message = attempt(READERS[name], tree)
    shown = {path: raw[:500] for path, raw in tree.items()}
    assert kind != "failed", f"{name}: {message}\n{shown}"
    return kind, message


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_end_in_a_result_or_in_an_error_of_minilstm(name):
    kinds = set()
    for n in range(INPUTS.get(name, 150)):
        kind, message = attempt(READERS[name], damaged(READERS[name], name, 0, n))
        assert kind != "failed", f"{message}\nagain: {fuzz.again(name, 0, n)}"
        kinds.add(kind)
    assert kinds == {"valid", "refused"}, "the damage is too weak or too strong"


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_was_read_before(name):
    kinds = [assert_harmless(name, tree)[0] for tree in READERS[name].valid]
    assert kinds[0] == "valid"


@pytest.mark.parametrize("name", READERS)
def test_an_input_is_a_function_of_reader_seed_and_number(name):
    again = Reader(READERS[name].make, READERS[name].read)  # its valid files made anew
    inputs = [damaged(READERS[name], name, 0, n) for n in range(20)]
    assert inputs == [damaged(again, name, 0, n) for n in range(20)]
    assert inputs != [damaged(again, name, 1, n) for n in range(20)]


# ---------------------------------------------------------------- the machinery can fail


def reader_that(does):
    return Reader(lambda: [{"file": b"content"}], does)


def sleeps():
    while True:
        pass


HARMFUL = {
    "raises": (lambda: 1 / 0, "ZeroDivisionError"),
    "warns": (lambda: warnings.warn("beware", stacklevel=1), "beware"),
    "writes": (lambda: open("other", "w"), "Forbidden"),
    "writes elsewhere": (
        lambda: open(os.path.join(tempfile.gettempdir(), "minilstm-other"), "w"),
        "Forbidden",
    ),
    "makes a folder": (lambda: fuzz.Path("other").mkdir(), "Forbidden"),
    "removes": (lambda: fuzz.Path("file").unlink(), "Forbidden"),
    "starts": (lambda: fuzz.os.system("true"), "Forbidden"),
    "unpickles": (lambda: np.load("file", allow_pickle=True), "UnpicklingError"),
    "hangs": (sleeps, "Hang"),
    "leaves open": (lambda: open("file") and None, "ResourceWarning"),
    "says nothing": (lambda: (_ for _ in ()).throw(DataError("no")), "says what was expected"),
    "takes memory": (lambda: np.ones(fuzz.peak() + fuzz.MEMORY, np.uint8), "MB of memory"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_reader_that_does_harm_is_caught(name, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2 if name == "hangs" else 20)
    monkeypatch.setattr(fuzz, "MEMORY", 100 << 20)
    does, said = HARMFUL[name]
    kind, message = attempt(reader_that(does), {"file": b"content"})
    assert kind == "failed" and said in message
    assert not list(fuzz.Path().iterdir())
    assert attempt(reader_that(lambda: None), {"file": b""}) == ("valid", ""), "it lasts"


def test_what_is_forbidden_can_not_be_swallowed():
    assert not issubclass(Forbidden, Exception) and not issubclass(Hang, Exception)


def test_a_reader_without_its_check_of_sizes_is_caught(monkeypatch):
    """Give the same inputs to a `read_idx` with one line taken out."""
    monkeypatch.setattr(data.digits.math, "prod", lambda shape: EqualToAll())
    kinds = {}
    for n in range(300):
        kind, message = attempt(READERS["idx"], damaged(READERS["idx"], "idx", 0, n))
        kinds[kind] = message
    assert "cannot reshape" in kinds["failed"]


class EqualToAll(int):
    """A number that no comparison tells from another."""

    def __ne__(self, other):
        return False


# ---------------------------------------------------------------- trees made up whole

WORD = st.text(max_size=8) | st.sampled_from(["", "a\nb", "\x00", "é", "..", "x" * 3000])
NUMBER = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**62, 2**63, 2**64, -(2**63) - 1, 1e308, 1e-320, -0.0])
)
SETTINGS = [(name, item) for name, section in config.SECTIONS.items()
            for item in section.__dataclass_fields__]  # fmt: skip
VALUES = st.recursive(
    NUMBER | WORD | st.booleans() | st.dates() | st.datetimes() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=5,
)


@TRIED
@given(st.lists(st.tuples(st.sampled_from(SETTINGS), VALUES), max_size=3))
def test_any_value_of_any_setting_is_read_or_refused(pairs):
    tree = {}
    for (section, item), value in pairs:
        tree.setdefault(section, {})[item] = value
    assert_harmless("config", {"my.toml": tomli_w.dumps(tree).encode()})


@TRIED
@given(st.dictionaries(st.sampled_from(list(config.SECTIONS)) | WORD, VALUES, max_size=3))
def test_any_toml_is_read_or_refused(tree):
    assert_harmless("config", {"my.toml": tomli_w.dumps(tree).encode()})


SIZES = st.lists(st.sampled_from([0, 1, 2, 20, -1, -20, 2**31, 2**32, 2**62, 2**64]), max_size=5)
SHAPES = st.lists(st.sampled_from([1, 2, 20]), min_size=3, max_size=5) | SIZES
DESCRIPTIONS = st.sampled_from(
    ["|u1", "|i1", "<u2", ">f4", "|O", "|V0", "|V1", "<U0", "|S0", "<M8[s]", "<m8", "|b1", "u1",
     "", "(2,)u1", [("a", "|u1")], [("a", "|u1", (2, 2))], [("a", "|O")], [], ("|u1", (2,)), 7]
)  # fmt: skip


@TRIED
@given(
    DESCRIPTIONS, st.sampled_from([False, True, 0, "no", None]), SHAPES,
    st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 0), (4, 0), (1, 1)]), st.integers(-1, 1),
    st.sampled_from(["", " ", "\n", ", 'more': 1}", "#", "\0"]),
)  # fmt: skip
def test_any_header_of_an_npy_file_is_read_or_refused(descr, fortran, shape, version, off, tail):
    text = repr({"descr": descr, "fortran_order": fortran, "shape": tuple(shape)}) + tail
    size = 2 if version[0] == 1 else 4
    head = b"\x93NUMPY" + bytes(version) + (len(text) + off).to_bytes(size, "little")
    values = bytes(min(max(1, np.prod(shape, dtype=object)), 8000))
    assert_harmless("npy", {"my.npy": head + text.encode() + values})


KINDS = "F32 F64 F16 BF16 F8_E4M3 F8_E5M2 F4 C64 I64 U64 U8 BOOL".split() + ["f4", "", 7, None]
OFFSETS = st.tuples(*[st.sampled_from([0, 4, 8, 32, -4, 2**31, 2**63, 2**64, 0.5])] * 2)
DESCRIBED = st.sampled_from(
    [None, "", "{}", "[]", "3", '{"D": 8, "step": 2}', '{"D": 1e999}', '{"D": NaN}', "[" * 9999,
     '{"D": ' + "7" * 5000 + "}"]
)  # fmt: skip


@TRIED
@given(
    st.dictionaries(st.sampled_from(["encoder.0.Wx", "optimizer.velocity"]) | WORD,
                    st.tuples(st.sampled_from(KINDS), SHAPES, OFFSETS), max_size=3),
    DESCRIBED, st.sampled_from([0, 0, 0, 1, -1, 2**32, 2**63]),
)  # fmt: skip
def test_any_header_of_a_checkpoint_is_read_or_refused(arrays, about, off):
    header = {
        name: {"dtype": kind, "shape": shape, "data_offsets": offsets}
        for name, (kind, shape, offsets) in arrays.items()
    }
    if about is not None:
        header["__metadata__"] = {"minilstm": about}
    text = json.dumps(header).encode()
    raw = ((len(text) + off) % 2**64).to_bytes(8, "little") + text + bytes(32)
    assert_harmless("checkpoint", {"my.safetensors": raw})
    assert_harmless("interop", {"my.safetensors": raw})


ROWS = st.dictionaries(st.sampled_from(["step", "future"]) | WORD, VALUES.filter(
    lambda value: not re.search("datetime", repr(value))), max_size=3)  # fmt: skip


@TRIED
@given(st.lists(ROWS | st.fixed_dictionaries({"step": NUMBER}, optional={"a": NUMBER}), max_size=4))
def test_any_rows_of_a_log_are_read_or_refused(rows):
    raw = "".join(json.dumps(row) + "\n" for row in rows)
    assert_harmless("log", {"metrics.jsonl": raw.encode()})


# ---------------------------------------------------------------- inputs that once did harm


def changed(path, old, new):
    """A valid run whose file `path` has `new` for `old`; safetensors headers get a new length."""
    tree = dict(READERS["run"].valid[0])
    protected, protect = fuzz.inside(path, tree[path]) or (tree[path], bytes)
    assert old in protected
    tree[path] = protect(protected.replace(old, new))
    return tree


DEEP = b"a." * 2000 + b"a = 1"
CONFIGS = {
    "an integer of 5000 digits": (b"hidden = 4", b"hidden = " + b"7" * 5000),
    "an integer of 5000 hexadecimal digits": (b"seed = 0", b"seed = 0x" + b"f" * 5000),
    "an integer of 65 bits": (b"seed = 0", b"seed = 18446744073709551616"),
    "such an integer for a number": (b"dropout = 0.0", b"dropout = 0x" + b"f" * 5000),
    "such an integer in an array": (b"dropout = 0.0", b"dropout = [0x" + b"f" * 5000 + b"]"),
    "2000 tables in each other": (b"past = 3", b"past." + DEEP),
    "a scale beyond float32": (b"\nscale = 0.01", b"\nscale = 1e40"),
    "a scale beyond float64": (b"peephole_scale = 0.0", b"peephole_scale = 1e308"),
    "a bias beyond float32": (b"forget_bias = 1.0", b"forget_bias = 1e300"),
    "40,000 units for a small checkpoint": (b"hidden = 4", b"hidden = 40000"),
    "more units than an array can have": (b"hidden = 4", b"hidden = 4611686018427387904"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_configuration_of_a_run_is_refused(name):
    kind, message = assert_harmless("run", changed("run/config.toml", *CONFIGS[name]))
    assert kind == "refused" and len(message) < 1000


@pytest.mark.parametrize("D", [b"1000000000", b"1" + b"0" * 18, b"1" + b"0" * 4000])
def test_a_checkpoint_that_claims_frames_of_too_many_pixels_is_refused(D):
    tree = changed("run/checkpoint.safetensors", b'\\"D\\": 8', b'\\"D\\": ' + D)
    assert assert_harmless("run", tree)[0] == "refused"


def test_a_checkpoint_whose_description_is_nested_deeply_is_refused():
    tree = changed("run/checkpoint.safetensors", b'"{', b'"' + b"[" * 100_000)
    assert assert_harmless("run", tree)[0] == "refused"


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_a_dtype_that_numpy_does_not_know_is_refused(kind):
    array = {"dtype": kind, "shape": [2], "data_offsets": [0, 4 if kind == "BF16" else 2]}
    text = json.dumps({"__metadata__": {"minilstm": "{}"}, "a": array}).encode()
    raw = len(text).to_bytes(8, "little") + text + bytes(array["data_offsets"][1])
    assert assert_harmless("checkpoint", {"my.safetensors": raw})[0] == "refused"


def converted(convert):
    """A valid run whose parameters and optimizer state were converted."""
    tree = dict(READERS["run"].valid[0])
    raw = tree["run/checkpoint.safetensors"]
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    arrays = {name: convert(array) for name, array in load(raw).items()}
    tree["run/checkpoint.safetensors"] = save(arrays, header["__metadata__"])
    return tree


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype("float64") + 1e300,
        lambda a: a.astype("complex64"),
        lambda a: a.astype("int64"),
        lambda a: a.astype("bool"),
        lambda a: a * np.float32("nan"),
    ],
    ids="beyond-float32 complex integers booleans NaN".split(),
)
@pytest.mark.parametrize("name", ["run", "resumed", "evaluate"])
def test_parameters_that_do_not_fit_are_refused(name, convert):
    kind, message = assert_harmless(name, converted(convert))
    assert kind == "refused" and "encoder.0.Wh" in message


def test_parameters_so_large_that_numbers_overflow_are_not_judged():
    kind, message = assert_harmless("evaluate", converted(lambda a: np.full_like(a, 3e38)))
    assert kind == "refused" and "too large" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'\\"seconds\\": 1.5', b'\\"seconds\\": 1e999'),
        (b'\\"step\\": 2', b'\\"step\\": 1e999'),
        (b'\\"step\\": 2', b'\\"step\\": Infinity'),
        (b'\\"best\\": 200.5', b'\\"best\\": 1' + b"0" * 400),
        (b'\\"best\\": 200.5', b'\\"best\\": NaN'),
        (b'\\"optimizer_steps\\": 0', b'\\"optimizer_steps\\": true'),
        (b'\\"optimizer_steps\\": 0', b'\\"optimizer_steps\\": -1'),
        (b'\\"seconds\\"', b'\\"second\\"'),
        (b'{\\"steps\\": 1', b'{\\"steps\\": \\"1\\"'),
        (b'{\\"future\\": 210.5}', b'{\\"future\\": 1e999}'),
        (b'{\\"future\\": 210.5}', b'[]'),
    ],
)  # fmt: skip
def test_a_state_that_no_run_can_be_in_is_not_resumed(old, new):
    kind, _ = assert_harmless("resumed", changed("run/checkpoint.safetensors", old, new))
    assert kind == "refused"


@pytest.mark.parametrize(
    "row",
    [
        b'{"step": 1, "future": NaN}',
        b'{"step": 1, "future": -Infinity}',
        b'{"step": 1, "future": 1' + b"0" * 400 + b"}",
        b'{"step": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
    ],
    ids="NaN infinity large-value large-step deep".split(),
)
def test_a_row_of_the_log_that_no_run_writes_is_refused(row):
    assert assert_harmless("log", {"metrics.jsonl": row + b"\n"})[0] == "refused"


def test_a_damaged_header_that_is_long_is_refused_at_once(monkeypatch):
    """NumPy takes it for one of Python 2, and mends it in a time that grows with its square."""
    monkeypatch.setattr(fuzz, "SECONDS", 5)
    text = b"{'descr': '|u1" + b" " * 9900 + b"$\n"
    raw = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
    assert assert_harmless("npy", {"my.npy": raw})[0] == "refused"


def test_a_folder_of_digits_with_too_long_a_name_is_refused():
    with pytest.raises(DataError, match="expected a folder of MNIST.s files, got no"):
        data.load_digits("n" * 300)
    with pytest.raises(MinilstmError):
        data.load_digits("n\0")
