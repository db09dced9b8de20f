"""Where virtual clients run: in this process, or in a pool of worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from types import ModuleType
from typing import Any, Protocol

from ..errors import UmbelError
from ..learning.progress import listen, listening
from .site import Site, SiteSettings

_WAIT_SECONDS = 0.2
_main_module = threading.RLock()


class Workers(Protocol):
    """Calls methods of a ``Site`` somewhere and hands back what they return, as it comes."""

    def submit(self, key: str, method: str, *arguments: Any, **named: Any) -> None:
        """Queue a call; `key` names its result."""

    def collect(self) -> Iterator[tuple[str, Any]]:
        """Results that are there, waiting a moment for the first; an exception stands for itself.

        Raises ``UmbelError`` if a process has died. That is not an answer of the client whose call it
        ran: a round could be closed without this client, and a resumed run would differ.
        """

    def forget(self) -> None:
        """Drop calls that have not begun. Those that have still yield a result."""

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call at once, and wait."""

    def close(self) -> None: ...

    def hear(self, callback: Callable[[int], None]) -> None:
        """Let `callback` hear of each few records that are done, while results are collected."""


class Inline:
    """Everything in this process, one call at a time."""

    def __init__(self, settings: SiteSettings) -> None:
        self._site = Site(settings)
        self._queue: dict[str, Callable[[], Any]] = {}
        self._heard: Callable[[int], None] | None = None

    def submit(self, key: str, method: str, *arguments: Any, **named: Any) -> None:
        self._queue[key] = lambda: self.call(method, *arguments, **named)

    def collect(self) -> Iterator[tuple[str, Any]]:
        if self._queue:
            key = next(iter(self._queue))
            yield key, self._queue.pop(key)()

    def forget(self) -> None:
        self._queue.clear()

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        with listening(self._heard):
            return getattr(self._site, method)(*arguments, **named)

    def close(self) -> None:
        self._queue.clear()

    def hear(self, callback: Callable[[int], None]) -> None:
        self._heard = callback


class Pool:
    """`count` processes, each with its own site; a call goes to whichever is free."""

    def __init__(self, settings: SiteSettings, count: int) -> None:
        # A fork server imports the heavy libraries once; its children share those pages.
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload([__name__, "peft", "transformers.modeling_utils"])
            _start_fork_server()
        self._done, self._told = context.Value("q", 0), 0
        self._heard: Callable[[int], None] = lambda count: None
        self._executor = ProcessPoolExecutor(
            count,
            context,
            _become_site,
            (settings, context.Value("i", 0), self._done, dict(os.environ)),
        )
        self._futures: dict[Future[Any], str] = {}

    def submit(self, key: str, method: str, *arguments: Any, **named: Any) -> None:
        self._futures[self._submitted(method, arguments, named)] = key

    def collect(self) -> Iterator[tuple[str, Any]]:
        done, _ = wait(self._futures, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
        count = self._done.value - self._told
        if count:
            self._told += count
            self._heard(count)
        for future in done:
            key = self._futures.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise _died() from None
            yield key, future.result() if error is None else error

    def forget(self) -> None:
        self._futures = {
            future: key for future, key in self._futures.items() if not future.cancel()
        }

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return self._submitted(method, arguments, named).result()
        except BrokenProcessPool:
            raise _died() from None

    def _submitted(
        self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Future[Any]:
        try:
            with _without_script():  # a call may start a process
                return self._executor.submit(_call_site, method, arguments, named)
        except BrokenProcessPool:
            raise _died() from None

    def close(self) -> None:
        for process in list((self._executor._processes or {}).values()):
            process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def hear(self, callback: Callable[[int], None]) -> None:
        self._heard = callback


def start_workers(settings: SiteSettings, count: int) -> contextlib.closing[Workers]:
    """One process needs no pool."""
    return contextlib.closing(Inline(settings) if count == 1 else Pool(settings, count))


def default_workers(clients: int) -> int:
    """A worker a GPU, otherwise a worker a core; never more than clients."""
    import torch

    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(clients, gpus or cores or 1))


def _start_fork_server() -> None:
    """Let it and all its children be deaf to Ctrl-C from their first instant.

    A terminal sends it to all processes at once, and the parent alone decides when a run stops.
    A blocked signal is inherited; a handler of a worker's own would come too late.
    """
    import signal
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # first, because starting it lifts the block
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _without_script():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)


@contextlib.contextmanager
def _without_script() -> Iterator[None]:
    """Let processes that are started meanwhile not run the caller's script.

    ``multiprocessing`` would, to find there what the script defines. A worker needs nothing of it, and a
    script without ``if __name__ == "__main__"`` would begin its whole work again in each worker. One thread
    at a time: of two that overlap, the later one would put back the other's empty module.
    """
    with _main_module:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


def _died() -> UmbelError:
    return UmbelError(
        "A worker process died (out of memory?). Use fewer --workers or a smaller "
        "training.microbatch; finished rounds are kept; resume with --resume."
    )


_site: Site | None = None


def _become_site(
    settings: SiteSettings, counter: Any, done: Any, environment: dict[str, str]
) -> None:
    """Start of a worker: its number picks its GPU, and it ends when its parent does.

    Its environment would be that of the fork server's first start; the caller's may have changed since.
    """
    global _site
    os.environ.clear()
    os.environ.update(environment)
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a run stops
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    _site = Site(settings)

    def add(count: int) -> None:
        with done.get_lock():
            done.value += count

    listen(add)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _call_site(method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if _site is None:
        raise UmbelError("The worker was not started as a site.")
    return getattr(_site, method)(*arguments, **named)
