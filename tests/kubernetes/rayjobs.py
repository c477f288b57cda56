"""A plain RayJob, as KubeRay's own documentation has it: for what KubeRay does, whatever the project makes of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

IMAGE = "tests/ray:2.60.0"
_RESOURCES = {"cpu": "1", "memory": "2Gi"}


def rayjob(
    name: str, source: str, *, image: str = IMAGE, head: Mapping[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a RayJob that runs Python code on a head without workers.

    :param head: members of the head's pod.
    :param spec: members of its spec.
    """
    container = {"name": "ray-head", "image": image, "resources": {"limits": _RESOURCES, "requests": _RESOURCES}}
    pod = {"containers": [container], "nodeSelector": {"kubernetes.io/arch": "arm64"}, **(head or {})}
    cluster = {"rayVersion": "2.60.0", "headGroupSpec": {"rayStartParams": {}, "template": {"spec": pod}}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": shlex.join(["python", "-c", source]),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterConfig": {"backoffLimit": 0},
            "rayClusterSpec": cluster,
            **spec,
        },
    }
