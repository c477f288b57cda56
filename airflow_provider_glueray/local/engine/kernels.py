"""Run one Jupyter kernel: start it, give it code, take in what it says, interrupt it, end it.

It knows nothing of Glue. The kernel is a process session of its own (see `processes`) and listens on Unix sockets in a
directory that only the owner can enter, so nobody else on the machine can run code through it. One thread uses it.
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

#: stdout and stderr become one stream, because two would lose their order; the second half is for child processes.
_ONE_STREAM = ["__import__('sys').stderr = __import__('sys').stdout", "__import__('os').dup2(1, 2);"]
_OPTIONS = (
    "--InteractiveShell.colors=nocolor",
    "--HistoryManager.hist_file=:memory:",
    "--IPKernelApp.exec_PYTHONSTARTUP=False",
    f"--IPKernelApp.exec_lines={json.dumps(_ONE_STREAM)}",
)
#: A kernel that is busy is interrupted again after this long, since an interruption can come too early to be noticed.
_INTERRUPT_AGAIN_SECONDS = 2.0
#: At most so many messages are taken in at once, so that code which never stops printing can be stopped.
_AT_ONCE = 500
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Execution:
    """One piece of code in the kernel's hands, and what it said so far."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.printed: list[str] = []  # joined once: it may be tens of megabytes
        self.value = ""
        self.reply: Mapping[str, Any] = {}
        self.begun = False
        self.interrupted = 0.0
        #: Questions asked after it. A kernel answers one after the other, so their answer tells that the code has ended
        #: also if it was interrupted at a moment when it could not say so itself.
        self.probes: set[str] = set()
        self._idle = self._overtaken = False

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._overtaken or (self._idle and bool(self.reply))

    def answer(self, request: str, content: Mapping[str, Any]) -> None:
        """Note what the kernel answers to a request."""
        if request == self.request:
            self.reply = content
        elif request in self.probes:
            self._overtaken = True

    def hear(self, kind: str, content: Mapping[str, Any]) -> str:
        """Note one message about this code; returns what a terminal would show of it."""
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
                self.begun = True
            case "status" if content["execution_state"] == "idle":
                self._idle = True
        return ""


class Kernel:
    """A kernel process. `say` is told everything it prints, at once, also between two pieces of code.

    Make it in a thread that outlives it; `launch` starts it in `working`, and it keeps its own files in `directory`.
    """

    def __init__(
        self,
        launch: Sequence[str],
        directory: Path,
        working: Path,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._say, self._log = say, directory / "kernel.log"
        self._current: Execution | None = None
        self._asked = 0.0
        self._heard = self._replied = False
        connection = directory / "connection.json"
        write_connection_file(
            str(connection), transport="ipc", ip=str(directory / "s"), key=secrets.token_hex().encode()
        )
        command = [*launch, "-f", str(connection), *_OPTIONS]
        command.append(f"--IPKernelApp.parent_handle={os.getpid()}")  # it also leaves when it sees that we are gone
        plain = {"IPYTHONDIR": str(directory / "ipython"), "NO_COLOR": "1", "RAY_COLOR_PREFIX": "0"}
        self._process = processes.spawn(command, {**environment, **plain}, self._log, working)
        self._client = BlockingKernelClient()
        self._client.load_connection_file(str(connection))
        self._client.context.rcvhwm = 0  # else messages are lost when more than 1000 wait
        self._client.start_channels(stdin=False, hb=False, control=False)

    @property
    def session(self) -> int:
        """The id of its process session."""
        return self._process.pid

    @property
    def death(self) -> str | None:
        """How the process ended, None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_words(self) -> str:
        """Return the last line of the process's own log."""
        return (self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]

    def answers(self) -> bool:
        """Tell whether it is up and heard on both of its channels; takes a moment."""
        if time.monotonic() - self._asked > 1.0:
            self._asked = time.monotonic()
            self._ask_for_information()
        self._replied = self._replied or bool(_next(self._client.shell_channel, 0.05))
        self._heard = self._heard or bool(_next(self._client.iopub_channel, 0.05))
        return self._replied and self._heard

    def execute(self, code: str) -> Execution:
        """Hand over code; the returned execution grows with each `listen`."""
        request = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        self._current = Execution(str(request))
        return self._current

    def listen(self, seconds: float) -> None:
        """Take in what it says: wait so long for the first message, not at all for the next ones."""
        for _ in range(_AT_ONCE):
            message = _next(self._client.iopub_channel, seconds)
            if message is None:
                break
            seconds = 0.0
            self._hear(message)
        while reply := _next(self._client.shell_channel, 0.0):
            if self._current is not None:
                self._current.answer(reply["parent_header"].get("msg_id", ""), reply["content"])

    def _hear(self, message: Mapping[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        current = self._current
        if current is not None and message["parent_header"].get("msg_id") == current.request:
            shown = current.hear(kind, content)
        else:  # a thread that prints after the code which started it has ended
            shown = content["text"] if kind == "stream" else ""
        if shown:
            self._say(shown)

    def interrupt(self, execution: Execution) -> None:
        """Send Ctrl-C to the kernel and its children, once the code is being run, and again from time to time."""
        if execution.begun and time.monotonic() - execution.interrupted > _INTERRUPT_AGAIN_SECONDS:
            execution.interrupted = time.monotonic()
            os.killpg(self.session, signal.SIGINT)
            execution.probes.add(self._ask_for_information())

    def _ask_for_information(self) -> str:
        message = self._client.session.msg("kernel_info_request")
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def end(self) -> None:
        """End the process and all that it has started."""
        processes.end_sessions([self.session], patience_seconds=2.0)
        self._process.wait()
        self._client.stop_channels()
        self._client.context.destroy(linger=0)


def plain_lines(traceback: Iterable[str]) -> list[str]:
    """Return the lines of a kernel's traceback without colours."""
    return [line for entry in traceback for line in _COLOURS.sub("", entry).splitlines()]


def _next(channel: Any, seconds: float) -> dict[str, Any] | None:
    try:
        message: dict[str, Any] = channel.get_msg(timeout=seconds)
    except Empty:
        return None
    return message
