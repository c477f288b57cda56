"""What stands for the cluster's DNS and its service addresses: one hosts file, which everybody has mounted.

The name of a service leads to its pods themselves, those that the control plane has put into its EndpointSlices. A
port of a service has therefore to be the port of its pods, as KubeRay has it.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from tests.kubernetes.api import AWAY, Api, ApiError
from tests.kubernetes.layout import GATEWAY, NODES, Layout

_log = logging.getLogger(__name__)
#: The API server looks its nodes up by name; the other names are its own.
_OWN = f"{GATEWAY} kubernetes.default kubernetes.default.svc {' '.join(node.name for node in NODES)}\n"


def write_base(layout: Layout) -> None:
    """Write the names that do not change, before the file is mounted, and a resolver that knows no others.

    gRPC asks a name server beside the hosts file, and waits for its answer: this one refuses at once.
    """
    layout.resolver.write_text(f"nameserver {GATEWAY}\n")
    layout.hosts.write_text(f"{Path('/etc/hosts').read_text().rstrip()}\n{_OWN}")


class Names:
    """The names of pods and services, kept by two watches."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._api = layout, Api(layout)
        self._base = "".join(layout.hosts.read_text().partition(_OWN)[:2])
        self._lock = threading.Lock()
        #: Lines by the object that they come from, for each of the collections.
        self._lines: dict[str, dict[str, list[str]]] = {"pods": {}, "slices": {}}

    def keep(self) -> None:
        """Watch for ever."""
        threading.Thread(target=self._watch, args=("pods", "/api/v1/pods", _of_pod), daemon=True).start()
        self._watch("slices", "/apis/discovery.k8s.io/v1/endpointslices", _of_slice)

    def _watch(self, kind: str, path: str, read: Any) -> None:
        while True:
            seen: dict[str, list[str]] = {}
            listed = False
            try:
                for word, each in self._api.follow(path):
                    if word == "LISTED":
                        listed = True
                    elif word == "DELETED":
                        seen.pop(each["metadata"]["uid"], None)
                    elif word != "BOOKMARK":
                        seen[each["metadata"]["uid"]] = read(each)
                    if listed:
                        self._write(kind, seen)
            except (ApiError, *AWAY) as error:
                _log.warning("watch of %s: %s", kind, error)
                threading.Event().wait(0.2)

    def _write(self, kind: str, lines: dict[str, list[str]]) -> None:
        with self._lock:
            self._lines[kind] = dict(lines)
            own = [line for of_kind in self._lines.values() for each in of_kind.values() for line in each]
            text = self._base + "".join(f"{line}\n" for line in sorted(own))
            # In place, because it is this very file that is mounted.
            with self._layout.hosts.open("r+") as file:
                if file.read() != text:
                    file.seek(0)
                    file.write(text)
                    file.truncate()


def _of_pod(pod: dict[str, Any]) -> list[str]:
    address = pod["status"].get("podIP")
    ended = pod["status"].get("phase") in ("Succeeded", "Failed")
    return [f"{address} {pod['metadata']['name']}"] if address and not ended else []


def _of_slice(slice_: dict[str, Any]) -> list[str]:
    namespace = slice_["metadata"]["namespace"]
    service = slice_["metadata"].get("labels", {}).get("kubernetes.io/service-name")
    if not service or namespace == "default":
        return []
    full = f"{service}.{namespace}.svc"
    return [
        f"{address} {full}.cluster.local {full} {service}.{namespace}"
        for endpoint in slice_.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint["addresses"]
    ]


if __name__ == "__main__":
    Names(Layout.here()).keep()
