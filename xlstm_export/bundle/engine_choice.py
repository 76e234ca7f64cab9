"""Which engine runs a bundle: the one rule of FORMAT.md ("Which engine is run"), as the C++ library has it too."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ErrorKind, UserError
from .engine_record import FOLDER, EngineRecord, EngineRuntime, read_record


@dataclass(frozen=True)
class Engine:
    """An engine's file, and what its sidecar says of it."""

    path: Path
    record: EngineRecord


@dataclass(frozen=True)
class Wanted:
    """What an engine has to fit."""

    bundle: Path
    fits_bundle: Callable[[EngineRecord], bool]
    """Whether an engine was built from the bundle as it is now."""
    runtime: EngineRuntime
    batch: int | None
    """None: not known yet."""
    major_version: int | None
    """Of the runtime that is here. None: not known."""

    def misfit(self, engine: Engine) -> UserError | None:
        """Why an engine with a good sidecar does not fit."""
        record, name = engine.record, engine.path.name
        low, _, high = record.batch
        if record.runtime != self.runtime:
            reason = f"is an engine for {record.runtime}, not for {self.runtime}"
            return self._error(ErrorKind.unavailable, f"{name} {reason}")
        if self.major_version not in (None, record.major_version) and not record.options.version_compatible:
            reason = f"was built by {record.runtime} {record.runtime_version}, and version {self.major_version} is here"
            return self._error(ErrorKind.unavailable, f"{name} {reason}")
        if self.batch is not None and not low <= self.batch <= high:
            return self._error(ErrorKind.argument, f"{name} takes batches {low} to {high}, not {self.batch}")
        if not self.fits_bundle(record):
            reason = f"was built from another export than the one in {self.bundle}"
            return self._error(ErrorKind.bundle, f"{name} {reason}")
        return None

    def absent(self) -> UserError:
        return self._error(ErrorKind.unavailable, f"{self.bundle} holds no engine for {self.runtime}")

    def _error(self, kind: ErrorKind, what: str) -> UserError:
        build = f"Build one with `xlstm-export build {self.bundle} --runtime {self.runtime}`."
        return UserError(kind, f"{what}. {build}")


def engine_files(bundle: Path) -> list[Path]:
    """The engines of a bundle, newest first."""
    files = (path for path in (bundle / FOLDER).glob("*.engine") if path.is_file())
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, os.fsencode(path.name)), reverse=True)


def choose_engine(wanted: Wanted, named: Path | None) -> Engine:
    """The engine that the user named, or else the newest that fits.

    Raises:
        UserError: there is none; says what is wrong with the one that comes closest.
    """
    if named is not None:
        engine = Engine(named, read_record(named))
        if problem := wanted.misfit(engine):
            raise problem
        return engine
    unreadable: list[UserError] = []
    misfits: list[UserError] = []
    for path in engine_files(wanted.bundle):
        try:
            engine = Engine(path, read_record(path))
        except UserError as error:
            unreadable.append(error)
            continue
        if (problem := wanted.misfit(engine)) is None:
            return engine
        if engine.record.runtime == wanted.runtime:
            misfits.append(problem)
    raise [*misfits, *unreadable, wanted.absent()][0]
