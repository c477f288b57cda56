"""Probes of a container: what Kubernetes asks it, and what follows from the answers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.kubernetes.kubelet.process import Process


class Probe:
    """One probe of a running container; it asks from a thread of its own until the container has ended.

    :param answered: is told each time the verdict changes: True after enough good answers, False after enough bad ones.
    :param may_begin: says when the container has started, for all probes but the one that finds this out.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        container: Mapping[str, Any],
        process: Process,
        address: str,
        answered: Callable[[bool], None],
        may_begin: Callable[[], bool],
    ) -> None:
        self._spec, self._container, self._process, self._address = spec, container, process, address
        self._answered, self._may_begin = answered, may_begin
        threading.Thread(target=self._ask_again_and_again, daemon=True).start()

    def _ask_again_and_again(self) -> None:
        self._pause(self._spec.get("initialDelaySeconds", 0))
        good = bad = 0
        verdict: bool | None = None
        while self._process.runs:
            if not self._may_begin():
                self._pause(0.2)
                continue
            good, bad = (good + 1, 0) if self._ask() else (0, bad + 1)
            enough = good >= self._spec.get("successThreshold", 1) or bad >= self._spec.get("failureThreshold", 3)
            if enough and verdict is not (good > 0):
                verdict = good > 0
                self._answered(verdict)
            self._pause(self._spec.get("periodSeconds", 10))

    def _pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _ask(self) -> bool:
        seconds = self._spec.get("timeoutSeconds", 1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            if "exec" in self._spec:
                return self._process.run_inside(self._spec["exec"]["command"], seconds) == 0
            if "httpGet" in self._spec:
                return self._get(self._spec["httpGet"], seconds)
            if "tcpSocket" in self._spec:
                port = self._port(self._spec["tcpSocket"]["port"])
                socket.create_connection((self._address, port), timeout=seconds).close()
                return True
        return False

    def _get(self, wanted: Mapping[str, Any], seconds: float) -> bool:
        headers = {each["name"]: each["value"] for each in wanted.get("httpHeaders") or ()}
        connection = http.client.HTTPConnection(self._address, self._port(wanted["port"]), timeout=seconds)
        with contextlib.closing(connection):
            connection.request("GET", wanted.get("path", "/"), headers=headers)
            return 200 <= connection.getresponse().status < 400

    def _port(self, named: str | int) -> int:
        """Return the number of a port, which may be one of the container's names."""
        if isinstance(named, int):
            return named
        return next(int(port["containerPort"]) for port in self._container["ports"] if port.get("name") == named)
