"""What RayJobs and RayClusters are made with, beyond what a spec says: ``kuberay`` of a connection and of a task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_glueray.core.errors import SpecError

#: Seconds that the Ray cluster of a run stays where nobody takes it away when its log has been read.
DEFAULT_TTL = 600
#: Seconds in which pods must be up: nodes that have to be started first take minutes.
STARTUP_TIMEOUT = 3600
#: Days for which a RayJob that has ended can be looked at. KubeRay itself never deletes one.
KEEP_DAYS = 7
#: One Z.2X worker. The guide's node for it is an r7g.2xlarge (8 vCPU, 64 GiB), of which the kubelet, the system and
#: DaemonSets keep a part: pods that ask for all of it are never scheduled.
Z2X: Mapping[str, str] = {"cpu": "7", "memory": "56Gi"}
#: The most a 32 bit number holds.
MOST_SECONDS = 2**31 - 1

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]i|[mkMGTP])?")
_UNITS = {"m": 1e-3, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)
}


@dataclass(frozen=True)
class RayJobSettings:
    """What a RayJob needs and a spec does not have: ``kuberay`` in the connection's extra, then in ``overrides``.

    :param image: of head and workers, for the processor in ``node_selector``.
    :param namespace: that of the connection.
    :param ray_version: that of the image.
    :param service_account: whose AWS rights head and workers have (IRSA).
    :param resources: requests and limits of head and worker containers; by default 7 CPU and 56Gi, which fit the node
        that AWS recommends for a Z.2X.
    :param node_selector, tolerations: of head and workers.
    :param image_pull_secrets: names of secrets.
    :param labels, annotations: of the RayJob or the RayCluster, such as Kueue's queue.
    :param head_pod, worker_pod: parts of pod templates that are merged into ours; lists of objects with names are
        merged by these, such as the containers ``ray-head`` and ``ray-worker``.
    :param ttl_seconds_after_finished: how long the Ray cluster stays after the run when no task is there to read its
        log; it goes as soon as that has been read.
    :param token_auth: whether Ray asks who talks to its head, where KubeRay (1.5) and Ray (2.52) are new enough for it.
    :param startup_timeout: seconds in which the pods must be up; 0 for no bound. Waiting in a queue does not count.
    :param keep_finished_days: RayJobs of the same job that have ended longer ago are deleted when a run is started;
        0 keeps them all.
    """

    image: str
    namespace: str = "default"
    ray_version: str | None = None
    service_account: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=lambda: {"kubernetes.io/arch": "arm64"})
    tolerations: Sequence[Mapping[str, Any]] = ()
    image_pull_secrets: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    head_pod: Mapping[str, Any] = field(default_factory=dict)
    worker_pod: Mapping[str, Any] = field(default_factory=dict)
    ttl_seconds_after_finished: int = DEFAULT_TTL
    startup_timeout: int = STARTUP_TIMEOUT
    token_auth: bool = True
    keep_finished_days: int = KEEP_DAYS

    def __post_init__(self) -> None:
        problems = [
            f"kuberay: {name}={getattr(self, name)!r} must be a {word}"
            for names, kind, word in ((_MAPPINGS, Mapping, "mapping"), (_LISTS, (list, tuple), "list"))
            for name in names
            if not isinstance(getattr(self, name), kind)
        ]
        if not self.image or not isinstance(self.image, str):
            problems.append("kuberay: image must be the name of an image with Ray, pyarrow and smart_open[s3]")
        problems += [
            f"kuberay: {name}={value!r} must be a whole number, 0 or more"
            for name in ("ttl_seconds_after_finished", "startup_timeout", "keep_finished_days")
            for value in [getattr(self, name)]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_SECONDS
        ]
        if not isinstance(self.token_auth, bool):
            problems.append(f"kuberay: token_auth={self.token_auth!r} must be true or false")
        if not problems:
            object.__setattr__(self, "resources", {**Z2X, **self.resources})
            problems += [
                f"kuberay: resources: {name}={self.resources[name]!r} is no quantity such as {such}"
                for name, such in Z2X.items()
                if amount_of(self.resources[name]) is None
            ]
        if problems:
            raise SpecError(problems)

    @classmethod
    def of(cls, *layers: Mapping[str, Any], namespace: str) -> RayJobSettings:
        """Make settings of mappings; a later one replaces members of an earlier one.

        :raises SpecError: a member is unknown, or not of its kind.
        """
        known = {each.name for each in fields(cls)} - {"namespace"}
        given = {name: value for layer in layers for name, value in layer.items()}
        problems = [
            f"kuberay: there is no {name!r}; there are {', '.join(sorted(known))}"
            for name in sorted(set(given) - known)
        ]
        if "namespace" in given:
            problems = ["kuberay: 'namespace' is a field of the connection, so that every run can be found again"]
        if problems:
            raise SpecError(problems)
        return cls(**{"image": "", **given}, namespace=namespace)


_MAPPINGS = ("resources", "node_selector", "labels", "annotations", "head_pod", "worker_pod")
_LISTS = ("tolerations", "image_pull_secrets")


def amount_of(quantity: object) -> float | None:
    """Read a quantity as Kubernetes writes it, such as 500m or 64Gi; None if it is none."""
    found = _QUANTITY.fullmatch(str(quantity).strip())
    return float(found[1]) * _UNITS.get(found[2] or "", 1) if found else None
