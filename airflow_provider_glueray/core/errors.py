"""Everything this package raises on purpose, in one tree.

A message names the operation, the run, its last state, the likely cause, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from airflow_provider_glueray.core.runs import Outcome, RunRef, RunState, StatementError

# What can go wrong. `retryable` says whether running the same task again could help.
#
# GlueRayError
# ├── SpecError            a value breaks a rule; nothing was started
# ├── ExtraMissing         an extra of this package is not installed
# ├── ServiceError         a service refused or did not answer: `code`, `status`, `run`
# │   ├── SubmitError      the run could not be started
# │   │   ├── SourceFileError        a script, function, notebook or cell is unreadable or no Python
# │   │   ├── PackagingError         a folder, archive or module cannot be sent
# │   │   ├── StagingError           the bucket is missing or denied
# │   │   ├── ConnectionConfigError  no such Airflow connection, or a field of it is missing or wrong
# │   │   ├── JobConflict            the job's name belongs to something that is not ours to change
# │   │   ├── SessionConflict        the session's id belongs to somebody else
# │   │   ├── SessionEnded           the session is over, or was never there
# │   │   ├── ClusterEnded           the cluster is over, or was never there
# │   │   ├── AccountNotEligible     the account may not use Glue for Ray
# │   │   ├── InvalidRequest         the service does not accept a value of the request
# │   │   ├── AccessDenied           the caller lacks a right
# │   │   ├── CapacityExceeded       no capacity now; the operator waits, up to its queue timeout
# │   │   └── SubmitOutcomeUnknown   the response was lost, so the run may or may not exist
# │   └── StopError        the service refused to stop a run that is still active
# ├── ResultMissing        the run succeeded, and its result cannot be found
# └── RunFailed            the run ended, and not with success: `run`, `outcome`
#     ├── StatementFailed  the code of a statement raised an exception
#     │   └── FunctionFailed   a function on a cluster did
#     ├── RunStopped
#     ├── RunTimedOut
#     └── RunLost


class GlueRayError(Exception):
    """Root of everything this package raises on purpose."""

    retryable: ClassVar[bool] = True


class SpecError(GlueRayError, ValueError):
    """A value breaks a rule. ``problems`` lists each: the field, its value, the rule, the source of the rule."""

    retryable = False

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class ExtraMissing(GlueRayError, ImportError):
    """An extra of this package is not installed; the message names it."""

    retryable = False


class ServiceError(GlueRayError):
    """A service refused a request, or did not answer it.

    :param code: the service's own name of the error, such as ``AccessDeniedException``; "" where it gave none.
    :param status: the HTTP status; None where there was no response.
    :param run: the run that the request was about, where one is known.
    """

    def __init__(self, message: str, *, code: str = "", status: int | None = None, run: RunRef | None = None) -> None:
        super().__init__(message)
        self.code, self.status, self.run = code, status, run


class SubmitError(ServiceError):
    """The run could not be started."""


class SourceFileError(SubmitError):
    """A script, a function, a notebook or a cell cannot be read, is empty, or is not Python."""

    retryable = False


class PackagingError(SubmitError):
    """A folder, an archive or a module cannot be sent to a cluster."""

    retryable = False


class StagingError(SubmitError):
    """The staging bucket is missing or denied."""

    retryable = False


class ConnectionConfigError(SubmitError):
    """The Airflow connection is missing or incomplete, or leads to something else than it should."""

    retryable = False


class JobConflict(SubmitError):
    """The job's name belongs to a job that we must not overwrite."""

    retryable = False


class SessionConflict(SubmitError):
    """The session's id belongs to a session that somebody else has made."""

    retryable = False


class SessionEnded(SubmitError):
    """The session to use is over, or was never there."""

    retryable = False


class ClusterEnded(SubmitError):
    """The cluster to use is over, or was never there."""

    retryable = False


class AccountNotEligible(SubmitError):
    """The account or region may not use Glue for Ray."""

    retryable = False


class InvalidRequest(SubmitError):
    """The service does not accept a value of the request."""

    retryable = False


class AccessDenied(SubmitError):
    """The caller lacks a right, or a valid token."""

    retryable = False


class CapacityExceeded(SubmitError):
    """The service has no capacity now: a concurrency limit, the account's quota, or throttling."""


class SubmitOutcomeUnknown(SubmitError):
    """The response to the start request was lost; the run may exist."""


class StopError(ServiceError):
    """The service refused to stop a run."""


class ResultMissing(GlueRayError):
    """The run succeeded, and what it should have left cannot be found."""

    retryable = False


class RunFailed(GlueRayError):
    """A run ended without success. ``outcome`` holds the last snapshot and the tail of the log.

    :param url: where to look.
    :param about: lines to begin with: what the run was part of.
    """

    lead: ClassVar[str] = "failed"
    hint: ClassVar[str] = "Fix the script or its input; a retry of the task starts a new run."
    tail_title: ClassVar[str] = "The end of its log:"

    def __init__(self, outcome: Outcome, url: str = "", about: Sequence[str] = ()) -> None:
        self.outcome = outcome
        snapshot = outcome.snapshot
        self.run = snapshot.ref
        title = snapshot.ref.title
        lines = [*about, f"{title[0].upper()}{title[1:]} {self.lead} (last state {snapshot.raw_state})."]
        if snapshot.message:
            lines.append(f"The service says: {snapshot.message}")
        if outcome.tail:
            lines += [self.tail_title, *(f"  {line}" for line in outcome.tail)]
        lines.append(self.hint)
        if url:
            lines.append(f"See {url}")
        super().__init__("\n".join(lines))


class StatementFailed(RunFailed):
    """The code of a statement raised an exception: ``error_name``, ``error_value`` and ``traceback`` (lines)."""

    lead = "raised an exception"
    tail_title = "The remote traceback:"
    hint = "Fix the code or its input; a retry of the task runs it again in the same session, with what is in it."

    def __init__(self, outcome: Outcome, url: str, error: StatementError, about: Sequence[str] = ()) -> None:
        self.error_name, self.error_value, self.traceback = error
        shown = Outcome(outcome.snapshot._replace(message=""), error.traceback or (f"{error.name}: {error.value}",))
        super().__init__(shown, url, about)


class FunctionFailed(StatementFailed):
    """A function that ran on a cluster raised an exception; the members are those of ``StatementFailed``."""

    hint = "Fix the function or its arguments; a retry of the task starts a new run."


class RunStopped(RunFailed):
    """The run was stopped before it was done."""

    lead = "was stopped"
    hint = "Somebody or something asked for the stop: a person, a cleared task, or another program."


class RunTimedOut(RunFailed):
    """The run took longer than allowed and was stopped."""

    lead = "took too long"
    hint = "Raise `run_timeout`, give it more workers, or look for what it waits on."


class RunLost(RunFailed):
    """The service confirms that it does not know the run."""

    lead = "is gone"
    hint = "The job or its history was deleted, or the connection now points at another account or region."


_FAILURES: Mapping[RunState, type[RunFailed]] = {
    RunState.FAILED: RunFailed,
    RunState.STOPPED: RunStopped,
    RunState.TIMED_OUT: RunTimedOut,
    RunState.LOST: RunLost,
}


def failure_of(outcome: Outcome, url: str = "", about: Sequence[str] = ()) -> RunFailed | None:
    """Return the error that an outcome deserves, or None for the one success there is.

    A run that succeeded although our deadline had struck did its work: it is a success.
    """
    state = outcome.snapshot.state
    if state is RunState.SUCCEEDED:
        return None
    if outcome.deadline_passed and state is not RunState.LOST:
        return RunTimedOut(outcome, url, about)
    return _FAILURES.get(state, RunFailed)(outcome, url, about)


def raise_failure(outcome: Outcome, url: str = "") -> None:
    """Raise the error that an outcome deserves, if it deserves one.

    :raises RunFailed: or one of its kinds; see :func:`failure_of`.
    """
    failure = failure_of(outcome, url)
    if failure is not None:
        raise failure
