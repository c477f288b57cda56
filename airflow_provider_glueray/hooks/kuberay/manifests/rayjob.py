"""A spec as a RayJob, the custom resource of KubeRay.

Standard library only, no clock and no service, so a manifest can be printed, compared and validated without a cluster.
What is stated of KubeRay here was read in its v1.7.0; its files are named as ``kuberay/…``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.core.validation import text_of
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    CLIENT_TOKEN,
    GROUP,
    JOB,
    NO_NEW_HEAD,
    OWNER_LABELS,
    QUEUE,
    RAYJOB,
    STARTUP_TIMEOUT,
    VERSION,
    cluster_spec,
    label_value,
    rayjob_name,
)
from airflow_provider_glueray.hooks.kuberay.settings import MOST_SECONDS, RayJobSettings
from airflow_provider_glueray.packaging.programs import program_text

PLURAL = "rayjobs"
#: How a RayJob names the cluster that it runs in (kuberay/…/utils/constant.go RayJobClusterSelectorKey).
CLUSTER_SELECTOR = "ray.io/cluster"

#: Seconds by which KubeRay's own bound of a start is later than ours, which says what the run waited for.
SPARE_SECONDS = 120

#: Members of RayJobSettings that only the maker of a cluster can give.
_OF_CLUSTERS = ("ray_version", "service_account", "resources", "head_pod", "worker_pod", "ttl_seconds_after_finished")

# Ray writes the entrypoint to the log of the driver, so no text of a user is part of it: that is in the environment of
# the head pod, where the driver runs.
_ENTRYPOINT = "python -c \"import os; exec(os.environ['GLUERAY_MAIN'])\""
# A shared cluster has no environment for one run. There it comes with the runtime environment, in letters that Ray
# leaves alone. KubeRay ends no run in a cluster that is not its own (kuberay/…/rayjob_controller.go:
# the deadline only sets the status), so the program also sets an alarm for the run.
_SHARED_ENTRYPOINT = (
    'python -c "import base64, json, os; '
    "exec(json.loads(base64.b64decode(os.environ['GLUERAY_RUN']))['GLUERAY_MAIN'])\""
)

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def ignored_settings(spec: RayJobSpec, settings: RayJobSettings) -> Iterator[str]:
    """Tell what the spec asks for that KubeRay has not."""
    if spec.role:
        account = settings.service_account
        yield f"role={spec.role!r} is for AWS Glue; " + (
            f"the pods have the rights of the service account {account!r}"
            if account
            else "name a service account that is bound to an IAM role (IRSA) as 'service_account'"
        )
    if spec.logging_configuration:
        yield "logging_configuration is for AWS Glue; here there are the logs of the pods"
    if spec.max_concurrent_runs != 1:
        yield f"max_concurrent_runs={spec.max_concurrent_runs} is not kept by KubeRay; a queue of Kueue can"


def ignored_in_cluster(spec: RayJobSpec, settings: RayJobSettings, raycluster: Mapping[str, Any]) -> Iterator[str]:
    """Tell what the spec asks for that the cluster it shares has otherwise.

    :param raycluster: as the API server returns it.
    """
    there = raycluster["spec"]
    groups = there.get("workerGroupSpecs") or ()
    asked = {"max": spec.workers.number_of_workers, "min": spec.workers.min_workers}
    for word, field in (("max", "number_of_workers"), ("min", "min_workers")):
        has = sum(int(group.get(f"{word}Replicas") or 0) for group in groups)
        if asked[word] not in (None, has):
            yield f"{field}={asked[word]} is for a cluster of the run's own; {spec.cluster} has {has}"
    image = there["headGroupSpec"]["template"]["spec"]["containers"][0].get("image")
    if image != settings.image:
        yield f"image={settings.image!r} is for a cluster of the run's own; {spec.cluster} has {image!r}"
    odd = sorted(key for key, text in spec.arguments.items() if "$" in text_of(text))
    if odd:
        names = ", ".join(key.removeprefix("--") for key in odd)
        yield f"arguments: the script has them all, its workers not {names}: Ray would replace what follows a $"


def to_rayjob(
    spec: RayJobSpec,
    client_token: str,
    *,
    arguments: Mapping[str, str],
    settings: RayJobSettings,
    deadline_seconds: int | None,
    started_uri: str = "",
) -> dict[str, Any]:
    """Translate to a RayJob that carries a client token; docs/kuberay.md has it field by field.

    :param spec: one whose files are in S3.
    :param arguments: are added to those of the spec.
    :param deadline_seconds: after which KubeRay itself ends the run, whoever still watches it.
    :param started_uri: where the script's start is noted, so that there is no second one; "" for nowhere.
    :raises SpecError: a file is not in S3, or a field asks for what the cluster to share has already.
    """
    given = {key.removeprefix("--"): text_of(text) for key, text in {**spec.arguments, **arguments}.items()}
    runtime_env = _runtime_env(spec)
    _refuse_what_breaks(spec, given)
    name = rayjob_name(spec.name, client_token)
    full = {CLIENT_TOKEN: client_token, JOB: spec.name}
    full |= {key: spec.arguments[name] for name, key in OWNER_LABELS.items() if name in spec.arguments}
    labels = {**{key: label_value(text) for key, text in full.items()}, RAYJOB: name}
    annotations = {
        **settings.annotations,
        # The cluster inherits it.
        NO_NEW_HEAD: "true",
        STARTUP_TIMEOUT: str(settings.startup_timeout),
        **full,
        **({"glueray/tags": json.dumps(dict(spec.tags), sort_keys=True)} if spec.tags else {}),
        **({"glueray/description": spec.description} if spec.description else {}),
    }
    env = {key: text for key, text in given.items() if _ENV_NAME.fullmatch(key)}
    main = {
        "GLUERAY_SCRIPT": spec.script_uri,
        "GLUERAY_ARGUMENTS": json.dumps(given),
        **({"GLUERAY_STARTED": started_uri, "GLUERAY_NOTE_START": program_text("note_start")} if started_uri else {}),
        "GLUERAY_MAIN": program_text("fetch_and_run"),
    }
    if spec.cluster:
        _refuse_what_a_cluster_has(spec, settings.namespace)
        run = json.dumps({**main, "GLUERAY_SECONDS": str(deadline_seconds or 0)})
        plain = {key: text for key, text in env.items() if "$" not in text}
        runtime_env["env_vars"] = {**plain, "GLUERAY_RUN": base64.b64encode(run.encode()).decode()}
        where = {
            "entrypoint": _SHARED_ENTRYPOINT,
            "clusterSelector": {CLUSTER_SELECTOR: spec.cluster.partition("/")[2]},
            "shutdownAfterJobFinishes": False,
        }
    else:
        where = {
            "entrypoint": _ENTRYPOINT,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
            "rayClusterSpec": cluster_spec(
                spec.workers,
                spec.object_spilling_config,
                spec.runtime,
                settings=settings,
                labels=labels,
                head_env={**env, **main},
                worker_env=env,
            ),
        }
    # A queue of Kueue admits a cluster, not what runs in it.
    theirs = {key: text for key, text in settings.labels.items() if not (spec.cluster and key == QUEUE)}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**theirs, **labels},
            "annotations": annotations,
        },
        "spec": {
            **where,
            **({"runtimeEnvYAML": _to_yaml(runtime_env)} if runtime_env else {}),
            # The operator submits the job and asks the head about it: no pod follows the run whose end could be taken
            # for that of the run (docs/adr/0031).
            "submissionMode": "HTTPMode",
            # A head takes an id once, so that nobody can submit the run to it a second time.
            "jobId": job_id_of(client_token),
            # A retry is Airflow's: it knows what the run was for, and a second one here would be nobody's.
            "backoffLimit": 0,
            **_deadline("activeDeadlineSeconds", deadline_seconds),
            # For a run that nobody watches.
            **_deadline("preRunningDeadlineSeconds", settings.startup_timeout, SPARE_SECONDS),
        },
    }


def job_id_of(client_token: str) -> str:
    """Return the id of the Ray job of a run."""
    return f"glueray-{client_token}"


def _to_yaml(value: Mapping[str, Any]) -> str:
    """Return JSON, which is YAML that no reader can misunderstand: 1e-5 or no in quotes stay texts."""
    text = json.dumps(value, ensure_ascii=False)
    # What YAML has for no character of a text, or for the end of a line.
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _deadline(name: str, seconds: int | None, spare: int = 0) -> dict[str, int]:
    return {name: min(max(seconds, 1) + spare, MOST_SECONDS)} if seconds else {}


def _runtime_env(spec: RayJobSpec) -> dict[str, Any]:
    # Ray takes away the one folder at the root of an archive in S3, as Glue does (ray/…/runtime_env/packaging.py).
    given = {"pip": list(spec.pip), "py_modules": list(spec.py_modules), "working_dir": spec.working_dir}
    return {name: value for name, value in given.items() if value}


def _refuse_what_breaks(spec: RayJobSpec, given: Mapping[str, str]) -> None:
    problems = [f"{getattr(file, 'name', file)!r} is local; KubeRay needs it in S3" for file in spec.local_files()]
    problems += [f"arguments: {key!r} holds a NUL character" for key, text in given.items() if "\0" in text]
    if problems:
        raise SpecError(problems)


def _refuse_what_a_cluster_has(spec: RayJobSpec, namespace: str) -> None:
    asked = {
        "object_store_memory_head": spec.workers.object_store_memory_head,
        "object_store_memory_worker": spec.workers.object_store_memory_worker,
        "object_spilling_config": spec.object_spilling_config,
        **{f"overrides['kuberay'][{name!r}]": spec.overrides.get("kuberay", {}).get(name) for name in _OF_CLUSTERS},
    }
    problems = [
        f"{name}: it is set when a cluster is made, and {spec.cluster} is there; give it to what makes the cluster"
        for name, value in asked.items()
        if value is not None
    ]
    if str(spec.cluster).partition("/")[0] != namespace:
        problems.append(f"cluster={spec.cluster!r} is in another namespace than the connection's runs, {namespace!r}")
    if problems:
        raise SpecError(problems)
