"""A thread that pumps a batcher while there is something to do, and sleeps otherwise."""

from __future__ import annotations

import threading

from ..errors import ErrorKind, UserError
from .batcher import Batcher


class BatcherThread:
    """Runs a batcher until it is closed; a context manager."""

    def __init__(self, batcher: Batcher):
        self.batcher = batcher
        self._something = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        batcher.wake = self._something.set
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still pumps."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End every task with an error, and close the session. Repeated calls do nothing."""
        self._is_closing = True
        self._something.set()
        self._thread.join()

    def _run(self) -> None:
        reason = "The server is shutting down."
        try:
            while not self._is_closing:
                self._something.clear()
                if not self.batcher.pump():
                    self._something.wait()
        except BaseException as error:  # a fault of the batcher's own: nobody is to wait for it in vain
            reason = f"The batcher has stopped: {error!r}"
            raise
        finally:
            self.batcher.shut(UserError(ErrorKind.unavailable, reason))

    def __enter__(self) -> Batcher:
        return self.batcher

    def __exit__(self, *exception: object) -> None:
        self.close()
