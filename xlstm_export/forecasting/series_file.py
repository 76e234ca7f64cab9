"""Series out of a CSV file: a column each, a row a point."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ErrorKind, UserError

MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
"""What stands for a missing value, in any case."""
_DELIMITERS = ",;\t"


def read_columns(path: Path, columns: Sequence[str]) -> list[np.ndarray]:
    """The columns of these names as series in float64, NaN where a value is missing.

    The first line names the columns. Values are apart by commas, semicolons or tabs, whichever the first line has most
    of; where that is no comma, a number may have one in place of its point. A file called `-` is standard input.

    Raises:
        UserError: the file cannot be read, has no such column, or holds something that is no number; says the line.
    """
    lines = _lines(path)
    if not lines:
        raise UserError(ErrorKind.argument, f"{path} is empty. Give a CSV file whose first line names its columns.")
    delimiter = max(_DELIMITERS, key=lines[0].count)
    table = csv.reader(lines, delimiter=delimiter)
    names = [name.strip() for name in next(table)]
    places = [_place(path, names, column) for column in columns]
    series: list[list[float]] = [[] for _ in columns]
    for row in table:
        for values, place in zip(series, places, strict=True):
            text = row[place].strip() if place < len(row) else ""
            if row:  # an empty line is no point
                values.append(_number(path, table.line_num, names[place], text, delimiter))
    return [np.array(values) for values in series]


def parse_levels(text: str) -> tuple[float, ...]:
    """`0.1,0.5,0.9` as numbers."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UserError(ErrorKind.argument, f"--quantiles is {text!r}: give numbers such as 0.1,0.5,0.9.") from None


def _lines(path: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(ErrorKind.argument, f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(ErrorKind.argument, f"{path} is not a text in UTF-8. Save it as one.") from None
    return text.splitlines()


def _place(path: Path, names: list[str], column: str) -> int:
    if names.count(column) != 1:
        there = "several columns" if column in names else "no column"
        raise UserError(ErrorKind.argument, f"{path} has {there} {column!r}. Its first line names {', '.join(names)}.")
    return names.index(column)


def _number(path: Path, line: int, name: str, text: str, delimiter: str) -> float:
    if text.lower() in MISSING:
        return math.nan
    try:
        return float(text if delimiter == "," else text.replace(",", "."))
    except ValueError:
        raise UserError(
            ErrorKind.argument,
            f"{path}, line {line}: {name} is {text!r}, which is no number. Leave a missing value empty.",
        ) from None
