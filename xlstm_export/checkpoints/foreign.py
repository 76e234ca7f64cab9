"""What is not read, and is refused by name: other files, other models, other models that call themselves xLSTM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import UserError


def refuse_file(path: Path) -> None:
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")


def refuse_folder(path: Path) -> None:
    pass


def refuse_tensors(path: Path, names: Iterable[str]) -> None:
    pass


def refuse_settings(path: Path, values: Mapping[str, object]) -> None:
    pass


def unknown_tensors(path: Path, names: Iterable[str]) -> UserError:
    return UserError(f"{path} holds no xLSTM model of a known family.")
