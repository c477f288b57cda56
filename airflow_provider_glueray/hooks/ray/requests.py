"""A spec as a request to Ray's Jobs API.

Standard library only, pure. The cluster is there already and has its own size, image and storage, so what a spec says
of these is refused or noted, never dropped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.hooks.ray.responses import CLIENT_TOKEN, NAME, ClusterSize
from airflow_provider_glueray.packaging.programs import program_text

#: Members of the request that ``overrides["ray"]`` may set (ray/dashboard/modules/job/common.py, JobSubmitRequest).
MEMBERS = frozenset(
    {
        "entrypoint_num_cpus",
        "entrypoint_num_gpus",
        "entrypoint_memory",
        "entrypoint_resources",
        "entrypoint_label_selector",
        "runtime_env",
        "metadata",
    }
)
#: Runs the program in an environment variable. Ray writes the entrypoint to the log of the driver, so that has no more
#: than this line of it.
_RUN = 'import os; exec(os.environ["{}"])'
#: CPUs of a Z.2X worker.
CPUS_PER_WORKER = 8
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class PackageUris(NamedTuple):
    """Where the cluster finds what was local.

    :param script: the module that the script has become, or the URI of one that lies in a store.
    :param py_modules, working_dir: URIs.
    """

    script: str
    py_modules: tuple[str, ...] = ()
    working_dir: str | None = None


def sizing_message(workers: Workers, size: ClusterSize) -> str:
    """Say how the cluster serves the workers that a spec asks for."""
    ceiling = f"number_of_workers={workers.number_of_workers} is not kept: others use the cluster too"
    if not workers.min_workers:
        return f"The cluster has its own size; {ceiling}"
    floor = f"min_workers={workers.min_workers} is a floor of {workers.min_workers * CPUS_PER_WORKER}"
    has = "How large the cluster is cannot be seen" if size.cpus is None else f"The cluster has {size.cpus} CPUs"
    if size.scales:
        return f"{has} and scales; {floor}, which is asked for. {ceiling}"
    grows = "" if size.cpus is None else " and does not scale"
    return f"{has}{grows}; {floor}, of which the run waits for one. {ceiling}"


def submission_id_of(client_token: str) -> str:
    """Return the id of the run with a client token; Ray takes an id only once."""
    return f"glueray-{client_token}"


def to_ray_submission(
    spec: RayJobSpec, client_token: str, places: PackageUris, arguments: Mapping[str, str], *, scales: bool = False
) -> dict[str, Any]:
    """Translate to the body of ``POST /api/jobs/``; docs/ray.md has it field by field.

    Arguments reach the script as environment variables and as ``--name value``; the workers have the variables too,
    but for those with a hyphen in the name or a ``$`` in the value.

    :param scales: whether the cluster has an autoscaler that can be asked for ``min_workers``.
    :raises SpecError: a field asks for what only somebody who makes the cluster can give.
    """
    _refuse_what_a_cluster_has(spec)
    more = spec.overrides.get("ray", {})
    given = {key.removeprefix("--"): text for key, text in {**spec.arguments, **arguments}.items()}
    env_vars = {key: text for key, text in given.items() if _NAME.fullmatch(key) and "$" not in text}
    # Not every shell hands on a name that it could not set itself, and Ray would replace what follows a "$" in its
    # env_vars; env(1) does the one and not the other. Such a value reaches the script only, not its workers.
    odd = [f"{key}={text}" for key, text in given.items() if key not in env_vars]
    words = ["env", *odd] if odd else []
    is_stored = "://" in places.script
    words += ["python", "-c", _RUN.format("GLUERAY_MAIN")] if is_stored else ["python", "-m"]
    words += [places.script, *(word for key, text in given.items() for word in (f"--{key}", text))]
    least = spec.workers.min_workers or 0
    asks = least and not any(name.startswith("entrypoint_") for name in more)
    if is_stored:
        env_vars["GLUERAY_MAIN"] = program_text("fetch_and_run")
    if least and scales:
        words = ["python", "-c", _RUN.format("GLUERAY_RUN_WITH_MIN_WORKERS"), str(least * CPUS_PER_WORKER), *words]
        env_vars["GLUERAY_RUN_WITH_MIN_WORKERS"] = program_text("run_with_min_workers")
        env_vars["GLUERAY_REQUEST_MIN_WORKERS"] = program_text("request_min_workers")
    more_env = more.get("runtime_env", {})
    own_env = {"pip": list(spec.pip), "py_modules": list(places.py_modules), "working_dir": places.working_dir}
    runtime_env = {
        **more_env,
        "env_vars": {**more_env.get("env_vars", {}), **env_vars},
        **{name: value for name, value in own_env.items() if value},
    }
    return {
        # A run that must have room waits for it, as PENDING; without, it would start on a cluster that is full.
        **({"entrypoint_num_cpus": 1} if asks else {}),
        **{name: value for name, value in more.items() if name not in ("runtime_env", "metadata")},
        "entrypoint": shlex.join(words),
        "submission_id": submission_id_of(client_token),
        "runtime_env": runtime_env,
        "metadata": {**more.get("metadata", {}), CLIENT_TOKEN: client_token, NAME: spec.name, **dict(spec.tags)},
    }


def _refuse_what_a_cluster_has(spec: RayJobSpec) -> None:
    asked = {
        "object_store_memory_head": spec.workers.object_store_memory_head,
        "object_store_memory_worker": spec.workers.object_store_memory_worker,
        "object_spilling_config": spec.object_spilling_config,
    }
    unknown = sorted(set(spec.overrides.get("ray", {})) - MEMBERS)
    problems = [
        f"{name}: it is set when a Ray cluster is started, and this one runs; take it out, or run on Glue or KubeRay"
        for name, value in asked.items()
        if value is not None
    ]
    if spec.cluster:
        problems.append(f"cluster={spec.cluster!r}: the connection is the cluster; take it out, or run on KubeRay")
    problems += [f"overrides['ray'] has {name!r}; there are {', '.join(sorted(MEMBERS))}" for name in unknown]
    if problems:
        raise SpecError(problems)
