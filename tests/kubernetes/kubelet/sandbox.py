"""The network of a pod: a namespace with one address on the bridge of all pods."""

from __future__ import annotations

import subprocess

from tests.kubernetes.layout import GATEWAY, NETWORK_BITS


class Sandbox:
    """The network namespace of a pod."""

    def __init__(self, uid: str, address: str) -> None:
        self.address = address
        self.name, self._link = f"pod-{uid[:8]}", f"v{uid[:8]}"

    def open(self) -> None:
        """Make it."""
        inside = ("-n", self.name)
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._link, "master", "pods")
        _ip("link", "set", self._link, "up")
        _ip(*inside, "addr", "add", f"{self.address}/{NETWORK_BITS}", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        # Ray finds the address of its node by the way to somewhere far off.
        _ip(*inside, "route", "add", "default", "via", GATEWAY)

    def close(self) -> None:
        """Remove it, and with it the connections of others to the pod."""
        for words in (("netns", "del", self.name), ("link", "del", self._link)):
            subprocess.run(["ip", *words], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
