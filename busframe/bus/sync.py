"""Publishing from code without a loop: one loop thread a process, made anew after a fork."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from busframe.bus.opened import OpenBus
from busframe.errors import ConfigurationError
from busframe.handling.context import SyncPublisher
from busframe.handling.outlet import Outlet
from busframe.handling.publisher import Publisher

R = TypeVar("R")

CLOSE_TIMEOUT_S = 10.0


class _LoopThread:
    """The event loop of a process for code that has none."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pid = os.getpid()
        # A daemon, because the interpreter waits for other threads before it runs what is registered at exit.
        self._thread = threading.Thread(target=self.loop.run_forever, name="busframe sync", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        if threading.current_thread() is self._thread:  # middleware or an observer of this very publish
            work.close()
            raise ConfigurationError(
                "bus.sync() is called on its own event loop, which it would wait for: await instead"
            )
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


_lock = threading.Lock()
_thread: _LoopThread | None = None


def _loop_thread() -> _LoopThread:
    global _thread
    with _lock:
        if _thread is None or _thread.pid != os.getpid():
            _thread = _LoopThread()
        return _thread


def _after_fork() -> None:
    global _lock, _thread
    _lock, _thread = threading.Lock(), None  # the parent's lock may be held, and its thread is not here


os.register_at_fork(after_in_child=_after_fork)


class _Opened(Publisher):
    def __init__(self, opened: OpenBus) -> None:
        self.opened = opened

    def _outlet(self) -> Outlet:
        return self.opened.outlet


class LoopThreadPublisher(SyncPublisher):
    """Publishes on the process's loop thread; may be used from many threads at once."""

    def __init__(self, open_bus: Callable[[], Coroutine[Any, Any, OpenBus]]) -> None:
        self._open_bus = open_bus
        self._lock = threading.Lock()
        self._publisher: _Opened | None = None
        self._pid = 0

    def _connected(self) -> _Opened:
        with _lock:
            if self._pid != os.getpid():  # the parent's connection and lock are the parent's
                self._lock, self._publisher, self._pid = threading.Lock(), None, os.getpid()
                atexit.register(self.close)
        with self._lock:
            if self._publisher is None:
                self._publisher = _Opened(_loop_thread().run(self._open_bus()))
            return self._publisher

    def _run(self, work: Callable[[Publisher], Coroutine[Any, Any, R]], /) -> R:
        publisher = self._connected()
        return _loop_thread().run(work(publisher))

    def close(self) -> None:
        """Disconnect; what was published is confirmed already. It may be used again, and connects anew."""
        if self._pid != os.getpid():
            return
        with self._lock:
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            asyncio.run_coroutine_threadsafe(publisher.opened.close(), _loop_thread().loop).result(CLOSE_TIMEOUT_S)
