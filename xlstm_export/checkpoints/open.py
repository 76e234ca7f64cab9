"""A path in, a checkpoint out: which files hold the weights, which family they are of, where their configuration is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import ErrorKind, UserError
from ..modeling.architecture import Architecture
from . import foreign
from .checkpoint import Checkpoint
from .families import FAMILIES, MARKS, family_of_settings
from .families.family import Family
from .files import pickles as pickle_files
from .files import safetensors as safetensors_files
from .files import settings as settings_files
from .files.folder import INDEX_ENDING, read_folder, read_index
from .files.settings import NO_SETTINGS, Settings
from .files.weights import Weights
from .parts import Part, choose_part, find_parts


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a checkpoint, beyond its path."""

    config: Path | None = None
    """The configuration, YAML or JSON, in place of one found in or beside the weights."""
    select: str | None = None
    """The keys that lead to the model, dotted, where the checkpoint holds several, or more than one."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Settings in place of those of the configuration, or beside them, by dotted keys."""


NOTHING_SAID = ReadOptions()


def open_checkpoint(path: Path, options: ReadOptions = NOTHING_SAID) -> Checkpoint:
    """Read a checkpoint of any family: its headers now, its values when they are asked for.

    Args:
        path: a file of weights (`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`) or a folder that holds one checkpoint.
        options: which configuration, which model.

    Raises:
        UserError: the checkpoint is not understood completely; one message, naming the tensor or setting.
    """
    path = Path(path)
    part = choose_part(path, read_weights(path), options.select)
    checkpoint = part.family.read(part.weights, _settings(part, options))
    given = () if options.config is None else (options.config,)
    return replace(checkpoint, companions=(*given, *checkpoint.companions))


def find_models(path: Path) -> list[Part]:
    """The models that a checkpoint holds, each as `ReadOptions.select` takes it."""
    return find_parts(read_weights(Path(path)))


def read_config(path: Path, options: ReadOptions = NOTHING_SAID) -> tuple[str, Architecture, dict[str, object]]:
    """The family, the architecture and the complete upstream configuration that a YAML or JSON file describes."""
    settings = _settings_of(Path(path), None)
    family = family_of_settings(settings)
    _check_overrides(options.overrides, family)
    return family.name, *family.from_settings(settings.having(options.overrides))


def _settings(part: Part, options: ReadOptions) -> Settings:
    """The configuration: as given, in the file, or beside it. It must be of the weights' family."""
    weights, family = part.weights, part.family
    if options.config is not None:
        settings = _settings_of(options.config, part)
    else:
        inside = settings_files.find_settings(weights.extras, f"the configuration in {weights.path}", MARKS)
        settings = _meant(inside, part) or _meant(settings_files.beside(weights.path, MARKS), part) or NO_SETTINGS
    if settings.given and (other := family_of_settings(settings)) is not family:
        raise UserError(
            ErrorKind.checkpoint,
            f"{settings.source} is a configuration of {other.name}, but the tensors of {weights.path} are of family "
            f"{family.name}. Give the configuration that belongs to them with --config.",
        )
    _check_overrides(options.overrides, family)
    return settings.having(options.overrides)


def _check_overrides(overrides: Mapping[str, object], family: Family) -> None:
    """The readers know what is wrong in a section; that there is no such section, only the registration knows."""
    for keys in overrides:
        if (key := keys.split(".")[0]) not in family.keys:
            close = difflib.get_close_matches(key, family.keys, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(ErrorKind.argument, f"--set {keys}: {key} is no setting of {family.configurations}.{hint}")


def _settings_of(path: Path, part: Part | None) -> Settings:
    """The description of a model in a file that the user named."""
    values = settings_files.read_file(path)
    settings = _meant(settings_files.find_settings(values, str(path), MARKS), part)
    if settings is None:
        foreign.refuse_architecture(path, values)
        fields = ", of ".join(family.configurations for family in FAMILIES)
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} describes no xLSTM model: expected the fields of {fields}, at the top or under a key such as "
            "`model`.",
        )
    return settings


def _meant(found: Mapping[str, Settings], part: Part | None) -> Settings | None:
    """Of several descriptions, by the keys that lead to them, the one of the model's family and place.

    Where no model is known, or that decides nothing, one that is nested in another gives way to it.
    """
    if part is not None and len(found) > 1:
        found = {keys: s for keys, s in found.items() if family_of_settings(s) is part.family} or found
    if part is not None and len(found) > 1:
        place = set(part.name.split("."))
        found = {keys: s for keys, s in found.items() if place.intersection(keys.split("."))} or found
    outer = {keys: s for keys, s in found.items() if not any(_is_inside(keys, other) for other in found)}
    if len(outer) > 1:
        source = next(iter(outer.values())).source
        raise UserError(
            ErrorKind.checkpoint,
            f"{source} describes several models ({', '.join(list(outer)[:4])}). Give the right one in a file of its "
            "own: --config.",
        )
    return next(iter(outer.values()), None)


def _is_inside(keys: str, other: str) -> bool:
    return keys != other and (not other or keys.startswith(f"{other}."))


def read_weights(path: Path) -> Weights:
    """The tensors of a file or folder by the names that their user gave them, without wrappers: headers only.

    Raises:
        UserError: it is not there, not readable, or no weights.
    """
    return _weights(path).unwrapped()


def _weights(path: Path) -> Weights:
    if not path.exists():
        raise UserError(ErrorKind.checkpoint, f"{path} does not exist.")
    if path.is_dir():
        foreign.refuse_folder(path)
        return read_folder(path, _file)
    if path.name.endswith(INDEX_ENDING):
        return read_index(path, _file)
    return _file(path)


def _file(path: Path) -> Weights:
    foreign.refuse_file(path)
    if foreign.is_safetensors(path):
        return safetensors_files.read_file(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} is a configuration, not weights. Name the weights, or the folder that holds both.",
        )
    return pickle_files.read_file(path)
