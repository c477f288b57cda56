"""One poll for many runs, shown with a counter instead of a clock."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from airflow_provider_glueray.core import watcher as watcher_module
from airflow_provider_glueray.core.errors import AccessDenied, ConnectionConfigError, StopError
from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogPage
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.watcher import THREADS, PollFailedError, watching
from tests.contract.scripts import Clock
from tests.runner import run_on


def ref(number: int, name: str = "nightly", backend: str = "glue-job") -> RunRef:
    """Return the reference of a run."""
    return RunRef(backend, name, f"jr_{number}")


class Backend:
    """A service that counts its calls and knows every run as RUNNING until told otherwise."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.calls: Counter[str] = Counter()
        self.threads: set[str] = set()
        self.raw: dict[RunRef, str] = {}
        self.error: Exception | None = None

    def describe(self, refs):
        self.calls["describe"] += 1
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        return {each: RunSnapshot(each, RunState.RUNNING, self.raw.get(each, "RUNNING")) for each in refs}

    def read_logs(self, cursors, sources):
        self.calls["read_logs"] += 1
        return {each: LogPage([LogLine("script", each.id)], cursor) for each, cursor in cursors.items()}

    def stop(self, each):
        self.calls["stop"] += 1


def with_watcher(use, clock=None):
    """Run an async test with a watcher and its backend, on a clock of the test if there is one."""
    Backend.made = 0
    backend: list[Backend] = []

    def make() -> Backend:
        backend.append(Backend())
        return backend[-1]

    async def run():
        async with watching("key", make) as watcher:
            return await use(watcher, lambda: backend[-1])

    return run_on(clock, run())


def test_two_hundred_waiters_cost_the_calls_of_one():
    """However many wait for runs of one job, a look is one call, and so is a read."""

    async def use(watcher, backend):
        refs = [ref(i) for i in range(200)]
        seen = await asyncio.gather(*(watcher.observe(each, 0, "") for each in refs))
        pages = await asyncio.gather(*(watcher.read_logs(each, LogCursor(), ("script",)) for each in refs))
        return refs, seen, pages, backend().calls

    refs, seen, pages, calls = with_watcher(use)
    assert [snapshot.ref for snapshot in seen] == refs
    assert [page.lines[0].text for page in pages] == [each.id for each in refs]
    assert calls == {"describe": 1, "read_logs": 1}


@pytest.mark.parametrize("kind", ["glue-job", "glue-session", "glue-statement"])
def test_another_job_is_another_call(kind):
    """Runs of different jobs cannot share a poll: Glue lists runs by job."""

    async def use(watcher, backend):
        refs = [ref(1, backend=kind), ref(2, "other", kind)]
        await asyncio.gather(*(watcher.observe(each, 0, "") for each in refs))
        await asyncio.gather(*(watcher.read_logs(each, LogCursor(), ("script",)) for each in refs))
        return backend().calls

    assert with_watcher(use) == {"describe": 2, "read_logs": 2}


@pytest.mark.parametrize("kind", ["ray-job", "kuberay-job"])
def test_all_jobs_of_a_cluster_are_one_call(kind):
    """A cluster lists its runs whatever they belong to; logs are read by all threads but one, which is for polls."""

    async def use(watcher, backend):
        refs = [ref(i, f"job-{i}", kind) for i in range(200)]
        seen = await asyncio.gather(*(watcher.observe(each, 0, "") for each in refs))
        pages = await asyncio.gather(*(watcher.read_logs(each, LogCursor(), ("script",)) for each in refs))
        return refs, seen, pages, backend().calls

    refs, seen, pages, calls = with_watcher(use)
    assert [snapshot.ref for snapshot in seen] == refs
    assert [page.lines[0].text for page in pages] == [each.id for each in refs]
    assert calls == {"describe": 1, "read_logs": THREADS["log"]}


def test_a_slow_log_holds_up_neither_other_logs_nor_polls():
    """It is in one thread; those that are read in another have their lines, and a poll has its answer."""
    go_on = threading.Event()

    async def use(watcher, backend):
        refs = [ref(i, f"job-{i}", "ray-job") for i in range(THREADS["log"])]
        await watcher.observe(refs[0], 0, "")
        read = backend().read_logs

        def slowly(cursors, sources):
            if refs[0] in cursors:
                assert go_on.wait(120)
            return read(cursors, sources)

        backend().read_logs = slowly
        slow, *others = (asyncio.create_task(watcher.read_logs(each, LogCursor(), ("script",))) for each in refs)
        await asyncio.wait_for(asyncio.gather(*others), 60)
        await asyncio.wait_for(watcher.observe(refs[0], 0, ""), 60)
        assert not slow.done()
        go_on.set()
        return await slow

    assert with_watcher(use).lines[0].text == "jr_0"


def test_news_reaches_those_who_are_not_due_yet():
    """A shared poll that sees a new state tells whoever waits for that run, not only who asked for the poll."""

    async def use(watcher, backend):
        patient = asyncio.create_task(watcher.observe(ref(1), 3600, "RUNNING"))
        await watcher.observe(ref(2), 0, "RUNNING")
        assert not patient.done()
        backend().raw[ref(1)] = "SUCCEEDED"
        await watcher.observe(ref(2), 0, "RUNNING")
        return await asyncio.wait_for(patient, 60), backend().calls

    snapshot, calls = with_watcher(use)
    assert snapshot.raw_state == "SUCCEEDED"
    assert calls == {"describe": 2}


def test_an_error_reaches_everybody_who_is_due_and_nobody_else():
    """A failed poll is an answer, not the end of the poll."""

    async def use(watcher, backend):
        await watcher.observe(ref(0), 0, "")
        backend().error = OSError("no route")
        patient = asyncio.create_task(watcher.observe(ref(3), 3600, "RUNNING"))
        answers = await asyncio.gather(*(watcher.observe(ref(i), 0, "RUNNING") for i in (1, 2)), return_exceptions=True)
        assert not patient.done()
        patient.cancel()
        backend().error = None
        return answers, await watcher.observe(ref(1), 0, "RUNNING")

    answers, after = with_watcher(use)
    assert ["no route" in str(answer) for answer in answers] == [True, True]
    assert answers[0] is not answers[1]
    assert after.raw_state == "RUNNING"


def test_a_stop_waits_for_nothing_else():
    """Neither for polls nor for logs that nobody answers, however many there are."""
    go_on = threading.Event()
    stopped = []

    async def use(watcher, backend):
        await watcher.observe(ref(0), 0, "")
        describe, read = backend().describe, backend().read_logs
        backend().describe = lambda refs: go_on.wait(120) and describe(refs)
        backend().read_logs = lambda cursors, sources: go_on.wait(120) and read(cursors, sources)
        backend().stop = stopped.append
        refs = [ref(i, f"job-{i}") for i in range(50)]
        waiting = [asyncio.create_task(watcher.observe(each, 0, "")) for each in refs]
        waiting += [asyncio.create_task(watcher.read_logs(each, LogCursor(), ("script",))) for each in refs]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(watcher.stop(refs[0]), 60)
        assert not any(task.done() for task in waiting)
        go_on.set()
        await asyncio.gather(*waiting)

    with_watcher(use)
    assert stopped == [ref(0, "job-0")]


def test_the_backend_is_made_once_and_off_the_loop():
    """Making a client takes long enough to stall every trigger in the process."""

    async def use(watcher, backend):
        await asyncio.gather(*(watcher.observe(ref(1, f"job-{i}"), 0, "") for i in range(8)))
        return backend().threads

    threads = with_watcher(use)
    assert Backend.made == 1
    assert all(name.startswith("glueray-watcher") for name in threads)


@pytest.mark.parametrize("refusal", [AccessDenied, ConnectionConfigError])
def test_other_credentials_are_picked_up(refusal, monkeypatch):
    """By the next poll after a refusal, and by the stop that is refused itself; its cause counts as well."""
    monkeypatch.setattr(watcher_module, "RENEW_SECONDS", 0.0)

    def refuse(*_):
        raise refusal("the token has expired")

    def refuse_stop(*_):
        try:
            refuse()
        except refusal as error:
            raise StopError("it was not stopped") from error

    async def use(watcher, backend):
        await watcher.observe(ref(0), 0, "")
        backend().describe = refuse
        with pytest.raises(PollFailedError):
            await watcher.observe(ref(0), 0, "")
        await watcher.observe(ref(0), 0, "")
        backend().stop = refuse_stop
        await watcher.stop(ref(0))
        return backend().calls["stop"]

    assert with_watcher(use) == 1
    assert Backend.made == 3


def test_what_is_refused_again_and_again_makes_no_new_backend_each_time():
    """Such as a log that may not be read: a client takes long to make."""

    def refuse(*_):
        raise AccessDenied("not these logs")

    async def use(watcher, backend):
        await watcher.observe(ref(0), 0, "")
        backend().read_logs = refuse
        for _ in range(20):
            with pytest.raises(AccessDenied):
                await watcher.read_logs(ref(0), LogCursor(), ("script",))

    with_watcher(use)
    assert Backend.made == 1


def test_the_last_one_out_closes_and_the_next_one_starts_afresh():
    """Credentials and clients do not outlive those who use them."""
    Backend.made = 0

    async def once():
        async with watching("key", Backend) as watcher, watching("key", Backend) as same:
            assert watcher is same
            await watcher.observe(ref(1), 0, "")

    async def twice():
        await once()
        await once()

    asyncio.run(twice())
    assert Backend.made == 2


def test_a_waiter_that_gives_up_does_not_hold_the_others():
    """A cancelled trigger is forgotten."""

    async def use(watcher, backend):
        gone = asyncio.create_task(watcher.observe(ref(1), 0.05, "RUNNING"))
        await asyncio.sleep(0)
        gone.cancel()
        return await watcher.observe(ref(2), 0.1, "RUNNING")

    assert with_watcher(use).ref == ref(2)


def test_two_readers_of_one_run_do_not_share_a_cursor():
    """Each gets the log from where it stands."""

    async def use(watcher, backend):
        first, second = await asyncio.gather(
            watcher.read_logs(ref(1), LogCursor(1), ("script",)), watcher.read_logs(ref(1), LogCursor(2), ("script",))
        )
        return first.cursor, second.cursor

    assert with_watcher(use) == (LogCursor(1), LogCursor(2))


def test_errors_of_calls_are_the_callers_own():
    """A stop that fails says so to whoever asked for it."""

    async def use(watcher, backend):
        def fail(backend):
            raise OSError("refused")

        with pytest.raises(OSError, match="refused"):
            await watcher.call(fail)

    with_watcher(use)


def test_those_who_began_at_different_moments_fall_into_step():
    """A poll in the second half of one's wait will do, so a crowd goes on to cost what one does."""

    async def follow(watcher, number, looks):
        await asyncio.sleep(number * 0.01)
        for _ in range(looks):
            await watcher.observe(ref(number), 0.4, "RUNNING")

    async def use(watcher, backend):
        await asyncio.gather(*(follow(watcher, number, 5) for number in range(20)))
        return backend().calls["describe"]

    # Each for itself would be 100; in step it is the five of one, and a few until they are.
    assert with_watcher(use, Clock()) <= 12
