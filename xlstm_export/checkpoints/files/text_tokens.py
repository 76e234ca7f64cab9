"""Which tokens begin and end a text, from the files that lie beside the weights of a language model.

They change nothing in the model: what is wrong in them is a note, and no error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .interpolation import resolve

_FILES = ("generation_config.json", "config.json", "config.yaml", "tokenizer_config.json")
"""Earlier ones win, as in `transformers`' `generate`."""
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class TextTokens:
    """Token ids, all of them in the vocabulary."""

    bos: int | None = None
    """The token that every text of the model begins with; None where the files do not say that one does."""
    eos: tuple[int, ...] = ()
    """The tokens that end a text."""
    notes: tuple[str, ...] = field(default=(), compare=False)


def read_text_tokens(folders: list[Path], vocab_size: int | None) -> TextTokens:
    """What the files in the first of the folders that has any say.

    A beginning is put first where a file says that the model was trained so: `force_bos_token_insert` (NX-AI's models)
    or `add_bos_token` (tokenizers of `transformers`). Its id alone says nothing: every configuration has one.
    """
    if vocab_size is None:
        return TextTokens()
    values = list(_values(folders))
    names = _added_tokens(folders)
    notes: list[str] = []

    def ids(key: str) -> tuple[int, ...]:
        for path, settings in values:
            told = settings.get(f"{key}_id", settings.get(key) if path.name == "tokenizer_config.json" else None)
            if told is None:
                continue
            found = told if isinstance(told, list) else [told]
            found = [names.get(_text_of(one), one) for one in found]
            good = [one for one in found if type(one) is int and 0 <= one < vocab_size]
            if len(good) < len(found):
                notes.append(
                    f"{key} of {path.name} is {repr(told)[:80]}, which the vocabulary of {vocab_size} does not have."
                )
            return tuple(good)
        return ()

    flags = ("force_bos_token_insert", "add_bos_token")
    begins = any(settings.get(flag) is True for _, settings in values for flag in flags)
    bos = ids("bos_token")[:1] if begins else ()
    return TextTokens(bos[0] if bos else None, ids("eos_token"), tuple(notes))


def text_files(folders: list[Path]) -> tuple[Path, ...]:
    """The files that `read_text_tokens` looks into, and the tokenizer."""
    names = (*_FILES, TOKENIZER_FILE)
    return tuple(path for name in names for folder in folders if (path := folder / name).is_file())


def _values(folders: list[Path]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    for name in _FILES:
        for path in (folder / name for folder in folders):
            if path.is_file() and isinstance(values := _read(path), Mapping):
                yield path, values
                break


def _added_tokens(folders: list[Path]) -> dict[str, int]:
    """The special tokens of a `tokenizer.json` by their text."""
    for path in (folder / TOKENIZER_FILE for folder in folders):
        if path.is_file() and isinstance(values := _read(path), Mapping):
            added = values.get("added_tokens")
            entries = [one for one in added if isinstance(one, Mapping)] if isinstance(added, list) else []
            return {str(one["content"]): one["id"] for one in entries if {"content", "id"} <= one.keys()}
    return {}


def _read(path: Path) -> object:
    """None for a file that cannot be read: whoever needs it says so."""
    try:
        text = path.read_text("utf-8")
        values = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        return resolve(values) if isinstance(values, Mapping) else None
    except Exception:  # of YAML's constructors, any: of dates, numbers, nesting
        return None


def _text_of(token: object) -> str:
    """`tokenizer_config.json` has a token as text, or as an object with `content`."""
    return str(token.get("content")) if isinstance(token, Mapping) else str(token) if isinstance(token, str) else ""
