"""What a kubelet answers: the logs of its containers to the API server, and to tests what they want to break.

Nobody is asked who he is; only who is in the cluster's namespaces can ask.
"""

from __future__ import annotations

import http.server
import shlex
import ssl
import threading
from collections.abc import Iterator
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from tests.kubernetes.kubelet import logs
from tests.kubernetes.kubelet.container import Container
from tests.kubernetes.kubelet.node import Kubelet
from tests.kubernetes.kubelet.pod import Pod
from tests.kubernetes.layout import GATEWAY, Layout

_RUN_SECONDS = 60.0


def serve(kubelet: Kubelet, layout: Layout) -> None:
    """Serve in the background."""
    handler = type("Handler", (_Handler,), {"kubelet": kubelet})
    server = http.server.ThreadingHTTPServer((GATEWAY, kubelet.node.port), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(layout.pki / "server.crt", layout.pki / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kubelet: ClassVar[Kubelet]

    def log_message(self, *_: object) -> None:
        """Write down nothing."""

    def do_GET(self) -> None:
        """Answer ``/containerLogs/NAMESPACE/POD/CONTAINER``."""
        kind, pod, name, query = self._asked()
        if kind != "containerLogs":
            self._say(404, f"there is no {kind}")
            return
        container = _container(pod, name)
        if pod is None or container is None:
            self._say(404, f"container {name} not found")
            return
        previous = query.get("previous") == "true"
        life = container.restarts - (1 if previous else 0)
        # While it waits to be restarted, its log is that of the life before.
        if not previous and "running" not in container.state and life and not container.log(life).exists():
            life -= 1
        path = container.log(life)
        if not path.exists():
            self._say(400, _no_log(pod, container, previous=previous))
            return
        process = container.process
        is_this_life = process is not None and process.log == path
        self._stream(logs.read(path, logs.Asked.of(query), lambda: is_this_life and bool(process and process.runs)))

    def do_POST(self) -> None:
        """Break something: ``/evict/NAMESPACE/POD``, or ``/kill`` or ``/run/NAMESPACE/POD/CONTAINER``."""
        kind, pod, name, query = self._asked()
        container = _container(pod, name)
        if pod is not None and kind == "evict":
            pod.give_up("Evicted", query["message"])
        elif container is not None and kind == "kill":
            container.kill(query.get("reason", "Error"), int(query.get("code", "137")))
        elif container is not None and container.process is not None and kind == "run":
            code = container.process.run_inside(shlex.split(query["command"]), _RUN_SECONDS)
            self._say(200 if code == 0 else 500, f"exit code {code}")
            return
        else:
            self._say(404, f"there is no {self.path}")
            return
        self._say(200, "done")

    def _asked(self) -> tuple[str, Pod | None, str, dict[str, str]]:
        asked = urlsplit(self.path)
        kind, namespace, pod, container = (asked.path.strip("/").split("/") + [""] * 4)[:4]
        return kind, self.kubelet.find(namespace, pod), container, dict(parse_qsl(asked.query))

    def _say(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True


def _container(pod: Pod | None, name: str) -> Container | None:
    of_pod = (*pod.inits, *pod.main) if pod else ()
    return next((each for each in of_pod if each.name == name), None)


def _no_log(pod: Pod, container: Container, *, previous: bool) -> str:
    if previous:
        return f'previous terminated container "{container.name}" in pod "{pod.name}" not found'
    reason = container.state.get("waiting", {}).get("reason", "ContainerCreating")
    return f'container "{container.name}" in pod "{pod.name}" is waiting to start: {reason}'
