"""A spec as a RayJob, the custom resource of KubeRay.

Floor 0: standard library only, no clock, no I/O, so a manifest can be printed, compared and validated without a
cluster. What is said of KubeRay here was read in its v1.7.0; its files are named as ``kuberay/…``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.kuberay_pods import (
    GROUP,
    JOB,
    MARK,
    OWNERS,
    RAYJOB,
    SUBMITTER,
    VERSION,
    cluster_spec,
    label_of,
    pod_of,
    rayjob_name,
)
from airflow_provider_glueray.kuberay_settings import MOST_SECONDS, RayJobSettings
from airflow_provider_glueray.rules import text_of
from airflow_provider_glueray.spec import RayJobSpec

PLURAL = "rayjobs"

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
    full |= {key: spec.arguments[name] for name, key in OWNERS.items() if name in spec.arguments}
    labels = {**{key: label_of(text) for key, text in full.items()}, RAYJOB: name}
    annotations = {
        **settings.annotations,
        **full,
        **({"glueray/tags": json.dumps(dict(spec.tags), sort_keys=True)} if spec.tags else {}),
        **({"glueray/description": spec.description} if spec.description else {}),
    }
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
            "submitterPodTemplate": pod_of(SUBMITTER, settings, labels, settings.submitter_pod, {}),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
            **_deadline(deadline_seconds),
            "rayClusterSpec": cluster_spec(
                spec.workers,
                spec.spilling,
                spec.runtime,
                settings=settings,
                labels=labels,
                head_env={**env, **main},
                worker_env=env,
            ),
        },
    }


def _deadline(seconds: int | None) -> dict[str, int]:
    return {} if seconds is None else {"activeDeadlineSeconds": min(max(seconds, 1), MOST_SECONDS)}


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
