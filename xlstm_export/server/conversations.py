"""Saved states in a folder, so that a conversation outlives the process that it began in.

A state is written once, under a new name, and never changed: any replica, here or on another machine with the same
folder, goes on from it; a request that was cut off is sent again; two may go on from one.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path

from ..bundle.state_file import write_states
from ..errors import ErrorKind, UserError

_NAME = re.compile(r"state-[0-9a-f]{32}")
_CACHED_BYTES = 64 << 20
"""Of the newest states (one at least), which are in memory too: a conversation stays with its replica."""
_BETWEEN_SWEEPS = 600
"""Seconds."""


class Conversations:
    """The states of conversations, by name. May be used from any thread.

    Args:
        folder: of state files (FORMAT.md), made where it is not there.
        keep_seconds: after which a state that nobody went on from is removed.
    """

    def __init__(self, folder: Path, keep_seconds: float):
        self._folder, self._keep_seconds = folder, keep_seconds
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._swept = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(ErrorKind.argument, f"{folder} cannot be made: {error.strerror}.") from None

    def save(self, state: bytes) -> str:
        """Keep a state; returns its name. It is on the disk then, whole.

        Raises:
            UserError: the folder cannot be written to.
        """
        name = f"state-{secrets.token_hex(16)}"
        write_states(self._path(name), state)
        self._remember(name, state)
        self._sweep()
        return name

    def load(self, name: str) -> bytes:
        """A state by its name.

        Raises:
            UserError: of kind `state`: there is none of this name, or it cannot be read.
        """
        if not _NAME.fullmatch(name):
            raise UserError(ErrorKind.state, f"{name!r} is not the name of a state.")
        path = self._path(name)
        try:
            os.utime(path)  # used: it is kept
            with self._lock:
                state = self._recent.get(name)
            if state is None:
                state = path.read_bytes()
        except OSError as error:
            why = "it was never here, or nobody went on from it for too long" if not path.exists() else error.strerror
            raise UserError(ErrorKind.state, f"The state {name} cannot be read: {why}.") from None
        self._remember(name, state)
        return state

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.xlstm"

    def _remember(self, name: str, state: bytes) -> None:
        with self._lock:
            self._recent[name] = state
            self._recent.move_to_end(name)
            while len(self._recent) > 1 and sum(map(len, self._recent.values())) > _CACHED_BYTES:
                self._recent.popitem(last=False)

    def _sweep(self) -> None:
        """Remove what is too old. Every replica does; what another has removed already is no matter."""
        now = time.time()
        with self._lock:
            if now - self._swept < _BETWEEN_SWEEPS:
                return
            self._swept = now
        for path in self._folder.glob("*state-*.xlstm"):  # halves of a writer that was killed too
            try:
                if now - path.stat().st_mtime > self._keep_seconds:
                    path.unlink()
            except OSError:
                continue
