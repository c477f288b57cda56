"""A spec as a request to Ray's Jobs API.

Floor 0: standard library only, pure. The cluster is there already and has its own size, image and storage, so what a
spec says of these is refused or told, never dropped without a word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.spec import RayJobSpec

#: Names in the metadata of a Ray job: whose it is, and the mark by which a lost answer is told from somebody else's.
MARK, NAME = "glueray_mark", "glueray_name"
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
#: Fetches a script that lies in a store and runs it as the main program, with the arguments that follow.
_FETCH = (
    "import runpy,sys,tempfile,urllib.parse as u;from pyarrow.fs import FileSystem as F;sys.argv=sys.argv[1:];"
    "s,p=F.from_uri(u.quote(sys.argv[0],safe=':/'));d=tempfile.mkdtemp()+'/'+p.split('/')[-1];"
    "open(d,'wb').write(s.open_input_stream(p).read());runpy.run_path(d,run_name='__main__')"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Places(NamedTuple):
    """Where the cluster finds what was local.

    :param script: the module that the script has become, or the URI of one that lies in a store.
    :param py_modules, working_dir: URIs.
    """

    script: str
    py_modules: tuple[str, ...] = ()
    working_dir: str | None = None


def submission_id_of(mark: str) -> str:
    """Return the id of the run with a mark; Ray takes an id only once."""
    return f"glueray-{mark}"


def to_ray_submission(spec: RayJobSpec, mark: str, places: Places, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Translate to the body of ``POST /api/jobs/``.

    Arguments reach the script as environment variables and as ``--name value``; the workers have the variables too,
    but for those with a hyphen in the name or a ``$`` in the value.

    :raises SpecError: a field asks for what only somebody who makes the cluster can give.
    """
    _refuse_what_a_cluster_has(spec)
    more = spec.overrides.get("ray", {})
    given = {key.removeprefix("--"): text for key, text in {**spec.arguments, **arguments}.items()}
    # Not every shell hands on a name that it could not set itself, and Ray would replace what follows a "$" in its
    # env_vars; env(1) does the one and not the other. Such a value reaches the script only, not its workers.
    odd = [f"{key}={text}" for key, text in given.items() if not _NAME.fullmatch(key) or "$" in text]
    words = ["env", *odd] if odd else []
    is_stored = "://" in places.script
    words += ["python", "-c", _FETCH, places.script] if is_stored else ["python", "-m", places.script]
    words += [word for key, text in given.items() for word in (f"--{key}", text)]
    env_vars = {key: text for key, text in given.items() if _NAME.fullmatch(key) and "$" not in text}
    more_env = more.get("runtime_env", {})
    runtime_env: dict[str, Any] = {
        **more_env,
        "env_vars": {**more_env.get("env_vars", {}), **env_vars},
        **({"pip": list(spec.pip)} if spec.pip else {}),
        **({"py_modules": list(places.py_modules)} if places.py_modules else {}),
        **({"working_dir": places.working_dir} if places.working_dir else {}),
    }
    return {
        **{name: value for name, value in more.items() if name not in ("runtime_env", "metadata")},
        "entrypoint": shlex.join(words),
        "submission_id": submission_id_of(mark),
        "runtime_env": runtime_env,
        "metadata": {**more.get("metadata", {}), MARK: mark, NAME: spec.name, **dict(spec.tags)},
    }


def _refuse_what_a_cluster_has(spec: RayJobSpec) -> None:
    asked = {
        "object_store_memory_head": spec.workers.object_store_memory_head,
        "object_store_memory_worker": spec.workers.object_store_memory_worker,
        "spilling": spec.spilling,
    }
    unknown = sorted(set(spec.overrides.get("ray", {})) - MEMBERS)
    problems = [
        f"{name}: it is set when a Ray cluster is started, and this one runs; take it out, or run on Glue or KubeRay"
        for name, value in asked.items()
        if value is not None
    ]
    problems += [f"overrides['ray'] has {name!r}; there are {', '.join(sorted(MEMBERS))}" for name in unknown]
    if problems:
        raise SpecError(problems)
