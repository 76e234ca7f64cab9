"""Configurations: where they are found, how they are read, and how they are held against the weights."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import yaml

from ...errors import ErrorKind, UserError
from .interpolation import resolve

Word = TypeVar("Word", bound=str)

_SUFFIXES = (".yaml", ".yml", ".json")
_DEEP = 8  # levels of nesting that a description is looked for in
_MANY = 100  # descriptions, of which no file has so many that is meant


@dataclass(frozen=True)
class Marks:
    """How the description of a model is told from other settings."""

    keys: tuple[frozenset[str], ...]
    """Any of these sets of keys, all of one."""
    model_type: str | None = None
    """Or this value of `model_type`, which may also stand beside a description that is nested."""

    def describe(self, values: Mapping[str, object]) -> bool:
        return any(keys <= values.keys() for keys in self.keys)

    def name(self, values: Mapping[str, object]) -> bool:
        return self.model_type is not None and values.get("model_type") == self.model_type


@dataclass(frozen=True)
class Settings:
    """A configuration, or one section of it. Absent keys mean the upstream default, or what the weights tell."""

    values: Mapping[str, object]
    source: str
    """As a message names it: a path, or "the configuration in ckpt.pt"."""
    section: str = ""
    """Keys that lead here, dotted and ending in a dot."""

    @property
    def given(self) -> bool:
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def below(self, key: str) -> Settings:
        """A section; empty where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.error(key, "expected a section with keys of its own")
        return Settings(value, self.source, f"{self.section}{key}.")

    def number(self, key: str, default: float) -> float:
        """A number. YAML 1.1 reads `1e-6` as a string, so numbers in strings count."""
        value = self.values.get(key, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise self.error(key, "expected a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self.error(key, "expected a number")
        return value

    def positive(self, key: str, default: float) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.error(key, "expected a positive number")
        return float(value)

    def integer(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
        if key not in self.values and default is None:
            raise UserError(ErrorKind.checkpoint, f"{self.source} has no {self.section}{key}. Add it.")
        value = self.number(key, default or 0)
        if value != int(value) or not minimum <= value <= maximum:
            raise self.error(key, f"expected a whole number from {minimum} to {maximum:,}")
        return int(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "expected true or false")
        return value

    def choice(self, key: str, default: Word, choices: tuple[Word, ...]) -> Word:
        value = self.values.get(key, default)
        for choice in choices:
            if value == choice:
                return choice
        raise self.error(key, f"expected one of {', '.join(choices)}")

    def agree(self, key: str, actual: object, evidence: str) -> None:
        """Where the key is given, it says what the weights say."""
        if key not in self.values:
            return
        if isinstance(actual, bool):
            told: object = self.boolean(key, actual)
        elif isinstance(actual, int | float):
            told = self.number(key, actual)
        else:
            told = self.values[key]
        if told != actual:
            raise self.conflict(key, actual, evidence)

    def conflict(self, key: str, actual: object, evidence: str) -> UserError:
        return UserError(
            ErrorKind.checkpoint,
            f"{self.source} says {self.section}{key} = {_show(self.values[key])}, but the weights say {_show(actual)} "
            f"({evidence}). Correct the configuration, or give the one that belongs to these weights with --config.",
        )

    def only(self, known: frozenset[str], what: str) -> None:
        """No key but the known ones (and upstream's derived fields, which start with an underscore)."""
        for key in self.values:
            if key not in known and not str(key).startswith("_"):
                raise UserError(
                    ErrorKind.checkpoint,
                    f"{self.source}: {self.section}{key} is no setting of {what}. A setting that is not understood may "
                    "change the model; remove it if it is a slip.",
                )

    def ignored(self, keys: frozenset[str]) -> tuple[str, ...]:
        """A note of those of these keys that are given: they do not change the model."""
        given = sorted(str(key) for key in self.values if key in keys)
        if not given:
            return ()
        return (f"{', '.join(self.section + key for key in given)} in {self.source} does not change what is exported.",)

    def having(self, overrides: Mapping[str, object]) -> Settings:
        """These settings with others in their place or beside them, by dotted keys."""
        if not overrides:
            return self
        values: dict[str, object] = dict(self.values)
        for keys, value in overrides.items():
            *sections, last = keys.split(".")
            section = values
            for key in sections:
                inner = section.get(key)
                section[key] = inner = dict(inner) if isinstance(inner, Mapping) else {}
                section = inner
            section[last] = value
        source = f"{self.source} with --set" if self.given else "--set"
        return replace(self, values=values, source=source)

    def without(self, key: str) -> Settings:
        return replace(self, values={name: value for name, value in self.values.items() if name != key})

    def error(self, key: str, expected: str) -> UserError:
        return UserError(
            ErrorKind.checkpoint, f"{self.source} has {self.section}{key} = {_show(self.values.get(key))}: {expected}."
        )


MAX_BLOCKS = 10_000

NO_SETTINGS = Settings({}, "the configuration")


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_overrides(texts: Iterable[str]) -> dict[str, object]:
    """What `--set KEY=VALUE` says, by dotted keys; values are read as YAML (`true`, `4`, `[0, 2]`, `gelu`)."""
    overrides: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise UserError(ErrorKind.argument, f"--set {text}: expected KEY=VALUE, such as num_blocks=4.")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except Exception as error:  # of YAML's constructors, any
            raise UserError(
                ErrorKind.argument, f"--set {text}: the value is not valid YAML ({' '.join(str(error).split())})."
            ) from None
    return overrides


def read_file(path: Path) -> Mapping[str, object]:
    """The mapping in a YAML or JSON file, with `${a.b}` replaced and `???` (not set) dropped, as OmegaConf does."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(ErrorKind.checkpoint, f"{path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(ErrorKind.checkpoint, f"{path} is a directory; name a YAML or JSON file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(ErrorKind.checkpoint, f"{path} cannot be read as text: {error}.") from None
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except Exception as error:  # of YAML's constructors, any: of dates, numbers, nesting
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(ErrorKind.checkpoint, f"{path} is not valid {kind}: {' '.join(str(error).split())}.") from None
    if not isinstance(values, Mapping):
        raise UserError(ErrorKind.checkpoint, f"{path} holds no mapping of settings to values.")
    return resolve(values)


def find_settings(values: object, source: str, marks: Sequence[Marks]) -> dict[str, Settings]:
    """Every description of a model in nested mappings, by the keys that lead to it (dotted); equal ones once."""
    found: dict[str, Settings] = {}
    for keys, described in itertools.islice(_described(values, marks, 0), _MANY):
        if all(settings.values != described for settings in found.values()):
            found[keys] = Settings(described, source)
    return found


def _described(values: object, marks: Sequence[Marks], depth: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    if not isinstance(values, Mapping) or depth > _DEEP:
        return
    nested = described = any(mark.describe(values) for mark in marks)
    if described:
        yield "", values
    for key, value in values.items():
        for path, found in _described(value, marks, depth + 1):
            nested = True
            yield f"{key}.{path}" if path else str(key), found
    if not nested and any(mark.name(values) for mark in marks):
        yield "", values


def beside(weights: Path, marks: Sequence[Marks]) -> dict[str, Settings]:
    """The descriptions beside the weights: in `<stem>.yaml` and the like first, then in `config.yaml` and the like.

    Then in `model-config.yaml`, as early checkpoints of TiRex-2 have it.
    """
    folder = weights if weights.is_dir() else weights.parent
    for paths in _companions(weights):
        found = [(path, there) for path in paths if (there := find_settings(read_file(path), str(path), marks))]
        values = [[settings.values for settings in there.values()] for _, there in found]
        if any(other != values[0] for other in values):
            names = " and ".join(path.name for path, _ in found)
            raise UserError(
                ErrorKind.checkpoint, f"{folder} holds {names}, which differ. Say which one is right: --config."
            )
        if found:
            return found[0][1]
    return {}


def companions(weights: Path) -> tuple[Path, ...]:
    """The files that `beside` looks into."""
    return tuple(path for paths in _companions(weights) for path in paths)


def _companions(weights: Path) -> Iterator[list[Path]]:
    """By their stem, those first that count before the others."""
    folder = weights if weights.is_dir() else weights.parent
    stems = ["config", "model-config"] if weights.is_dir() else [weights.stem, "config", "model-config"]
    for stem in dict.fromkeys(stems):
        yield [path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
