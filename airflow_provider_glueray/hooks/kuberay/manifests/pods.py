"""Names, labels, pods and clusters of what runs on KubeRay."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import Workers
from airflow_provider_glueray.core.validation import text_of
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings, amount_of

GROUP, VERSION = "ray.io", "v1"
#: A RayJob's name may have 47 characters, so that the names made of it fit, and must be a DNS-1035 label.
#: Source: kuberay/…/utils/constant.go MaxRayJobNameLength, validation.go ValidateRayJobMetadata.
MOST_NAME = 47
#: Keys of labels and annotations. A label's value is shortened and cleaned; the annotation has it in full.
CLIENT_TOKEN, JOB, DAG, TASK, RUN = "glueray/client-token", "glueray/job", "glueray/dag", "glueray/task", "glueray/run"
#: The labels of everything that belongs to one RayJob, or to one RayCluster that runs share, by which many are asked
#: for at once, and the part a pod plays.
RAYJOB, RAYCLUSTER, ROLE = "glueray/rayjob", "glueray/raycluster", "glueray/role"
#: Annotations that we add: we have asked it to stop, and why it had not got under way; why it had to be given up.
STOPPED, UNRECOVERABLE = "glueray/stopped", "glueray/unrecoverable"
#: An annotation: seconds that it has to get under way.
STARTUP_TIMEOUT = "glueray/startup-timeout"
#: What the first of these holds when there is nothing to say.
NO_REASON = "true"
#: Arguments of the operator, and the key of the label that each becomes.
OWNER_LABELS = {"--airflow_dag_id": DAG, "--airflow_task_id": TASK, "--airflow_run_id": RUN}
#: The label of Kueue, which decides on ``suspend`` where it is used.
QUEUE = "kueue.x-k8s.io/queue-name"
#: KubeRay then makes no new head for one that has ended (1.6 and newer; kuberay/…/raycluster_controller.go
#: reconcilePods): a new one would know nothing of what the old one ran, and be given it once more.
NO_NEW_HEAD = "ray.io/disable-provisioned-head-restart"
#: The first Ray that KubeRay lets ask for a token (kuberay/…/utils/validation.go).
RAY_WITH_TOKENS = (2, 52)
#: Seconds that a pod has to end. The shell of a head ignores SIGTERM, so it takes all of them.
GRACE_SECONDS = 5
#: The containers of the pods, as overrides name them.
HEAD, WORKER = "ray-head", "ray-worker"
#: The group of the workers.
WORKERS = "workers"

_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9_.-]+")
_NOT_IN_NAME = re.compile(r"[^a-z0-9]+")


def label_value(text: str) -> str:
    """Return a text as a label's value: 63 letters, digits, ``-``, ``_``, ``.``; what is changed gets a digest."""
    clean = _NOT_IN_LABEL.sub("-", text).strip("-_.")
    if clean == text and len(text) <= 63:
        return text
    return f"{clean[:54].strip('-_.')}-{_digest(text)[:8]}".lstrip("-")


def rayjob_name(name: str, client_token: str) -> str:
    """Return the name of a RayJob or a RayCluster: one name per client token, so that creating it twice makes one."""
    slug = _NOT_IN_NAME.sub("-", name.lower()).strip("-")
    # A DNS-1035 label begins with a letter.
    slug = slug if slug[:1].isalpha() else f"job-{slug}"
    return f"{slug[: MOST_NAME - 13].strip('-')}-{_digest(f'{name} {client_token}')[:12]}"


def pods_begin(cluster: str, container: str) -> str:
    """Return what the names of a cluster's heads or workers begin with (kuberay/…/utils/util.go PodName)."""
    prefix, kind = (cluster, "head") if container == HEAD else (f"{cluster}-{WORKERS}", "worker")
    return f"{prefix[:50]}-{kind}"


def id_of(resource: Mapping[str, Any]) -> str:
    """Return the id of a resource, as in ``RunRef``."""
    return f"{resource['metadata']['namespace']}/{resource['metadata']['name']}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cluster_spec(
    workers: Workers,
    object_spilling_config: Mapping[str, Any] | str | None,
    runtime: str,
    *,
    settings: RayJobSettings,
    labels: Mapping[str, str],
    head_env: Mapping[str, str],
    worker_env: Mapping[str, str],
    max_lifetime: int | None = None,
) -> dict[str, Any]:
    """Return the ``RayClusterSpec`` of a cluster, be it a run's own or one that runs share.

    :param runtime: Glue's name of one, for where the settings name no version of Ray.
    :param labels: of its pods.
    :param max_lifetime: seconds after which Kubernetes ends each of its pods.
    """
    memory = int(amount_of(settings.resources["memory"]) or 0)
    least, most = workers.min_workers or 0, workers.number_of_workers
    ray_version = settings.ray_version or _version_of(runtime)
    asks_for_token = settings.token_auth and _numbers(ray_version) >= RAY_WITH_TOKENS
    return {
        "rayVersion": ray_version,
        **({"authOptions": {"mode": "token"}} if asks_for_token else {}),
        "enableInTreeAutoscaling": least != most,
        "headGroupSpec": {
            "rayStartParams": {
                **_object_store(memory, workers.object_store_memory_head),
                **_spilling(object_spilling_config),
            },
            "template": pod_of(HEAD, settings, labels, settings.head_pod, head_env, max_lifetime),
        },
        "workerGroupSpecs": [
            {
                "groupName": WORKERS,
                "replicas": least,
                "minReplicas": least,
                "maxReplicas": most,
                "rayStartParams": _object_store(memory, workers.object_store_memory_worker),
                "template": pod_of(WORKER, settings, labels, settings.worker_pod, worker_env, max_lifetime),
            }
        ],
    }


def _version_of(runtime: str) -> str:
    """Return Glue's name of a runtime, such as Ray2.4, as a version of Ray."""
    return ".".join(map(str, [*_numbers(runtime), 0, 0][:3]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _object_store(memory: int, percent: int | None) -> dict[str, str]:
    """Return bytes for ``ray start``. Glue has percent of the free memory; the pod's limit stands for that."""
    return {} if percent is None else {"object-store-memory": str(memory * percent // 100)}


def _spilling(object_spilling_config: Mapping[str, Any] | str | None) -> dict[str, str]:
    if not object_spilling_config:
        return {}
    config = json.dumps({"object_spilling_config": text_of(object_spilling_config)})
    # KubeRay puts the value into a shell command as it is, and Kubernetes replaces $(NAME) in it.
    quoted = config.replace("'", "\\u0027").replace("$", "\\u0024")
    return {"system-config": f"'{quoted}'"}


def pod_of(
    container: str,
    settings: RayJobSettings,
    labels: Mapping[str, str],
    over: Mapping[str, Any],
    env: Mapping[str, str],
    max_lifetime: int | None = None,
) -> dict[str, Any]:
    """Return a pod template with one container, and what the user lays over it.

    :param max_lifetime: seconds after which Kubernetes ends the pod.
    :raises SpecError: a head is to be restarted in its pod.
    """
    ours: dict[str, Any] = {
        "metadata": {"labels": {**labels, ROLE: container}},
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": settings.image,
                    "resources": {"requests": dict(settings.resources), "limits": dict(settings.resources)},
                    # Kubernetes reads $(NAME) in a value as a reference, and $$ as a dollar.
                    "env": [{"name": key, "value": text.replace("$", "$$")} for key, text in env.items()],
                }
            ],
            "nodeSelector": dict(settings.node_selector),
            "tolerations": list(settings.tolerations),
            "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            **({"restartPolicy": "Never"} if container == HEAD else {}),
            **({} if max_lifetime is None else {"activeDeadlineSeconds": max_lifetime}),
            **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        },
    }
    merged: dict[str, Any] = _merge_pod_template(ours, over)
    if container == HEAD and merged["spec"]["restartPolicy"] != "Never":
        text = "kuberay: head_pod: restartPolicy must be Never: a head that is restarted in its pod has forgotten its "
        raise SpecError([f"{text}jobs, and is given them once more"])
    return merged


def _merge_pod_template(ours: Any, theirs: Any) -> Any:
    """Merge mappings by key and lists of named objects by name; anything else is replaced."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {key: _merge_pod_template(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()}
        return {**ours, **theirs, **both}
    if ours and all(isinstance(each, Mapping) and "name" in each for part in (ours, theirs) for each in _listed(part)):
        named = {each["name"]: each for each in ours}
        for each in theirs:
            named[each["name"]] = _merge_pod_template(named.get(each["name"], {}), each)
        return list(named.values())
    return theirs


def _listed(value: Any) -> Sequence[Any]:
    """Return a list as it is, and for anything else one that has no names in it."""
    return value if isinstance(value, (list, tuple)) else [None]
