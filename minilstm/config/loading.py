"""Settings from presets, TOML files and command-line flags.

Later sources override earlier ones: defaults, presets in the order given, the file of `--config`,
flags. A preset (presets/*.toml) holds some of the settings. Presets and files may hold
settings without effect, such as those of another schedule. A flag without effect is refused
(`Config.conditions`).

    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    config = from_arguments(parser.parse_args())
    config.model.hidden

An unknown name, a wrong type or a value out of range raises ConfigError with one line.

Read next: presets/paper.toml.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .schema import CELLS, SECTIONS, Config, Section, cell_file, checked, flag_of, nearest, refusal

PRESETS = Path(__file__).parent / "presets"
NOT_KNOWN = "leave it out, or use the version of minilstm that has it"  # no known name is similar


def from_toml(source: str | Path) -> Config:
    """Return the defaults overridden by TOML: the file at a `Path`, or the text in a `str`.

    Raises ConfigError.
    """
    return _from_tree(_read(source))


def _from_tree(tree):
    return Config(**{name: SECTIONS[name](**values) for name, values in tree.items()})


def load(
    presets: Iterable[str] = (),
    config_file: str | Path | None = None,
    overrides: Mapping[str, Mapping] | None = None,
) -> Config:
    """Return the defaults, overridden by presets in order, then `config_file`, then `overrides`.

    `overrides` are such as {"model": {"layers": 2}}. Raises ConfigError for a setting that is
    unknown, of the wrong type, out of range, or in conflict with another.
    """
    trees = [_read(_preset(name)) for name in presets]
    trees += [_read(Path(config_file))] if config_file is not None else []
    trees += [_checked_tree(overrides or {}, "the overrides")]
    merged = {name: {} for name in SECTIONS}
    for tree in trees:
        for name, values in tree.items():
            merged[name] |= values
    return _from_tree(merged)


def differences(before: Config, after: Config, but: Iterable[str] = ()) -> list[str]:
    """Describe what `after` sets differently. `but` names settings to leave out."""
    old, new = asdict(before), asdict(after)
    return [
        f"{section}.{name} = {new[section][name]!r}, not {value!r}"
        for section, values in old.items()
        for name, value in values.items()
        if new[section][name] != value and f"{section}.{name}" not in but
    ]


def preset_names() -> list[str]:
    """Return the names of the presets, in alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add PRESET ..., `--config` and a flag for every setting, in one group per section.

    A flag that is not given leaves no trace in the namespace, so that it overrides nothing. Give
    the parser `allow_abbrev=False`: a flag has one spelling.
    """
    group = parser.add_argument_group("presets and files", "Later settings override earlier ones.")
    presets = group.add_argument(
        "presets",
        nargs="*",
        metavar="PRESET",
        help=f"named settings; later presets override earlier ones: {', '.join(preset_names())}",
    )
    presets.completer = lambda **_: preset_names()  # type: ignore[attr-defined]  # tab key
    group.add_argument(
        "--config", metavar="FILE", action="append", help="settings in TOML; they override presets"
    )
    for name, section in SECTIONS.items():
        add_section(parser, name, section)


def add_section(parser: argparse.ArgumentParser, name: str, section: type[Section]) -> None:
    """Add a flag for every setting of one section, in a group of its own. See `add_arguments`."""
    group = parser.add_argument_group(f"[{name}]", section.__doc__)
    for item in fields(section):
        about, kind = item.metadata, type(item.default)
        help = f"{about['help']} (default: {item.default})".replace("%", "%%")
        common: dict[str, Any] = {
            "dest": f"{name}.{item.name}",
            "default": argparse.SUPPRESS,
            "help": help,
        }
        if kind is bool:
            group.add_argument(flag_of(item), action=argparse.BooleanOptionalAction, **common)
            continue
        flag = group.add_argument(
            flag_of(item),
            type=_parser_of(section, item),
            metavar=about["metavar"] or "|".join(about["choices"]) or _METAVARS[kind],
            **common,
        )
        if about["choices"]:
            choices = about["choices"]
            flag.completer = lambda choices=choices, **_: choices  # type: ignore[attr-defined]
        if (name, item.name) == ("model", "cell"):
            flag.completer = cells_from  # type: ignore[attr-defined]


def cells_from(prefix: str, **_) -> list[str]:
    """Return what `--cell` may begin with, for the tab key: cells, folders/ and FILE.py:"""
    folder, _ = os.path.split(prefix)
    found = list(CELLS)
    for path in sorted(Path(folder or ".").glob("[!.]*")):
        if path.suffix == ".py" or path.is_dir():
            found.append(os.path.join(folder, path.name) + ("/" if path.is_dir() else ":"))
    return [word for word in found if word.startswith(prefix)]


def from_arguments(namespace: argparse.Namespace) -> Config:
    """Return the settings that the flags of `add_arguments` have set. Raises as `load` does."""
    overrides = {name: given(namespace, name) for name in SECTIONS}
    files = namespace.config or [None]
    if len(files) > 1:
        raise ConfigError(
            f"expected one file of settings, got --config {' and --config '.join(files)}: write "
            "all settings to one file"
        )
    return load(namespace.presets, files[0], overrides)


def given(namespace: argparse.Namespace, name: str) -> dict:
    """Return the settings of section `name` that flags have set."""
    found = (dest.partition(".") + (value,) for dest, value in vars(namespace).items())
    return {key: value for section, _, key, value in found if key and section == name}


_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def _parser_of(section, item):
    def parse(text):
        try:
            value = type(item.default)(text)
        except ValueError:
            value = text  # `checked` says what was expected in its place
        try:
            return checked(section, item, value)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(error) from None

    return parse


def _checked_tree(tree, where):
    """Return `tree` (section -> key -> value). Raises ConfigError for a bad name or value."""
    for name, values in tree.items():
        if name not in SECTIONS:
            expected = f"a section of {', '.join(SECTIONS)} in {where}"
            raise refusal(expected, name, nearest(name, SECTIONS, NOT_KNOWN))
        if not isinstance(values, Mapping):
            raise refusal(f"a table [{name}] in {where}", values, f"write [{name}] and keys below")
        known = {item.name: item for item in fields(SECTIONS[name])}
        for key, value in values.items():
            if key not in known:
                expected = f"a key of [{name}] in {where}"
                raise refusal(expected, key, nearest(key, known, NOT_KNOWN))
            try:
                checked(SECTIONS[name], known[key], value)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    return tree


def _read(source):
    """Read TOML, from a file (`Path`, a byte-order mark is allowed) or a text (`str`). Check it."""
    where = str(source) if isinstance(source, Path) else "the TOML text"
    try:
        text = source.read_text("utf-8-sig") if isinstance(source, Path) else source
        tree = tomllib.loads(text)
    except OSError as error:
        raise refusal(f"a TOML file at {where}", error.strerror, "check the path") from None
    except UnicodeDecodeError:
        raise refusal(f"UTF-8 text in {where}", "other bytes", "save it as UTF-8") from None
    except RecursionError:
        raise refusal(f"TOML in {where}", "tables too deep to read", "mend the file") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error).replace("end of document", f"line {text.count(chr(10)) + 1}, its end")
        raise ConfigError(f"expected TOML in {where}, got: {message}: mend that line") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise refusal(f"TOML in {where}", "a number of thousands of digits", "mend it") from None
    _checked_tree(tree, where)
    own = cell_file(str(tree.get("model", {}).get("cell", "")))
    if own and not own.sha256:  # a file of settings may come from anybody
        raise refusal(
            f"the hash of a cell's file in {where}",
            str(own),
            f"leave it out there, and name it on the command line: --cell {own}",
        )
    return tree


def _preset(name):
    names = preset_names()
    if name not in names:
        other = "choose one; --config FILE takes a file, --resume RUN a run, and a flag one value"
        raise refusal(f"a preset of {', '.join(names)}", name, nearest(name, names, other))
    return PRESETS / f"{name}.toml"
