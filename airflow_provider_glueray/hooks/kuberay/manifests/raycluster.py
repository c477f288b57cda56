"""A cluster that runs share as a RayCluster, a custom resource of KubeRay, and what the status of one means.

No clock and no I/O. What is followed is a cluster's *start*: that it is ready is the
success. KubeRay's behaviour was read in its v1.7.0; its files are named as ``kuberay/…``.
"""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RayClusterSpec
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    CLIENT_TOKEN,
    GROUP,
    JOB,
    NO_NEW_HEAD,
    OWNER_LABELS,
    RAYCLUSTER,
    STARTUP_TIMEOUT,
    VERSION,
    cluster_spec,
    label_value,
    rayjob_name,
)
from airflow_provider_glueray.hooks.kuberay.settings import MOST_SECONDS, RayJobSettings

PLURAL = "rayclusters"
#: Of the RayClusters in a namespace those that no RayJob has made for itself (kuberay/…/utils/constant.go).
SHARED = "ray.io/originated-from-crd!=RayJob"
#: Members of RayJobSettings that a cluster has no use for. In the connection they are for its runs.
_OF_RUNS = ("ttl_seconds_after_finished", "keep_finished_days")


def to_raycluster(
    spec: RayClusterSpec, client_token: str, *, settings: RayJobSettings, max_lifetime_seconds: int | None
) -> dict[str, Any]:
    """Translate to a RayCluster that carries the client token.

    :param max_lifetime_seconds: after which Kubernetes ends its pods, whoever still knows of them: KubeRay has no such
        bound for a RayCluster. A worker that autoscaling has added late may take up to as long again.
    :raises SpecError: the task has given a setting that only runs have.
    """
    strange = [name for name in _OF_RUNS if name in spec.overrides.get("kuberay", {})]
    if strange:
        raise SpecError([f"overrides['kuberay'][{name!r}]: it is of runs, not of a cluster" for name in strange])
    name = rayjob_name(spec.name, client_token)
    whose = {key: spec.tags[word] for argument, key in OWNER_LABELS.items() if (word := argument[2:]) in spec.tags}
    full = {CLIENT_TOKEN: client_token, JOB: spec.name, **whose}
    labels = {**{key: label_value(text) for key, text in full.items()}, RAYCLUSTER: name}
    max_lifetime = None if max_lifetime_seconds is None else min(max(max_lifetime_seconds, 1), MOST_SECONDS)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**settings.labels, **labels},
            "annotations": {
                **settings.annotations,
                NO_NEW_HEAD: "true",
                STARTUP_TIMEOUT: str(settings.startup_timeout),
                **full,
                **({"glueray/tags": json.dumps(dict(spec.tags), sort_keys=True)} if spec.tags else {}),
                **({"glueray/description": spec.description} if spec.description else {}),
            },
        },
        "spec": cluster_spec(
            spec.workers,
            spec.object_spilling_config,
            spec.runtime,
            settings=settings,
            labels=labels,
            head_env={},
            worker_env={},
            max_lifetime=max_lifetime,
        ),
    }
