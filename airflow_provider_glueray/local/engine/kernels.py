"""Run one Jupyter kernel: start it, send it code, receive its messages, interrupt it, end it.

This module imports nothing of Glue. The kernel is a process session of its own (see `processes`) and listens on Unix
sockets in a directory that only the owner can enter, so no other user of the machine can run code through it. Only one
thread may use a kernel.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from airflow_provider_glueray.local.runtime import processes

#: stdout and stderr become one stream, since two streams lose their order; the second line is for child processes.
_ONE_STREAM = ["__import__('sys').stderr = __import__('sys').stdout", "__import__('os').dup2(1, 2);"]
_OPTIONS = (
    "--InteractiveShell.colors=nocolor",
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.exec_PYTHONSTARTUP=False",
    f"--IPKernelApp.exec_lines={json.dumps(_ONE_STREAM)}",
)
#: A busy kernel gets another interrupt after so many seconds, since one that comes too early has no effect.
_INTERRUPT_RETRY_SECONDS = 2.0
#: One call receives at most so many messages, so that a client can cancel code that never stops printing.
_MAX_MESSAGES = 500
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Execution:
    """One piece of code that the kernel runs, and its output so far."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.printed: list[str] = []  # joined once: it may be tens of megabytes
        self.value = ""
        self.reply: Mapping[str, Any] = {}
        self.started = False
        self.interrupted = 0.0
        #: Requests that were sent after the code. A kernel replies in order, so a reply to one of them shows that the
        #: code has ended, also if an interrupt came at a moment when the kernel could not send the code's own reply.
        self.probes: set[str] = set()
        self._idle = self.probe_replied = False

    @property
    def finished(self) -> bool:
        """Whether the kernel has sent the last message about this code."""
        return self.probe_replied or (self._idle and bool(self.reply))

    def add_message(self, kind: str, content: Mapping[str, Any]) -> str:
        """Store one message about this code and return the text that a terminal would show."""
        match kind:
            case "stream":
                self.printed.append(content["text"])
                return str(content["text"])
            case "display_data":
                self.printed.append(content["data"].get("text/plain", "") + "\n")
                return self.printed[-1]
            case "execute_result":
                self.value = content["data"].get("text/plain", "")
                return f"{self.value}\n"
            case "error":
                return "".join(f"{line}\n" for line in plain_lines(content["traceback"]))
            case "execute_input":
                self.started = True
            case "status" if content["execution_state"] == "idle":
                self._idle = True
        return ""


class Kernel:
    """A kernel process. `on_output` gets all of its output, live, also between two pieces of code.

    The creating thread must outlive it. `launch` starts it in `working`; its own files are in `directory`.
    """

    def __init__(
        self,
        launch: Sequence[str],
        directory: Path,
        working: Path,
        environment: Mapping[str, str],
        on_output: Callable[[str], None],
    ) -> None:
        self._on_output, self._log = on_output, directory / "kernel.log"
        self._current: Execution | None = None
        self._probed = 0.0
        self._output_received = self._replied = False
        connection = directory / "connection.json"
        write_connection_file(
            str(connection), transport="ipc", ip=str(directory / "s"), key=secrets.token_hex().encode()
        )
        command = [*launch, "-f", str(connection), *_OPTIONS]
        command.append(f"--IPKernelApp.parent_handle={os.getpid()}")  # the kernel also exits when this process is gone
        kernel_variables = {"IPYTHONDIR": str(directory / "ipython"), "NO_COLOR": "1", "RAY_COLOR_PREFIX": "0"}
        self._process = processes.spawn(command, {**environment, **kernel_variables}, self._log, working)
        self._client = BlockingKernelClient()
        self._client.load_connection_file(str(connection))
        self._client.context.rcvhwm = 0  # without it, messages are lost when more than 1000 wait
        self._client.start_channels(stdin=False, hb=False, control=False)

    @property
    def session(self) -> int:
        """The id of the kernel's process session."""
        return self._process.pid

    @property
    def exit_reason(self) -> str | None:
        """The reason why the process ended, None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_log_line(self) -> str:
        """Return the last line of the process's log."""
        return (self._log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]

    def responds(self) -> bool:
        """Return whether both channels have delivered a message; takes up to 0.1 seconds."""
        if time.monotonic() - self._probed > 1.0:
            self._probed = time.monotonic()
            self._request_info()
        self._replied = self._replied or bool(_next(self._client.shell_channel, 0.05))
        self._output_received = self._output_received or bool(_next(self._client.iopub_channel, 0.05))
        return self._replied and self._output_received

    def execute(self, code: str) -> Execution:
        """Send code to the kernel; each `receive` adds output to the returned execution."""
        request = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        self._current = Execution(str(request))
        return self._current

    def receive(self, timeout_seconds: float) -> None:
        """Receive the waiting messages; wait up to `timeout_seconds` for the first one only."""
        for _ in range(_MAX_MESSAGES):
            message = _next(self._client.iopub_channel, timeout_seconds)
            if message is None:
                break
            timeout_seconds = 0.0
            self._dispatch(message)
        while reply := _next(self._client.shell_channel, 0.0):
            request, current = reply["parent_header"].get("msg_id", ""), self._current
            if current is not None and request == current.request:
                current.reply = reply["content"]
            elif current is not None and request in current.probes:
                current.probe_replied = True

    def _dispatch(self, message: Mapping[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        current = self._current
        if current is not None and message["parent_header"].get("msg_id") == current.request:
            output = current.add_message(kind, content)
        else:  # a thread still prints after its code has ended
            output = content["text"] if kind == "stream" else ""
        if output:
            self._on_output(output)

    def interrupt(self, execution: Execution) -> None:
        """Send SIGINT to the kernel and its children once the code runs, and again every 2 seconds."""
        if execution.started and time.monotonic() - execution.interrupted > _INTERRUPT_RETRY_SECONDS:
            execution.interrupted = time.monotonic()
            os.killpg(self.session, signal.SIGINT)
            execution.probes.add(self._request_info())

    def _request_info(self) -> str:
        message = self._client.session.msg("kernel_info_request")
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def end(self) -> None:
        """End the process and all processes that it has started."""
        processes.end_sessions([self.session], patience_seconds=2.0)
        self._process.wait()
        self._client.stop_channels()
        self._client.context.destroy(linger=0)


def plain_lines(traceback: Iterable[str]) -> list[str]:
    """Return the lines of a kernel's traceback without colours."""
    return [line for entry in traceback for line in _COLOURS.sub("", entry).splitlines()]


def _next(channel: Any, timeout_seconds: float) -> dict[str, Any] | None:
    try:
        message: dict[str, Any] = channel.get_msg(timeout=timeout_seconds)
    except Empty:
        return None
    return message
