"""One poll for many runs: whoever waits in the same event loop on the same connection shares its calls.

 All waiters of one job on Glue, or of one cluster elsewhere, are answered by one
``describe``, and their logs are read together; the backend is built once, in a thread, and its blocking calls never
touch the event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_glueray.core.backend import RunBackend
from airflow_provider_glueray.core.errors import AccessDenied, ConnectionConfigError, GlueRayError
from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot

T = TypeVar("T")

#: Seconds to wait for others who ask the same at the same moment.
BATCH_WINDOW_SECONDS = 0.02
#: Blocking calls under way at once for one connection, by what they do: more would only run into the service's
#: throttling, and a stop waits neither for polls nor for logs that nobody answers.
THREADS = {"poll": 4, "log": 3, "stop": 4}
#: Seconds for which a backend is kept whatever the service refuses: what may not be read is refused again and again.
RENEW_SECONDS = 30.0


@dataclass(slots=True)
class _Waiter:
    """One who waits for a run.

    `due` is when to poll for it, `ready` from when on a poll that somebody else was due for will do.
    """

    ref: RunRef
    earliest: float
    deadline: float
    last_raw_state: str
    future: asyncio.Future[RunSnapshot | Exception]


@dataclass(slots=True)
class _Group:
    """Everybody who waits for runs that one call describes."""

    waiters: list[_Waiter] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


#: What a read of a group's logs is asked for so far, and the read itself: the parts in which the runs are read.
_Reading = tuple[dict[RunRef, LogCursor], "asyncio.Task[dict[RunRef, asyncio.Task[Mapping[RunRef, LogPage]]]]"]


#: Runs a blocking call in one of an executor's threads.
InThread = Callable[[ThreadPoolExecutor, Callable[[], Any]], Awaitable[Any]]


async def _in_thread(threads: ThreadPoolExecutor, function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, function)


class Watcher:
    """The shared poll of one connection in one event loop. Get one from :func:`watching`."""

    def __init__(self, make_backend: Callable[[], RunBackend], in_thread: InThread) -> None:
        self._make_backend, self._in_thread = make_backend, in_thread
        self._backend: RunBackend | None = None
        self._made_at = 0.0
        self._backend_lock = threading.Lock()
        self._threads = {
            name: ThreadPoolExecutor(count, thread_name_prefix=f"glueray-watcher-{name}")
            for name, count in THREADS.items()
        }
        self._groups: dict[str, _Group] = {}
        self._reads: dict[tuple[str, tuple[str, ...]], _Reading] = {}

    async def call(self, function: Callable[[RunBackend], T], kind: str = "poll") -> T:
        """Run a blocking call on the backend in a thread of its kind.

        After a refusal a backend that is not new is made anew for the next call: the connection may have got other
        credentials.
        """
        try:
            return await self._in_thread(self._threads[kind], lambda: function(self._the_backend()))  # type: ignore[no-any-return]
        except GlueRayError as error:
            if _is_refusal(error) and time.monotonic() - self._made_at >= RENEW_SECONDS:
                self._backend = None
            raise

    async def stop(self, ref: RunRef) -> None:
        """Ask the service to stop a run, whatever else is asked at the moment; once more with new credentials."""
        try:
            await self.call(lambda backend: backend.stop(ref), "stop")
        except GlueRayError as error:
            if not _is_refusal(error):
                raise
            self._backend = None
            await self.call(lambda backend: backend.stop(ref), "stop")

    def _the_backend(self) -> RunBackend:
        with self._backend_lock:
            if self._backend is None:
                self._backend, self._made_at = self._make_backend(), time.monotonic()
            return self._backend

    async def pause(self, seconds: float) -> None:
        """Sleep without holding anything up."""
        await asyncio.sleep(seconds)

    async def observe(self, ref: RunRef, after: float, last_raw_state: str) -> RunSnapshot:
        """Return a snapshot taken ``after`` seconds from now, or earlier if a shared poll sees a new state.

        Also earlier if somebody else's poll comes in the second half of the wait: so those who began at
        different moments fall into step, and many go on to cost what one does.

        :param last_raw_state: the one that the caller has seen last.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiter = _Waiter(ref, now + after / 2, now + after, last_raw_state, loop.create_future())
        group = self._groups.setdefault(ref.poll_group, _Group())
        group.waiters.append(waiter)
        group.wake.set()
        if group.task is None:
            group.task = loop.create_task(self._poll(ref.poll_group, group))
        answer = await waiter.future
        # An exception is handed over as a value: raising one object in many tasks would grow its traceback.
        if isinstance(answer, Exception):
            raise PollFailedError(str(answer)) from answer
        return answer

    async def _poll(self, name: str, group: _Group) -> None:
        loop = asyncio.get_running_loop()
        while group.waiters:
            group.wake.clear()
            delay = min(waiter.deadline for waiter in group.waiters) - loop.time()
            if delay > 0:
                try:
                    await asyncio.wait_for(group.wake.wait(), delay)
                except asyncio.TimeoutError:
                    pass
                else:
                    continue
            await asyncio.sleep(BATCH_WINDOW_SECONDS)
            refs = {waiter.ref for waiter in group.waiters if not waiter.future.done()}
            self._answer(group, await self._describe(refs), loop.time())
        del self._groups[name]

    async def _describe(self, refs: set[RunRef]) -> Mapping[RunRef, RunSnapshot | Exception]:
        try:
            return await self.call(lambda backend: backend.describe(refs)) if refs else {}
        except Exception as error:
            return dict.fromkeys(refs, error)

    def _answer(self, group: _Group, seen: Mapping[RunRef, RunSnapshot | Exception], now: float) -> None:
        for waiter in group.waiters:
            answer = seen.get(waiter.ref)
            if answer is None or waiter.future.done():
                continue
            changed = isinstance(answer, RunSnapshot) and answer.raw_state != waiter.last_raw_state
            if changed or waiter.earliest <= now:
                waiter.future.set_result(answer)
        group.waiters = [waiter for waiter in group.waiters if not waiter.future.done()]

    async def read_logs(self, ref: RunRef, cursor: LogCursor, sources: tuple[str, ...]) -> LogPage:
        """Return what is new in a run's logs; reads of one group that are asked for together are made together."""
        key = (ref.poll_group, sources)
        if key not in self._reads:
            cursors: dict[RunRef, LogCursor] = {}
            self._reads[key] = (cursors, asyncio.create_task(self._read(key, cursors)))
        cursors, task = self._reads[key]
        if cursors.setdefault(ref, cursor) is not cursor:
            # Two follow the same run from different positions in its log: no sharing then.
            pages = await self._pages({ref: cursor}, sources)
        else:
            parts = await asyncio.shield(task)
            pages = await asyncio.shield(parts[ref])
        return pages[ref]

    async def _read(
        self, key: tuple[str, tuple[str, ...]], cursors: dict[RunRef, LogCursor]
    ) -> dict[RunRef, asyncio.Task[Mapping[RunRef, LogPage]]]:
        await asyncio.sleep(BATCH_WINDOW_SECONDS)
        del self._reads[key]
        refs = list(cursors)
        # Where each log is a call of its own, some are read beside others.
        count = THREADS["log"] if refs[0].is_listed_together else 1
        parts: dict[RunRef, asyncio.Task[Mapping[RunRef, LogPage]]] = {}
        for part in filter(None, (refs[first::count] for first in range(count))):
            task = asyncio.create_task(self._pages({ref: cursors[ref] for ref in part}, key[1]))
            parts |= dict.fromkeys(part, task)
        return parts

    async def _pages(self, cursors: Mapping[RunRef, LogCursor], sources: tuple[str, ...]) -> Mapping[RunRef, LogPage]:
        return await self.call(lambda backend: backend.read_logs(cursors, sources), "log")

    def close(self) -> None:
        """Let the threads go."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        for group in self._groups.values():
            if group.task is not None:
                group.task.cancel()


def _is_refusal(error: BaseException | None) -> bool:
    """Tell whether the service does not know who asks, or does not let him."""
    return error is not None and (
        isinstance(error, (AccessDenied, ConnectionConfigError)) or _is_refusal(error.__cause__)
    )


class PollFailedError(Exception):
    """A shared poll failed; the cause is the backend's own exception."""


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, tuple[Watcher, int]]] = WeakKeyDictionary()


@asynccontextmanager
async def watching(
    key: Hashable, make_backend: Callable[[], RunBackend], in_thread: InThread = _in_thread
) -> AsyncIterator[Watcher]:
    """Share a watcher with everybody in this event loop who gives the same key; the last one closes it.

    :param key: everything that decides which service and which credentials the backend talks to.
    :param in_thread: runs the backend's blocking calls, which may ask Airflow for a connection.
    """
    here = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher, users = here.get(key) or (Watcher(make_backend, in_thread), 0)
    here[key] = (watcher, users + 1)
    try:
        yield watcher
    finally:
        watcher, users = here[key]
        here[key] = (watcher, users - 1)
        if users == 1:
            del here[key]
            watcher.close()
