"""A spec as a RayJob, the custom resource of KubeRay, and what the status of one means.

Floor 0: standard library only, no clock, no I/O, so a manifest can be printed, compared and validated without a
cluster. What is said of KubeRay here was read in its v1.7.0; its files are named as ``kuberay/…``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, NamedTuple

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.rules import text_of
from airflow_provider_glueray.runs import KUBERAY_JOB, RunRef, RunSnapshot, RunState, Usage
from airflow_provider_glueray.spec import MDPU_PER_WORKER, RayJobSpec

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"

#: What becomes of each field of a spec. "guide" is dg/awsglue-ray-jobs-availability-change, AWS's way from Glue for
#: Ray to KubeRay; where we depart from it, it is said why.
TRANSLATION: Mapping[str, str] = {
    "name": "metadata.name, with a digest of name and mark; annotation glueray/job",
    "script": "entrypoint: pyarrow fetches it from S3 in the head pod, then Python runs it",
    "role": "not used, noted: pods get AWS rights through `service_account` (IRSA)",
    "arguments": "environment of head and workers, and `--name value` for the script",
    "number_of_workers": "workerGroupSpecs[0].maxReplicas (guide); the head pod comes on top",
    "min_workers": "workerGroupSpecs[0].minReplicas (guide), 0 when not given; below maxReplicas it autoscales",
    "worker_type": "Z.2X: 8 CPU and 64Gi for each pod on kubernetes.io/arch=arm64 (guide: r7g.2xlarge)",
    "object_store_memory_head": "head rayStartParams object-store-memory: that share of the memory limit, in bytes",
    "object_store_memory_worker": "worker rayStartParams object-store-memory, likewise",
    "pip": "runtimeEnvYAML pip (guide)",
    "py_modules": "runtimeEnvYAML py_modules (guide)",
    "working_dir": "runtimeEnvYAML working_dir: Ray takes s3:// zips (the guide uses py_modules for these)",
    "spilling": "head rayStartParams system-config: `ray start` has no object-spilling-config, which the guide names",
    "logging": "not used, noted: there are pod logs",
    "runtime": "rayVersion, unless `ray_version` is set; the image decides what runs",
    "python_version": "not used: the image decides",
    "glue_version": "not used",
    "description": "annotation glueray/description",
    "tags": "annotation glueray/tags",
    "max_concurrent_runs": "not used, noted if it is not 1: KubeRay has no such limit, Kueue has",
    "overrides": "`kuberay`: the members of RayJobSettings; those of other backends have no effect",
}

#: A RayJob's name may have 47 characters, so that the names made of it fit, and must be a DNS-1035 label.
#: Source: kuberay/…/utils/constant.go MaxRayJobNameLength, validation.go ValidateRayJobMetadata.
MOST_NAME = 47
#: Keys of labels and annotations. A label's value is shortened and cleaned; the annotation has it in full.
MARK, JOB, DAG, TASK, RUN = "glueray/mark", "glueray/job", "glueray/dag", "glueray/task", "glueray/run"
#: The label of everything that belongs to one RayJob, by which many are asked for at once, and the part a pod plays.
RAYJOB, ROLE = "glueray/rayjob", "glueray/role"
#: Annotations that we add: we have asked it to stop; why it had to be given up.
STOPPED, HOPELESS = "glueray/stopped", "glueray/hopeless"
#: Arguments of the operator, and the key of the label that each becomes.
_OWNERS = {"--airflow_dag_id": DAG, "--airflow_task_id": TASK, "--airflow_run_id": RUN}
#: The label of Kueue, which decides on ``suspend`` where it is used.
QUEUE = "kueue.x-k8s.io/queue-name"
#: The containers of the pods, as overrides name them.
HEAD, WORKER, SUBMITTER = "ray-head", "ray-worker", "ray-job-submitter"
#: Seconds that the Ray cluster stays after the run, for a look at its logs. The driver's log is that of the
#: submitter's pod and stays longer: as long as the RayJob.
DEFAULT_TTL = 600
#: One Z.2X worker, which is an r7g.2xlarge in the guide.
Z2X: Mapping[str, str] = {"cpu": "8", "memory": "64Gi"}
#: The most a 32 bit number holds.
_MOST_SECONDS = 2**31 - 1

# The submitter's shell takes the quotes away, `ray job submit` puts them back (older Ray only around what has spaces,
# with list2cmdline), and the shell of Ray's job supervisor takes them away again. So what a user says is never part
# of the command: it is in the environment of the head pod, where the driver runs.
_ENTRYPOINT = "python -c \"import os; exec(os.environ['GLUERAY_MAIN'])\""
#: Python 3.9. It becomes the script rather than calling it, so that tracebacks and ``__main__`` are the script's own.
_MAIN = """\
import json, os, sys, tempfile, urllib.parse
from pyarrow import fs
given = json.loads(os.environ["GLUERAY_ARGUMENTS"])
store, path = fs.FileSystem.from_uri(urllib.parse.quote(os.environ["GLUERAY_SCRIPT"], safe=":/"))
script = os.path.join(tempfile.mkdtemp(), os.path.basename(path))
with store.open_input_stream(path) as source, open(script, "wb") as target:
    target.write(source.read())
os.environ.update(given)
argv = [word for name, text in given.items() for word in ("--" + name, text)]
os.execv(sys.executable, [sys.executable, script, *argv])
"""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9_.-]+")
_NOT_IN_NAME = re.compile(r"[^a-z0-9]+")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]i|[kMGTP])?")
_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)
}


@dataclass(frozen=True)
class RayJobSettings:
    """What a RayJob needs and a spec does not have: ``kuberay`` in the connection's extra, then in ``overrides``.

    :param image: of head, workers and submitter, for the processor in ``node_selector``.
    :param namespace: that of the connection.
    :param ray_version: that of the image.
    :param service_account: whose AWS rights head and workers have (IRSA).
    :param resources: requests and limits of head and worker containers. A node keeps a part of itself: the 8 CPU and
        64Gi of a Z.2X do not fit a node that has just these.
    :param node_selector, tolerations: of head and workers.
    :param image_pull_secrets: names of secrets.
    :param labels, annotations: of the RayJob, such as Kueue's queue.
    :param head_pod, worker_pod, submitter_pod: parts of pod templates that are laid over ours; lists of things with
        names are merged by these, such as the containers ``ray-head``, ``ray-worker`` and ``ray-job-submitter``.
    :param ttl_seconds_after_finished: how long the Ray cluster stays after the run.
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
    submitter_pod: Mapping[str, Any] = field(default_factory=dict)
    ttl_seconds_after_finished: int = DEFAULT_TTL

    def __post_init__(self) -> None:
        problems = [
            f"kuberay: {name}={getattr(self, name)!r} must be a {'mapping' if kind is Mapping else 'list'}"
            for names, kind in ((_MAPPINGS, Mapping), (_LISTS, (list, tuple)))
            for name in names
            if not isinstance(getattr(self, name), kind)
        ]
        if not self.image or not isinstance(self.image, str):
            problems.append("kuberay: image must be the name of an image with Ray, pyarrow and smart_open[s3]")
        ttl = self.ttl_seconds_after_finished
        if not isinstance(ttl, int) or isinstance(ttl, bool) or not 0 <= ttl <= _MOST_SECONDS:
            problems.append(f"kuberay: ttl_seconds_after_finished={ttl!r} must be a whole number, 0 or more")
        if not problems:
            object.__setattr__(self, "resources", {**Z2X, **self.resources})
            if bytes_of(self.resources["memory"]) is None:
                problems.append(f"kuberay: resources: memory={self.resources['memory']!r} is no quantity such as 56Gi")
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


_MAPPINGS = ("resources", "node_selector", "labels", "annotations", "head_pod", "worker_pod", "submitter_pod")
_LISTS = ("tolerations", "image_pull_secrets")


def bytes_of(quantity: object) -> int | None:
    """Read an amount of memory as Kubernetes writes it, such as 64Gi."""
    found = _QUANTITY.fullmatch(str(quantity).strip())
    return int(float(found[1]) * _UNITS.get(found[2] or "", 1)) if found else None


def label_of(text: str) -> str:
    """Return a text as a label's value: 63 letters, digits, ``-``, ``_``, ``.``; what is changed gets a digest."""
    clean = _NOT_IN_LABEL.sub("-", text).strip("-_.")
    if clean == text and len(text) <= 63:
        return text
    return f"{clean[:54].strip('-_.')}-{_digest(text)[:8]}".lstrip("-")


def rayjob_name(name: str, mark: str) -> str:
    """Return the RayJob's name for a run: the same for the same mark, so that to create it twice makes one."""
    slug = _NOT_IN_NAME.sub("-", name.lower()).strip("-")
    # A DNS-1035 label begins with a letter.
    slug = slug if slug[:1].isalpha() else f"job-{slug}"
    return f"{slug[: MOST_NAME - 13].strip('-')}-{_digest(f'{name} {mark}')[:12]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def notes_on(spec: RayJobSpec, settings: RayJobSettings) -> Iterator[str]:
    """Tell what the spec asks for that KubeRay has not."""
    if spec.role:
        account = settings.service_account
        yield f"role={spec.role!r} is for AWS Glue; " + (
            f"the pods have the rights of the service account {account!r}"
            if account
            else "name a service account that is bound to an IAM role (IRSA) as 'service_account'"
        )
    if spec.logging:
        yield "logging switches are for AWS Glue; here there are the logs of the pods"
    if spec.max_concurrent_runs != 1:
        yield f"max_concurrent_runs={spec.max_concurrent_runs} is not kept by KubeRay; a queue of Kueue can"


def to_rayjob(
    spec: RayJobSpec,
    mark: str,
    *,
    arguments: Mapping[str, str],
    settings: RayJobSettings,
    deadline_seconds: int | None,
) -> dict[str, Any]:
    """Translate to a RayJob that carries ``mark``; :data:`TRANSLATION` has it field by field.

    :param spec: one whose files are in S3.
    :param arguments: are added to those of the spec.
    :param deadline_seconds: after which KubeRay itself ends the run, whoever still watches it.
    :raises SpecError: a text cannot pass the shell of KubeRay's submitter, or a file is not in S3.
    """
    given = {key.removeprefix("--"): text_of(text) for key, text in {**spec.arguments, **arguments}.items()}
    runtime_env = _runtime_env(spec)
    _refuse_what_breaks(spec, given, runtime_env)
    name = rayjob_name(spec.name, mark)
    full = {MARK: mark, JOB: spec.name}
    full |= {key: spec.arguments[name] for name, key in _OWNERS.items() if name in spec.arguments}
    labels = {**{key: label_of(text) for key, text in full.items()}, RAYJOB: name}
    annotations = {
        **settings.annotations,
        **full,
        **({"glueray/tags": json.dumps(dict(spec.tags), sort_keys=True)} if spec.tags else {}),
        **({"glueray/description": spec.description} if spec.description else {}),
    }
    workers, memory = spec.workers, bytes_of(settings.resources["memory"]) or 0
    least, most = workers.min_workers or 0, workers.number_of_workers
    env = {key: text for key, text in given.items() if _ENV_NAME.fullmatch(key)}
    main = {"GLUERAY_SCRIPT": spec.script, "GLUERAY_ARGUMENTS": json.dumps(given), "GLUERAY_MAIN": _MAIN}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**settings.labels, **labels},
            "annotations": annotations,
        },
        "spec": {
            "entrypoint": _ENTRYPOINT,
            # JSON is YAML that no reader can misunderstand: 1e-5 or no in quotes stay texts.
            **({"runtimeEnvYAML": json.dumps(runtime_env, ensure_ascii=False)} if runtime_env else {}),
            # A pod of its own submits the job and prints the driver's log, which can then be read like that of any
            # pod and outlives the Ray cluster. HTTPMode has the log only inside of the cluster (kuberay#1374).
            "submissionMode": "K8sJobMode",
            # A retry is Airflow's: it knows what the run was for, and a second one here would be nobody's.
            "backoffLimit": 0,
            "submitterConfig": {"backoffLimit": 0},
            "submitterPodTemplate": _pod(SUBMITTER, settings, labels, settings.submitter_pod, {}),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
            **_deadline(deadline_seconds),
            "rayClusterSpec": {
                "rayVersion": settings.ray_version or _version_of(spec.runtime),
                "enableInTreeAutoscaling": least != most,
                "headGroupSpec": {
                    "rayStartParams": {
                        **_object_store(memory, workers.object_store_memory_head),
                        **_spilling(spec),
                    },
                    "template": _pod(HEAD, settings, labels, settings.head_pod, {**env, **main}),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": least,
                        "minReplicas": least,
                        "maxReplicas": most,
                        "rayStartParams": _object_store(memory, workers.object_store_memory_worker),
                        "template": _pod(WORKER, settings, labels, settings.worker_pod, env),
                    }
                ],
            },
        },
    }


def _deadline(seconds: int | None) -> dict[str, int]:
    return {} if seconds is None else {"activeDeadlineSeconds": min(max(seconds, 1), _MOST_SECONDS)}


def _runtime_env(spec: RayJobSpec) -> dict[str, Any]:
    return {
        **({"pip": list(spec.pip)} if spec.pip else {}),
        # Ray takes away the one folder at the root of an archive in S3, as Glue does (ray/…/runtime_env/packaging.py).
        **({"py_modules": list(spec.py_modules)} if spec.py_modules else {}),
        **({"working_dir": spec.working_dir} if spec.working_dir else {}),
    }


def _refuse_what_breaks(spec: RayJobSpec, given: Mapping[str, str], runtime_env: Mapping[str, Any]) -> None:
    problems = [f"{path!r} is local; KubeRay needs it in S3" for path in spec.local_files()]
    # kuberay/…/common/job.go puts the runtime environment between double quotes of a shell command.
    problems += [
        f"{name}: {text!r} has a '$' or a '`', which the shell of KubeRay's submitter would act on"
        for name, value in runtime_env.items()
        for text in ([value] if isinstance(value, str) else value)
        if re.search(r"[$`]", text)
    ]
    problems += [f"arguments: {key!r} holds a NUL character" for key, text in given.items() if "\0" in text]
    if problems:
        raise SpecError(problems)


def _version_of(runtime: str) -> str:
    """Return Glue's name of a runtime, such as Ray2.4, as a version of Ray."""
    numbers = re.findall(r"\d+", runtime)
    return ".".join([*numbers, "0", "0"][:3])


def _object_store(memory: int, percent: int | None) -> dict[str, str]:
    """Return bytes for ``ray start``. Glue has percent of the free memory; the pod's limit stands for that."""
    return {} if percent is None else {"object-store-memory": str(memory * percent // 100)}


def _spilling(spec: RayJobSpec) -> dict[str, str]:
    if not spec.spilling:
        return {}
    config = json.dumps({"object_spilling_config": text_of(spec.spilling)})
    # KubeRay puts the value into a shell command as it is, and Kubernetes replaces $(NAME) in it.
    quoted = config.replace("'", "\\u0027").replace("$", "\\u0024")
    return {"system-config": f"'{quoted}'"}


def _pod(
    container: str, settings: RayJobSettings, labels: Mapping[str, str], over: Mapping[str, Any], env: Mapping[str, str]
) -> dict[str, Any]:
    """Return a pod template with one container, and what the user lays over it."""
    is_submitter = container == SUBMITTER
    # What it asks for by default (kuberay/…/common/job.go): not what the workers ask for.
    small = {"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    whole = {"requests": dict(settings.resources), "limits": dict(settings.resources)}
    ours: dict[str, Any] = {
        "metadata": {"labels": {**labels, ROLE: container}},
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": settings.image,
                    "resources": small if is_submitter else whole,
                    # Kubernetes reads $(NAME) in a value as a reference, and $$ as a dollar.
                    "env": [{"name": key, "value": text.replace("$", "$$")} for key, text in env.items()],
                }
            ],
            "nodeSelector": dict(settings.node_selector),
            "tolerations": list(settings.tolerations),
            "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
            **({"restartPolicy": "Never"} if is_submitter else {}),
            **(
                {"serviceAccountName": settings.service_account}
                if settings.service_account and not is_submitter
                else {}
            ),
        },
    }
    merged: dict[str, Any] = _laid_over(ours, over)
    return merged


def _laid_over(ours: Any, theirs: Any) -> Any:
    """Merge mappings by key and lists of named things by name; anything else is replaced."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {key: _laid_over(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()}
        return {**ours, **theirs, **both}
    if ours and all(isinstance(each, Mapping) and "name" in each for part in (ours, theirs) for each in _listed(part)):
        named = {each["name"]: each for each in ours}
        for each in theirs:
            named[each["name"]] = _laid_over(named.get(each["name"], {}), each)
        return list(named.values())
    return theirs


def _listed(value: Any) -> Sequence[Any]:
    """Return a list as it is, and for anything else one that has no names in it."""
    return value if isinstance(value, (list, tuple)) else [None]


# -- what a status means ------------------------------------------------------------------------------------------

#: ``jobDeploymentStatus`` and what refines it: ``jobStatus`` for Running and Complete, ``reason`` for Failed; "" is
#: for any other. Source: kuberay/…/apis/ray/v1/rayjob_types.go. Complete without Ray's own SUCCEEDED fails closed.
KUBERAY_STATE: Mapping[tuple[str, str], RunState] = {
    ("", ""): RunState.QUEUED,  # KubeRay has not looked at it yet
    ("Initializing", ""): RunState.STARTING,
    ("Waiting", ""): RunState.STARTING,
    ("Running", ""): RunState.STARTING,  # the submitter is at work
    ("Running", "PENDING"): RunState.STARTING,
    ("Running", "RUNNING"): RunState.RUNNING,
    # Ray's word is final, and KubeRay may take minutes to repeat it (kuberay#2359, #3553).
    ("Running", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Running", "FAILED"): RunState.FAILED,
    ("Running", "STOPPED"): RunState.STOPPED,
    ("Complete", ""): RunState.FAILED,
    ("Complete", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Complete", "STOPPED"): RunState.STOPPED,
    ("Failed", ""): RunState.FAILED,
    ("Failed", "DeadlineExceeded"): RunState.TIMED_OUT,
    ("Failed", "PreRunningDeadlineExceeded"): RunState.TIMED_OUT,
    # Suspended by somebody else is waiting for a place, which is how Kueue works.
    ("Suspending", ""): RunState.QUEUED,
    ("Suspended", ""): RunState.QUEUED,
    ("Retrying", ""): RunState.STARTING,  # never with our backoffLimit
    # KubeRay leaves it so for ever (kuberay/…/rayjob_controller.go), so it is an end.
    ("ValidationFailed", ""): RunState.FAILED,
}
_WORDS = {deployment for deployment, _ in KUBERAY_STATE}
#: Reasons for which a container does not start, and that no waiting mends.
_HOPELESS_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})
#: What a container waits for in the ordinary course of things.
_ORDINARY = frozenset({"ContainerCreating", "PodInitializing", ""})


class Trouble(NamedTuple):
    """Why a run does not get under way: the word for it, the sentence, and whether waiting cannot help."""

    reason: str
    message: str
    is_hopeless: bool = False


def snapshot_of(rayjob: Mapping[str, Any], trouble: Trouble | None = None) -> RunSnapshot:
    """Read a RayJob as the API server returns it."""
    metadata, status = rayjob["metadata"], rayjob.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ref = RunRef(KUBERAY_JOB, annotations.get(JOB, ""), f"{metadata['namespace']}/{metadata['name']}")
    state, raw = _state_of(status)
    message = status.get("message") or ""
    was_asked = STOPPED in annotations or bool(metadata.get("deletionTimestamp"))
    if HOPELESS in annotations and not state.is_terminal:
        state, raw, message = RunState.FAILED, f"{raw}/hopeless", annotations[HOPELESS]
    elif was_asked and not state.is_terminal:
        state = RunState.STOPPED if raw == "Suspended" else RunState.STOPPING
        raw = raw if raw.startswith("Suspend") else f"{raw}/stopping"
    elif trouble is not None and not state.is_terminal:
        raw, message = f"{raw}/{trouble.reason}", trouble.message
    elif state is RunState.QUEUED and raw == "Suspended":
        message = f"It is suspended and waits for its turn; queue {(metadata.get('labels') or {}).get(QUEUE, 'none')}"
    started, ended = _time_of(status.get("startTime")), _time_of(status.get("endTime"))
    if ended is None and state.is_terminal:
        ended = _time_of((status.get("rayJobInfo") or {}).get("endTime"))
    return RunSnapshot(
        ref=ref,
        state=state,
        raw_state=raw,
        message=message[:2000],
        started=started,
        completed=ended,
        usage=_usage(rayjob, ended - started) if started and ended else None,
        recognised=status.get("jobDeploymentStatus", "") in _WORDS,
    )


def _state_of(status: Mapping[str, Any]) -> tuple[RunState, str]:
    """Return the state, and KubeRay's words for it."""
    word = status.get("jobDeploymentStatus", "")
    detail = status.get("reason" if word == "Failed" else "jobStatus", "")
    raw = f"{word}/{detail}" if detail and word in ("Running", "Complete", "Failed") else word or "New"
    known = KUBERAY_STATE.get((word, detail)) or KUBERAY_STATE.get((word, ""))
    if known is not None:
        return known, raw
    # An unknown word is active, unless KubeRay has set the time of its end.
    return (RunState.FAILED if status.get("endTime") else RunState.RUNNING), raw


def _time_of(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _usage(rayjob: Mapping[str, Any], seconds: float) -> Usage:
    """Reckon with the full size, the head among it: when autoscaling took pods away is not told."""
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pods = 1 + sum(int(group.get("maxReplicas") or 0) for group in groups)
    return Usage(seconds, pods, seconds * pods * MDPU_PER_WORKER / 3600)


def trouble_of(
    rayjob: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> Trouble | None:
    """Say why a RayJob does not get under way, from its pods, else from what KubeRay could not make.

    :param pods: those of this RayJob.
    :param events: warnings of its namespace, which may be about others.
    """
    found = [trouble for pod in pods for trouble in _troubles_of_pod(pod)]
    if found:
        return next((each for each in found if each.is_hopeless), found[0])
    status = rayjob.get("status") or {}
    if not status.get("jobDeploymentStatus"):
        text = "KubeRay has not taken it up. Does its operator run, and does it watch this namespace?"
        return Trouble("NotTakenUp", text)
    for condition in (status.get("rayClusterStatus") or {}).get("conditions", ()):
        if (condition["type"], condition["status"]) == ("ReplicaFailure", "True"):
            return Trouble(condition["reason"], condition.get("message", ""))
    mine = {rayjob["metadata"]["name"], status.get("rayClusterName")}
    about = [event for event in events if event.get("involvedObject", {}).get("name") in mine]
    if about:
        latest = max(about, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return Trouble(latest.get("reason", "Warning"), latest.get("message", ""))
    return None


def _troubles_of_pod(pod: Mapping[str, Any]) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason not in _ORDINARY:
            text = f"Container {container['name']} of pod {name}: {waiting.get('message') or reason}"
            # What a container died of says more than that its next start is put off.
            last = (container.get("lastState") or {}).get("terminated") or {}
            text += f"; it ended with {last.get('reason')} ({last.get('exitCode')})" if last else ""
            yield Trouble(reason, text, reason in _HOPELESS_REASONS)
    for condition in status.get("conditions", ()):
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            yield Trouble(condition.get("reason", "Unschedulable"), f"Pod {name}: {condition.get('message', '')}")
