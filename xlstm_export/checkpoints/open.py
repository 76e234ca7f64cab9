"""A path in, a checkpoint out: which files hold the weights, which family they are of, where their configuration is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import ErrorKind, UserError
from ..modeling.architecture import Architecture
from . import foreign
from .checkpoint import Checkpoint
from .families import FAMILIES, MARKS, family_of_settings, family_of_tensors
from .families.family import Family
from .files import pickles as pickle_files
from .files import safetensors as safetensors_files
from .files import settings as settings_files
from .files.settings import NO_SETTINGS, Settings
from .files.weights import WRAPPERS, Weights

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


def open_checkpoint(path: Path, config: Path | None = None) -> Checkpoint:
    """Read a checkpoint of any family: its headers now, its values when they are asked for.

    Args:
        path: a file of weights (`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`) or a folder that holds one checkpoint.
        config: the configuration, YAML or JSON, instead of one found in or beside the weights.

    Raises:
        UserError: the checkpoint is not understood completely; one message, naming the tensor or setting.
    """
    path = Path(path)
    weights = _weights(path).unwrapped()
    family = family_of_tensors(weights.tensors)
    if family is None:
        raise foreign.unknown_tensors(path, weights.tensors)
    return family.read(weights, _settings(weights, family, config))


def read_config(path: Path) -> tuple[str, Architecture, dict[str, object]]:
    """The family, the architecture and the complete upstream configuration that a YAML or JSON file describes."""
    settings = _settings_of(Path(path))
    family = family_of_settings(settings)
    assert family is not None  # its marks are how the settings were found
    return family.name, *family.from_settings(settings)


def _settings(weights: Weights, family: Family, config: Path | None) -> Settings:
    """The configuration: as given, in the file, or beside it. It must be of the weights' family."""
    if config is not None:
        settings = _settings_of(config)
    else:
        inside = settings_files.locate(weights.extras, f"the configuration in {weights.path}", MARKS)
        settings = inside or settings_files.beside(weights.path, MARKS) or NO_SETTINGS
    if settings.given and (other := family_of_settings(settings)) is not family:
        raise UserError(
            ErrorKind.checkpoint,
            f"{settings.source} is a configuration of {other.name}, but the tensors of {weights.path} are of family "
            f"{family.name}. Give the configuration that belongs to them with --config.",
        )
    return settings


def _settings_of(path: Path) -> Settings:
    """The description of a model in a file that the user named."""
    values = settings_files.read_file(path)
    foreign.refuse_settings(path, values)
    settings = settings_files.locate(values, str(path), MARKS)
    if settings is None:
        fields = ", of ".join(family.configurations for family in FAMILIES)
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} describes no xLSTM model: expected the fields of {fields}, at the top or under a key such as "
            "`model`.",
        )
    return settings


def _weights(path: Path) -> Weights:
    if not path.exists():
        raise UserError(ErrorKind.checkpoint, f"{path} does not exist.")
    if path.is_dir():
        return _folder(path)
    foreign.refuse_file(path)
    if path.name.endswith(".safetensors.index.json"):
        return safetensors_files.read_indexed(path)
    if foreign.is_safetensors(path):
        return safetensors_files.read_file(path)
    if path.suffix in (".yaml", ".yml", ".json"):
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} is a configuration, not weights. Name the weights, or the folder that holds both.",
        )
    return pickle_files.read_file(path, _recognises)


def _folder(path: Path) -> Weights:
    foreign.refuse_folder(path)
    for file in path.glob("*.safetensors"):
        foreign.refuse_file(file)
    weights = safetensors_files.read_folder(path)
    if weights is not None:
        return weights
    files = sorted(file for file in path.iterdir() if file.suffix in _PICKLES and file.is_file())
    if not files:
        raise UserError(
            ErrorKind.checkpoint, f"{path} holds no weights (no .safetensors, .pt, .pth, .ckpt or .bin file)."
        )
    if len(files) > 1:
        raise UserError(
            ErrorKind.checkpoint,
            f"{path} holds several files of weights ({', '.join(f.name for f in files[:4])}). Name the one to export.",
        )
    return _weights(files[0])


def _recognises(state: Mapping[str, object]) -> bool:
    names = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in state]
    return family_of_tensors(names) is not None
