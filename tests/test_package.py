"""The package as Airflow finds it: metadata, weight, serialisation, public names."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module, metadata
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager

import airflow_provider_glueray
from airflow_provider_glueray.core.errors import ConnectionConfigError
from airflow_provider_glueray.get_provider_info import get_provider_info
from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

HEAVY = {"boto3", "botocore", "aiobotocore", "ray", "pandas", "numpy", "pyarrow", "httpx", "kubernetes", "moto"}
#: What the dag processor imports, and what the command line does before it knows its command.
AT_PARSE = [
    "operators.glue_jobs", "operators.glue_sessions", "operators.notebooks", "operators.session_group",
    "operators.ray_clusters", "operators.cluster_group", "sensors.glue_jobs", "sensors.glue_sessions", "triggers.runs",
    "links.runs", "get_provider_info", "cli.main", "decorators.glue_ray",
]  # fmt: skip
#: Modules of ours that an import may load; each costs every forked parse.
MOST_MODULES = 32
#: Rooms and modules that need the standard library only.
PURE = [
    *(f"core.{name}" for name in ("runs", "logs", "errors", "validation", "spec", "backend", "follow", "clock")),
    "core.drivers", "core.watcher", "packaging.programs", "packaging.function_source", "notebooks.magics",
    "glueray_step",
    "glueray_step.values", "hooks.glue.requests", "hooks.glue.statements", "hooks.ray.requests", "hooks.ray.responses",
    *(f"hooks.kuberay.manifests.{name}" for name in ("pods", "rayjob", "raycluster")), "hooks.kuberay.settings",
    "hooks.kuberay.status",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded_by() -> dict[str, set[str]]:
    """Return, by module, what its import adds to sys.modules in a process that has airflow.sdk already.

    That is how the dag processor imports it: in a fork of its own for each parse.
    """
    code = (
        "import json, os, sys\nfrom airflow.sdk import BaseOperator, BaseSensorOperator\n"
        "from airflow.triggers.base import BaseTrigger\nbefore = set(sys.modules)\n"
        f"for module in {AT_PARSE!r}:\n"
        "    if os.fork() == 0:\n"
        "        __import__('airflow_provider_glueray.' + module)\n"
        "        print('LOADED ' + json.dumps([module, sorted(set(sys.modules) - before)]), flush=True)\n"
        "        os._exit(0)\n"
        "    assert os.wait()[1] == 0, module\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.removeprefix("LOADED ") for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    return {module: set(names) for module, names in map(json.loads, lines)}


@pytest.mark.parametrize("module", AT_PARSE)
def test_the_dag_processor_loads_nothing_heavy(module, loaded_by):
    """Every forked parse imports us afresh, so what comes with us is paid each time."""
    loaded = loaded_by[module]

    assert not HEAVY & {name.partition(".")[0] for name in loaded}
    ours = sorted(name for name in loaded if name.startswith("airflow_provider_glueray."))
    assert len(ours) <= MOST_MODULES, ours


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_needs_no_airflow(module):
    """Nor anything else that is not in the standard library."""
    code = f"import sys\nimport airflow_provider_glueray.{module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    foreign = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)

    assert foreign - {"airflow_provider_glueray", "__main__", "__mp_main__"} == set()


def test_the_metadata_fits_both_schemas():
    """The relaxed schema of the runtime, and what the strict one says of the keys we use."""
    home = Path(airflow.__file__).parent
    info = get_provider_info()
    jsonschema.validate(info, json.loads((home / "provider_info.schema.json").read_text()))
    strict = json.loads((home / "provider.yaml.schema.json").read_text())
    # The strict schema describes a source tree; these three keys exist only there.
    whole = {**info, "state": "ready", "source-date-epoch": 1764000000, "versions": ["0.1.0"]}
    jsonschema.validate(whole, strict)


def test_airflow_discovers_the_provider():
    """Under the name of its distribution, with its links and configuration."""
    (entry,) = [point for point in entry_points(group="apache_airflow_provider") if "glueray" in point.value]
    assert entry.load() is get_provider_info
    manager = ProvidersManager()

    assert "airflow-provider-glueray" in manager.providers
    assert "airflow_provider_glueray.links.runs.GlueRayRunLink" in manager.extra_links_class_names


def test_the_trigger_survives_serialisation():
    """What the triggerer rebuilds is what was deferred: no argument is lost on the way."""
    arguments = {
        "run": {"backend": "glue-job", "name": "n", "id": "jr_1"},
        "hook": {"aws_conn_id": "c", "region_name": "eu-west-1", "verify": False, "config": {"read_timeout": 5}},
        "policy": {"deadline": 1.0, "poll_interval": 2.0, "owns_run": False, "sources": ["script"]},
        "cursor": {"since_ms": 3, "seen": ["a"]},
        "kill": {"backend": "glue-job", "name": "n", "id": "jr_1"},
    }
    path, kwargs = GlueRayRunTrigger(**arguments).serialize()

    assert path == "airflow_provider_glueray.triggers.runs.GlueRayRunTrigger"
    assert json.loads(json.dumps(kwargs)) == arguments


def test_modules_listed_exist():
    """Each module that the metadata names can be imported and has something public in it."""
    info = get_provider_info()
    for key in ("operators", "sensors", "hooks", "triggers"):
        for entry in info[key]:
            for module in entry["python-modules"]:
                loaded = __import__(module, fromlist=["x"])
                assert any(
                    name.lower().startswith(("glueray", "glue_ray", "ray", "kuberay")) for name in vars(loaded)
                ), module


PUBLIC = {
    "operators.glue_jobs": {"GlueRayJobOperator"},
    "sensors.glue_jobs": {"GlueRayJobSensor"},
    "triggers.runs": {"GlueRayRunTrigger"},
    "hooks.glue.jobs": {"GlueRayJobHook"},
    "operators.glue_sessions": {
        "GlueRayCreateSessionOperator",
        "GlueRayStatementOperator",
        "GlueRayStopSessionOperator",
    },
    "operators.session_group": {"glue_ray_session"},
    "operators.ray_clusters": {"GlueRayCreateClusterOperator", "GlueRayDeleteClusterOperator"},
    "operators.cluster_group": {"glue_ray_cluster"},
    "decorators.glue_ray": {"glue_ray_task"},
    "glueray_step": {"report", "run"},
    "operators.notebooks": {"GlueRayNotebookOperator"},
    "sensors.glue_sessions": {"GlueRaySessionSensor"},
    "hooks.glue.sessions": {"GlueRaySessionHook"},
    "links.runs": {"GlueRayRunLink", "GlueRayLogsLink"},
    "core.spec": {"RayJobSpec", "Workers"},
    "core.runs": {"RunRef", "RunState", "RunSnapshot", "Outcome", "Usage"},
    "core.backend": {"RunBackend"},
}
HOOK_VERBS = {
    "hooks.glue.jobs.GlueRayJobHook": {
        "prepare", "ensure_job", "get_job", "delete_job", "submit", "find_runs", "latest_run", "describe", "read_logs",
        "stop", "url", "logs_url",
    },
    "hooks.glue.sessions.GlueRaySessionHook": {
        "stage", "create", "recreate", "wait_ready", "session", "list_sessions", "delete", "role_arn", "run_statement",
        "statements", "succeeded", "get_statement", "output", "find_runs", "describe", "read_logs", "stop", "url",
        "logs_url",
    },
    "hooks.kuberay.jobs.KubeRayHook": {"prepare", "submit", "find_runs", "latest_run"},
    "hooks.kuberay.runs.KubeRayRunsHook": {"describe", "read_logs"},
    "hooks.kuberay.clusters.KubeRayClusterHook": {"prepare", "find_runs", "list_clusters"},
    "hooks.kuberay.resource.KubeRayResourceHook": {"describe", "stop"},
    "hooks.kuberay.connection.KubeRayConnectionHook": {"read_logs", "url", "logs_url", "get_conn"},
    "hooks.ray.jobs.RayJobsHook": {
        "prepare", "find_runs", "latest_run", "describe", "read_logs", "stop", "url", "logs_url",
    },
    "hooks.ray.connection.RayConnectionHook": {"test_connection"},
    "hooks.glue.connection.GlueConnectionHook": {"start_once", "warn_of_region", "load"},
}  # fmt: skip
SHARED_WORDS = {
    "conn_id", "region_name", "verify", "botocore_config", "deferrable", "poll_interval", "run_timeout",
    "queue_timeout", "stop_on_kill",
}  # fmt: skip
OPERATOR_WORDS = {
    "operators.glue_jobs.GlueRayJobOperator": {
        "script", "role", "staging_uri", "job_name", "arguments", "number_of_workers", "min_workers", "worker_type",
        "pip", "py_modules", "working_dir", "object_spilling_config", "object_store_memory_head",
        "object_store_memory_worker", "logging_configuration",
        "max_concurrent_runs", "tags", "overrides", "wait_for_completion", "log_sources", "requirements",
        "check_requirements", "cluster",
    },
    "operators.glue_sessions.GlueRayCreateSessionOperator": {
        "role", "number_of_workers", "min_workers", "worker_type", "idle_timeout", "session_timeout", "pip",
        "py_modules", "working_dir", "staging_uri", "arguments", "object_store_memory_head",
        "object_store_memory_worker",
        "tags", "session_id", "object_spilling_config", "logging_configuration",
    },
    "operators.glue_sessions.GlueRayStatementOperator": {"session_id", "code", "recreate_on_timeout"},
    "operators.glue_sessions.GlueRayStopSessionOperator": {"session_id", "delete"},
    "operators.ray_clusters.GlueRayCreateClusterOperator": {
        "number_of_workers", "min_workers", "worker_type", "object_store_memory_head", "object_store_memory_worker",
        "object_spilling_config", "cluster_name", "max_lifetime", "tags", "overrides",
    },
    "operators.ray_clusters.GlueRayDeleteClusterOperator": {"cluster"},
    "operators.notebooks.GlueRayNotebookOperator": {
        "notebook", "output_notebook", "parameters", "session_id", "role", "number_of_workers", "min_workers",
        "idle_timeout", "session_timeout", "pip", "tags", "py_modules", "working_dir", "staging_uri", "cluster",
        "overrides",
    },
}  # fmt: skip


def named(path: str):
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"airflow_provider_glueray.{module}"), name)


def words_of(operator: type) -> set[str]:
    """Return the parameters of an operator and of what it stands on, below Airflow's own."""
    return {
        name
        for cls in operator.__mro__
        if cls.__module__.startswith("airflow_provider_glueray")
        for name, part in inspect.signature(cls.__init__).parameters.items()
        if part.kind == part.KEYWORD_ONLY
    }


def test_public_names_stay():
    """A name that users write does not change by accident."""
    for module, names in PUBLIC.items():
        assert all(hasattr(import_module(f"airflow_provider_glueray.{module}"), name) for name in names), module
    for path, verbs in HOOK_VERBS.items():
        parts = vars(named(path)).items()
        assert {name for name, part in parts if inspect.isfunction(part) and name[0] != "_"} == verbs, path
    for path, words in OPERATOR_WORDS.items():
        assert words_of(named(path)) == words | SHARED_WORDS, path
        assert set(named(path).template_fields) <= words | SHARED_WORDS, path


def test_a_ray_cluster_is_spoken_to_without_ray():
    """The package need not be there."""
    code = "import sys; sys.modules['ray'] = None; import airflow_provider_glueray.hooks.ray.jobs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:ProvidersManager")
def test_the_form_of_a_ray_connection():
    """Airflow shows its fields without importing the hook; the button asks the hook."""
    manager = ProvidersManager()

    assert dict(manager.hooks)["ray"].hook_class_name == "airflow_provider_glueray.hooks.ray.jobs.RayJobsHook"
    fields = {name for name in manager.connection_form_widgets if name.startswith("extra__ray__")}
    # Below 3.2, Airflow knows no fields that a provider declares, and shows the extra.
    knows_fields = "conn-fields" in inspect.getsource(sys.modules[ProvidersManager.__module__])
    declared = {"extra__ray__headers", "extra__ray__verify", "extra__ray__aws_conn_id"}
    assert fields == (declared if knows_fields else set())
    hook = named("hooks.ray.jobs.RayJobsHook")
    assert (hook.conn_type, hook.conn_name_attr) == ("ray", "ray_conn_id")


#: A deprecated provider of others registers connections of type ray, with an address in the extra and no host.
ASTRO = {
    "package-name": "astro-provider-ray",
    "name": "Ray",
    "description": "An integration between airflow and ray",
    "connection-types": [{"connection-type": "ray", "hook-class-name": "ray_provider.hooks.RayHook"}],
    "versions": ["0.3.1"],
}
#: What a provider of Airflow's own would register: likewise, by its pull request.
COMMUNITY = {
    **ASTRO,
    "package-name": "apache-airflow-providers-ray",
    "connection-types": [
        {"connection-type": "ray", "hook-class-name": "airflow.providers.ray.hooks.ray.RayHook", "hook-name": "Ray"}
    ],
}


@pytest.mark.parametrize("other", [ASTRO, COMMUNITY], ids=["astro", "community"])
def test_another_provider_registers_connections_of_type_ray(tmp_path, other):
    """Airflow keeps one of the two forms and warns; whichever it is, our hook is found by our operators."""
    package = other["package-name"].replace("-", "_")
    info = tmp_path / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other['package-name']}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[apache_airflow_provider]\nprovider_info={package}_info:get_info\n")
    (tmp_path / f"{package}_info.py").write_text(f"def get_info():\n    return {other!r}\n")
    code = (
        "import json\nfrom airflow.providers_manager import ProvidersManager\n"
        "from airflow_provider_glueray.hooks.registry import backend_for_connection, hook_kwargs, make_hook\n"
        "providers = set(ProvidersManager().providers)\n"
        "hook = make_hook(backend_for_connection('r'), hook_kwargs('ray-job', 'r', None, None, None))\n"
        "print('FOUND ' + json.dumps([sorted(providers), type(hook).__name__, hook._base]))\n"
    )
    connection = json.dumps({"conn_type": "ray", "extra": {"address": "http://ray-head:8265"}})
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "AIRFLOW_CONN_R": connection}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    providers, hook, base = json.loads(line.removeprefix("FOUND "))

    assert {"airflow-provider-glueray", other["package-name"]} <= set(providers)
    assert (hook, base) == ("RayJobsHook", "http://ray-head:8265")


@pytest.mark.parametrize(
    ("fields", "base"),
    [
        ({"host": "ray-head"}, "http://ray-head:8265"),
        ({"host": "ray-head", "port": 1}, "http://ray-head:1"),
        ({"host": "https://ray.example/"}, "https://ray.example"),
        ({"extra": {"address": "http://ray-head:8265/"}}, "http://ray-head:8265"),
        ({"extra": {"address": "ray-head:8265"}}, "http://ray-head:8265"),
        ({"host": "mine", "extra": {"address": "http://theirs:1"}}, "http://mine:8265"),
        ({"extra": {"address": "ray://ray-head:10001"}}, "Ray's Jobs API is at http:// or https://"),
        ({"extra": {"extra__ray__address": "http://ray-head:8265"}}, "http://ray-head:8265"),
        ({"extra": {"extra__kubernetes__address": "http://ray-head:8265"}}, "http://ray-head:8265"),
        (
            {"extra": {"kube_config": "{}"}},
            "It has 'kube_config': clusters are made by a connection of type",
        ),
        ({}, "has no host, and no 'address' in its extra"),
    ],
)
def test_both_layouts_of_a_ray_connection_are_read(monkeypatch, fields, base):
    """Ours, and the address of other providers; what leads to Ray's client port is refused in words."""
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", **fields}))
    hook = named("hooks.ray.jobs.RayJobsHook")()
    if base.startswith("http"):
        assert hook._base == base
    else:
        with pytest.raises(ConnectionConfigError, match=base):
            _ = hook._base


def test_public_names_stand_at_the_root():
    """Each is what its documented module has, a type checker sees it too, and none is loaded before it is asked for."""
    root = Path(airflow_provider_glueray.__file__).read_text(encoding="utf-8")
    for name, module in airflow_provider_glueray._MODULES.items():
        assert getattr(airflow_provider_glueray, name) is named(f"{module}.{name}")
        assert f"{name} as {name}" in root, f"a type checker does not see {name}"
    assert set(airflow_provider_glueray.__all__) == set(airflow_provider_glueray._MODULES)
    code = (
        "import sys, airflow_provider_glueray\nprint(len([m for m in sys.modules if 'glueray' in m or 'airflow' in m]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_the_version_is_written_once():
    """In the package; its metadata is made from there."""
    assert metadata.version("airflow-provider-glueray") == airflow_provider_glueray.__version__


@pytest.mark.parametrize("given", [{"X-Who": "me"}, '{"X-Who": "me"}'], ids=["mapping", "text"])
def test_headers_and_cookies_may_be_texts(monkeypatch, given):
    """As a form with text fields stores them."""
    extra = {"address": "http://ray-head:8265", "headers": given, "cookies": given, "metadata": "", "verify": False}
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "extra": extra}))
    client = named("hooks.ray.jobs.RayJobsHook")()._client

    assert client.headers["X-Who"] == "me"
    assert client.cookies["X-Who"] == "me"


@pytest.mark.parametrize("given", ["X-Who: me", "[1]", [1]])
def test_headers_of_another_kind_are_refused(monkeypatch, given):
    connection = {"conn_type": "ray", "host": "ray-head", "extra": {"headers": given}}
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps(connection))
    with pytest.raises(ConnectionConfigError, match=r"'headers' .* is no JSON object of names"):
        _ = named("hooks.ray.jobs.RayJobsHook")()._client


def test_another_provider_for_ray_is_named(tmp_path, monkeypatch):
    """Ours is not, nor one that has nothing to do with Ray."""
    for name in ("astro-provider-ray", "apache-airflow-providers-array"):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[apache_airflow_provider]\nprovider_info=nowhere:get\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert named("hooks.ray.connection.other_ray_providers")() == ["astro-provider-ray"]
