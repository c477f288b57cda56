"""RayJobs by plain calls: manifests against KubeRay's published schema, names, labels, shells, what states mean."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.runs import RunState, Usage
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    CLIENT_TOKEN,
    HEAD,
    JOB,
    NO_NEW_HEAD,
    STOPPED,
    UNRECOVERABLE,
    WORKER,
    label_value,
    rayjob_name,
)
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import (
    ignored_in_cluster,
    ignored_settings,
    to_rayjob,
)
from airflow_provider_glueray.hooks.kuberay.reasons import PendingReason, pending_reason, startup_timeout_reason
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings, amount_of
from airflow_provider_glueray.hooks.kuberay.status import KUBERAY_JOB_STATE, began_at, snapshot_of
from tests.documents import documented_fields
from tests.hooks.kuberay import kubernetes_api

NASTY = 'it\'s $HOME; `id` $(PATH) "1e-5" \\ 100% {x} é\n\tno'


def spec(**changes: Any) -> RayJobSpec:
    return RayJobSpec(**{"name": "nightly-clean", "script": "s3://bucket/clean.py", **changes})


def manifest(client_token: str = "m1", deadline: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return the manifest of a spec; members of the settings are given as `kuberay`."""
    over = RayJobSettings.of({"image": "ours/ray:2.4.0"}, changes.pop("kuberay", {}), namespace="etl")
    return to_rayjob(spec(**changes), client_token, arguments={}, settings=over, deadline_seconds=deadline)


def pod(rayjob: dict[str, Any], container: str) -> dict[str, Any]:
    """Return the specification of one of the pods."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    template = {
        HEAD: cluster["headGroupSpec"]["template"],
        WORKER: cluster["workerGroupSpecs"][0]["template"],
    }[container]
    return template["spec"]


def environment(rayjob: dict[str, Any], container: str) -> dict[str, str]:
    """Return the environment of a pod's container as Kubernetes makes it: $$ is a dollar."""
    return {each["name"]: each["value"].replace("$$", "$") for each in pod(rayjob, container)["containers"][0]["env"]}


class TestManifest:
    @settings(max_examples=60)
    @given(
        st.builds(
            RayJobSpec,
            name=st.text(min_size=1, max_size=255),
            script=st.just("s3://bucket/a b.py"),
            role=st.sampled_from([None, "GlueRayRole"]),
            arguments=st.dictionaries(
                st.from_regex(r"[A-Za-z0-9._-]{1,30}", fullmatch=True).filter(
                    lambda key: f"--{key}" not in ("--min-workers", "--pip-install", "--s3-py-modules", "--working-dir")
                ),
                st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            ),
            workers=st.builds(
                Workers,
                number_of_workers=st.integers(2, 50),
                min_workers=st.sampled_from([None, 0, 2]),
                object_store_memory_head=st.sampled_from([None, 1, 100]),
            ),
            pip=st.lists(st.sampled_from(["s3fs==2023.4.0", "x~=1.0", "y @ https://h/y-1-py3-none-any.whl"])),
            py_modules=st.lists(st.just("s3://bucket/m.zip"), max_size=2),
            working_dir=st.sampled_from([None, "s3://bucket/d.zip"]),
            object_spilling_config=st.sampled_from(
                [None, {"type": "smart_open", "params": {"uri": "s3://b/it's $HOME"}}]
            ),
            description=st.text(max_size=50),
            tags=st.dictionaries(st.text(min_size=1, max_size=128), st.text(max_size=256), max_size=3),
        ),
        st.uuids().map(lambda value: value.hex),
    )
    def test_kubernetes_would_take_it(self, of: RayJobSpec, client_token: str):
        """Whatever the spec, there is no member that the schema does not have, and nothing a label may not hold."""
        one = RayJobSettings.of({"image": "i", "service_account": "s"}, namespace="etl")
        rayjob = to_rayjob(of, client_token, arguments={}, settings=one, deadline_seconds=60)

        assert kubernetes_api.problems_of(rayjob) == []
        name, labels = rayjob["metadata"]["name"], rayjob["metadata"]["labels"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name)
        assert all(re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", text) for text in labels.values())
        assert rayjob["metadata"]["annotations"][JOB] == of.name
        assert json.dumps(rayjob) == json.dumps(
            to_rayjob(of, client_token, arguments={}, settings=one, deadline_seconds=60)
        )

    def test_the_whole(self):
        """What the issue asks for, and the migration guide."""
        workers = Workers(10, 2, object_store_memory_head=25, object_store_memory_worker=50)
        rayjob = manifest(deadline=7200, workers=workers, pip=["s3fs==2023.4.0"], py_modules=["s3://b-b/m.zip"],
                          working_dir="s3://b-b/d.zip", arguments={"day": "2026-03-01"},
                          kuberay={"service_account": "etl"})  # fmt: skip
        given, cluster = rayjob["spec"], rayjob["spec"]["rayClusterSpec"]
        [group] = cluster["workerGroupSpecs"]

        assert (given["activeDeadlineSeconds"], given["ttlSecondsAfterFinished"]) == (7200, 600)
        assert (given["shutdownAfterJobFinishes"], given["backoffLimit"]) == (True, 0)
        assert cluster["rayVersion"] == "2.4.0"
        assert cluster["enableInTreeAutoscaling"] is True
        assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 10)
        assert group["rayStartParams"] == {"object-store-memory": str(28 * 1024**3)}
        assert cluster["headGroupSpec"]["rayStartParams"] == {"object-store-memory": str(14 * 1024**3)}
        assert yaml.safe_load(given["runtimeEnvYAML"]) == {
            "pip": ["s3fs==2023.4.0"], "py_modules": ["s3://b-b/m.zip"], "working_dir": "s3://b-b/d.zip",
        }  # fmt: skip
        for container in (HEAD, WORKER):
            shape = {"cpu": "7", "memory": "56Gi"}
            assert pod(rayjob, container)["containers"][0]["resources"] == {"requests": shape, "limits": shape}
            assert pod(rayjob, container)["nodeSelector"] == {"kubernetes.io/arch": "arm64"}
            assert pod(rayjob, container)["serviceAccountName"] == "etl"
            assert environment(rayjob, container)["day"] == "2026-03-01"
            assert pod(rayjob, container)["terminationGracePeriodSeconds"] <= 5

    def test_a_size_that_stays(self):
        cluster = manifest(workers=Workers(3, 3))["spec"]["rayClusterSpec"]

        assert cluster["enableInTreeAutoscaling"] is False
        assert cluster["workerGroupSpecs"][0]["replicas"] == 3

    def test_the_documentation_has_every_field(self):
        """So that none is dropped without a word; what differs in a shared cluster is of some of them."""
        given = {each.name for kind in (RayJobSpec, Workers) for each in fields(kind)} - {"workers"}

        assert documented_fields("kuberay.md", "in the RayJob") == given
        assert documented_fields("kuberay.md", "in a shared cluster") < given

    def test_what_is_not_used_is_noted(self):
        notes = [
            *ignored_settings(
                spec(role="R", logging_configuration={"S3": False}, max_concurrent_runs=3), RayJobSettings("i")
            )
        ]

        assert [note.split("=")[0].split()[0] for note in notes] == [
            "role",
            "logging_configuration",
            "max_concurrent_runs",
        ]
        assert list(ignored_settings(spec(), RayJobSettings("i"))) == []

    def test_local_files_are_refused(self):
        with pytest.raises(SpecError, match=r"'etl\.py' is local"):
            manifest(script="etl.py")

    def test_a_head_is_never_started_again(self):
        """Not in its pod, not as a new pod, and nobody submits to it twice: each would run the script once more."""
        rayjob = manifest()

        assert pod(rayjob, HEAD)["restartPolicy"] == "Never"
        assert rayjob["metadata"]["annotations"][NO_NEW_HEAD] == "true"
        assert (rayjob["spec"]["submissionMode"], rayjob["spec"]["jobId"]) == ("HTTPMode", "glueray-m1")
        theirs = manifest(kuberay={"annotations": {NO_NEW_HEAD: "false"}})
        assert theirs["metadata"]["annotations"][NO_NEW_HEAD] == "true"
        with pytest.raises(SpecError, match="head_pod: restartPolicy must be Never"):
            manifest(kuberay={"head_pod": {"spec": {"restartPolicy": "OnFailure"}}})


class TestSettings:
    def test_what_is_unknown(self):
        """Peers drop such keys without a word."""
        with pytest.raises(SpecError, match="there is no 'node_selecter'; there are annotations, head_pod, image"):
            manifest(kuberay={"node_selecter": {}})

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"image": ""}, "image must be the name"),
            ({"namespace": "x"}, "is a field of the connection"),
            ({"tolerations": {"key": "x"}}, "tolerations=.* must be a list"),
            ({"node_selector": "arm64"}, "node_selector='arm64' must be a mapping"),
            ({"ttl_seconds_after_finished": -1}, "0 or more"),
            ({"keep_finished_days": "7"}, "keep_finished_days='7' must be a whole number"),
            ({"resources": {"memory": "a lot"}}, "no quantity such as 56Gi"),
        ],
    )
    def test_what_is_wrong(self, given, words):
        with pytest.raises(SpecError, match=words):
            manifest(kuberay=given)

    def test_pods(self):
        """Parts are laid over ours: containers by name, others beside them, and what is said of a size counts."""
        over = {
            "ray_version": "2.52.0",
            "resources": {"cpu": "7500m", "memory": "56Gi"},
            "node_selector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "ray", "operator": "Exists"}],
            "image_pull_secrets": ["ours"],
            "labels": {"kueue.x-k8s.io/queue-name": "etl"},
            "annotations": {"team": "data"},
            "head_pod": {
                "metadata": {"labels": {"x": "y"}},
                "spec": {
                    "priorityClassName": "high",
                    "containers": [
                        {"name": HEAD, "env": [{"name": "RAY_LOG_TO_STDERR", "value": "1"}]},
                        {"name": "logs", "image": "fluent-bit"},
                    ],
                },
            },
        }
        rayjob = manifest(kuberay=over, workers=Workers(2, object_store_memory_head=50))
        head = pod(rayjob, HEAD)

        assert kubernetes_api.problems_of(rayjob) == []
        assert [each["name"] for each in head["containers"]] == [HEAD, "logs"]
        assert head["containers"][0]["image"] == "ours/ray:2.4.0"
        assert {"RAY_LOG_TO_STDERR", "GLUERAY_MAIN"} <= set(environment(rayjob, HEAD))
        assert (head["priorityClassName"], head["imagePullSecrets"]) == ("high", [{"name": "ours"}])
        assert pod(rayjob, WORKER)["containers"][0]["resources"]["limits"] == {"cpu": "7500m", "memory": "56Gi"}
        cluster = rayjob["spec"]["rayClusterSpec"]
        assert cluster["rayVersion"] == "2.52.0"
        assert cluster["headGroupSpec"]["rayStartParams"]["object-store-memory"] == str(28 * 1024**3)
        labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
        assert labels["x"] == "y"
        assert "kueue.x-k8s.io/queue-name" not in labels  # of the RayJob alone, or Kueue would queue each pod
        assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "etl"
        assert rayjob["metadata"]["annotations"]["team"] == "data"

    @pytest.mark.parametrize(
        ("text", "count"), [("64Gi", 64 * 1024**3), ("1.5G", 1_500_000_000), (1024, 1024), ("512Mi", 512 * 1024**2),
                            ("500m", 0.5), ("0.1", 0.1), ("lots", None), ("64 gb", None)],
    )  # fmt: skip
    def test_quantities(self, text, count):
        assert amount_of(text) == count


class TestNames:
    def test_the_same_for_the_same_mark(self):
        """So that a start that is sent twice makes one run."""
        assert rayjob_name("nightly", "m1") == rayjob_name("nightly", "m1")
        assert rayjob_name("nightly", "m1") != rayjob_name("nightly", "m2")
        assert rayjob_name("a-b", "m1") != rayjob_name("a_b", "m1")

    @pytest.mark.parametrize("name", ["2026_load", "Über.dag-Task", "---", "a" * 255, "日本"])
    def test_what_dns_takes(self, name):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", rayjob_name(name, "m"))

    def test_labels(self):
        """What a label can hold stays; of the rest, the annotation has it in full."""
        run = "scheduled__2026-03-01T02:00:00+00:00"
        arguments = {"airflow_dag_id": "d", "airflow_task_id": "group.t", "airflow_run_id": run}
        metadata = manifest(arguments=arguments)["metadata"]

        assert metadata["labels"]["glueray/dag"] == "d"
        assert metadata["labels"]["glueray/task"] == "group.t"
        assert metadata["labels"]["glueray/run"].startswith("scheduled__2026-03-01T02-00-00-00-00-")
        assert metadata["annotations"]["glueray/run"] == run
        assert metadata["annotations"][CLIENT_TOKEN] == metadata["labels"][CLIENT_TOKEN] == "m1"
        assert label_value("a b") != label_value("a-b")


def played(tmp_path: Path, rayjob: dict[str, Any], source: str = "") -> str:
    """Run the entrypoint as Ray's job supervisor does, which has it from KubeRay as it is; return what it prints."""
    script = tmp_path / "a script.py"
    script.write_text(
        source
        or "import json, os, sys\n"
        "print(json.dumps({'argv': sys.argv[1:], 'name': __name__, 'file': __file__, **os.environ}))\n"
    )
    uri = script.as_uri().replace("%20", " ")
    if "rayClusterSpec" in rayjob["spec"]:
        env = {**environment(rayjob, HEAD), "GLUERAY_SCRIPT": uri}
    else:
        env = as_ray_sets(rayjob["spec"]["runtimeEnvYAML"])
        run = json.loads(base64.b64decode(env["GLUERAY_RUN"]))
        env["GLUERAY_RUN"] = base64.b64encode(json.dumps({**run, "GLUERAY_SCRIPT": uri}).encode()).decode()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        rayjob["spec"]["entrypoint"],
        shell=True,
        env={**env, "PATH": path, "HOME": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else f"{done.returncode}: {done.stdout}{done.stderr}"


def as_ray_sets(runtime_env_yaml: str) -> dict[str, str]:
    """Do with the variables of a runtime environment what Ray does (ray/_private/utils.py update_envs)."""
    # KubeRay reads the YAML and sends it as JSON (ray-operator/…/dashboard_httpclient.go ConvertRayJobToReq).
    env = yaml.safe_load(runtime_env_yaml)["env_vars"]
    return {name: re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(text)) for name, text in sorted(env.items())}


class TestArguments:
    """What a user says passes YAML, JSON, the shell of Ray's job supervisor and Ray's own hands unharmed."""

    def test_through_the_shell(self, tmp_path):
        rayjob = manifest(arguments={"nasty": NASTY, "with-hyphen": "1e-5", "0": "", "day": "2026-03-01"})
        seen = json.loads(played(tmp_path, rayjob))

        assert (seen["nasty"], seen["with-hyphen"], seen["0"], seen["day"]) == (NASTY, "1e-5", "", "2026-03-01")
        assert seen["argv"] == ["--nasty", NASTY, "--with-hyphen", "1e-5", "--0", "", "--day", "2026-03-01"]
        assert (seen["name"], Path(seen["file"]).name) == ("__main__", "a script.py")

    def test_workers_have_them(self):
        """Those that every Kubernetes takes as a name of a variable; the driver has all."""
        env = environment(manifest(arguments={"nasty": NASTY, "0": "x"}), WORKER)

        assert env == {"nasty": NASTY}

    def test_spilling_through_a_shell(self):
        """KubeRay puts the value into `ray start --head --system-config=…` as it is; Ray reads it as JSON, twice."""
        wanted = {"type": "smart_open", "params": {"uri": ["s3://b/it's $HOME", "s3://b/`id` $(PATH)"]}}
        given = manifest(object_spilling_config=wanted)["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
        words = shlex.split(f"ray start --head  --system-config={given['system-config']} ")
        config = json.loads(words[-1].removeprefix("--system-config="))

        assert "$" not in given["system-config"]
        assert json.loads(config["object_spilling_config"]) == wanted

    def test_in_a_shared_cluster(self, tmp_path):
        """Whose head pod has no environment for one run."""
        given = {
            "nasty": NASTY,
            "with-hyphen": "1e-5",
            "day": "2026-03-01",
            "quotes": 'it\'s "so"\n\\ é',
            "del": "\x7f",
        }
        rayjob = manifest(cluster="etl/c", arguments=given)
        seen = json.loads(played(tmp_path, rayjob))

        assert {key: seen[key] for key in given} == given
        assert seen["argv"] == [word for key, text in given.items() for word in (f"--{key}", text)]
        assert (seen["name"], Path(seen["file"]).name) == ("__main__", "a script.py")

    @settings(max_examples=150)
    @given(
        st.lists(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
            | st.text("$`{}()\"'\\!HOME \n\x7f"),
            min_size=1,
            max_size=5,
        )
    )
    @example(["$HOME", "`id`", "${HOME}"])
    def test_what_workers_of_a_shared_cluster_have(self, texts):
        """Each value as it is, or not at all: none is changed by YAML or by Ray."""
        arguments = {f"a{at}": text for at, text in enumerate(texts)}
        env = as_ray_sets(manifest(cluster="etl/c", arguments=arguments)["spec"]["runtimeEnvYAML"])

        there = {key: text for key, text in env.items() if key != "GLUERAY_RUN"}
        assert there.items() <= arguments.items()
        assert all(key in there for key, text in arguments.items() if "$" not in text)

    def test_a_deadline_in_a_shared_cluster(self, tmp_path):
        """KubeRay ends nothing there, so the driver brings its end along."""
        rayjob = manifest(cluster="etl/c", deadline=1)
        seen = played(tmp_path, rayjob, "import signal\nsignal.pause()\n")

        assert "Alarm clock" in seen

    def test_nul_is_refused(self):
        with pytest.raises(SpecError, match="NUL"):
            manifest(arguments={"x": "a\0b"})


class TestSharedCluster:
    """A run in a cluster that is there already."""

    def test_kubernetes_would_take_it(self):
        rayjob = manifest(cluster="etl/c", pip=["s3fs==2023.4.0"], arguments={"airflow_dag_id": "d"}, deadline=60)

        assert kubernetes_api.problems_of(rayjob) == []

    @pytest.mark.parametrize("cluster", ["etl/c", None])
    def test_kuberay_would_take_it(self, cluster):
        assert kubernetes_api.refused_by_kuberay(manifest(cluster=cluster)) == ""

    def test_the_whole(self):
        given = manifest(cluster="etl/c", pip=["s3fs==2023.4.0"], deadline=60, arguments={"day": "2026-03-01"})["spec"]

        assert given["clusterSelector"] == {"ray.io/cluster": "c"}
        assert given["shutdownAfterJobFinishes"] is False
        assert not {"rayClusterSpec", "ttlSecondsAfterFinished", "suspend"} & set(given)
        assert given["activeDeadlineSeconds"] == 60
        runtime_env = yaml.safe_load(given["runtimeEnvYAML"])
        assert (runtime_env["pip"], runtime_env["env_vars"]["day"]) == (["s3fs==2023.4.0"], "2026-03-01")
        assert not set("$`") & set(given["entrypoint"])

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"workers": Workers(object_store_memory_head=20)}, "object_store_memory_head: it is set when a cluster"),
            ({"workers": Workers(object_store_memory_worker=20)}, "object_store_memory_worker: it is set"),
            (
                {"object_spilling_config": {"type": "x"}},
                "object_spilling_config: it is set when a cluster is made, and etl/c is there",
            ),
            ({"overrides": {"kuberay": {"resources": {"cpu": "4"}}}}, r"overrides\['kuberay'\]\['resources'\]: it is"),
            ({"cluster": "other/c"}, "cluster='other/c' is in another namespace than the connection's runs, 'etl'"),
        ],
    )
    def test_what_only_the_maker_of_a_cluster_can_give(self, asked, words):
        with pytest.raises(SpecError, match=words):
            manifest(**{"cluster": "etl/c", **asked})

    def test_a_queue_is_the_clusters(self):
        """Kueue refuses a RayJob of its own that runs in a cluster which is there."""
        rayjob = manifest(cluster="etl/c", kuberay={"labels": {"kueue.x-k8s.io/queue-name": "etl", "team": "data"}})

        assert "kueue.x-k8s.io/queue-name" not in rayjob["metadata"]["labels"]
        assert rayjob["metadata"]["labels"]["team"] == "data"

    def test_what_is_noted(self):
        raycluster = {"spec": manifest(workers=Workers(4, 1))["spec"]["rayClusterSpec"]}
        same = spec(cluster="etl/c", workers=Workers(4, 1), arguments={"day": "x"})
        other = spec(cluster="etl/c", workers=Workers(2, 0), arguments={"price": "5 $"})
        image = RayJobSettings(image="ours/ray:2.4.0", namespace="etl")

        assert list(ignored_in_cluster(same, image, raycluster)) == []
        notes = [*ignored_in_cluster(other, RayJobSettings(image="x", namespace="etl"), raycluster)]
        assert [note.split("=")[0].split(":")[0] for note in notes] == [
            "number_of_workers", "min_workers", "image", "arguments",
        ]  # fmt: skip
        assert "price" in notes[-1]

    def test_usage_is_the_clusters(self):
        times = {"startTime": "2026-03-01T02:00:00Z", "endTime": "2026-03-01T02:10:00Z"}
        snapshot = snapshot_of(
            {
                **manifest(cluster="etl/c"),
                "status": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", **times},
            }
        )

        assert snapshot.usage == Usage(600, 0, 0.0)


#: Every JobDeploymentStatus of kuberay/ray-operator/apis/ray/v1/rayjob_types.go, v1.7.0.
WORDS = (
    "", "Initializing", "Waiting", "Running", "Complete", "Failed", "ValidationFailed", "Suspending", "Suspended",
    "Retrying",
)  # fmt: skip
LATE = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}


def seen(annotations: dict[str, str] | None = None, trouble: PendingReason | None = None, **status: Any):
    """Return the snapshot of a RayJob with a status."""
    rayjob = manifest()
    rayjob["metadata"]["annotations"] |= annotations or {}
    return snapshot_of({**rayjob, "status": status}, trouble)


class TestStates:
    def test_every_word_is_known(self):
        assert {word for word, _ in KUBERAY_JOB_STATE} == set(WORDS)
        assert all((word, "") in KUBERAY_JOB_STATE for word in WORDS)

    @pytest.mark.parametrize(
        ("status", "state"),
        [
            ({}, RunState.QUEUED),
            ({"jobDeploymentStatus": "Initializing"}, RunState.STARTING),
            ({"jobDeploymentStatus": "Running"}, RunState.STARTING),
            ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, RunState.STARTING),
            ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, RunState.RUNNING),
            ({"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, RunState.SUCCEEDED),
            ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, RunState.SUCCEEDED),
            ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, RunState.STOPPED),
            ({"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, RunState.FAILED),
            ({"jobDeploymentStatus": "Complete"}, RunState.FAILED),
            ({"jobDeploymentStatus": "Failed", "reason": "AppFailed"}, RunState.FAILED),
            ({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed"}, RunState.FAILED),
            (LATE, RunState.TIMED_OUT),
            (
                {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "jobStatus": "RUNNING"},
                RunState.TIMED_OUT,
            ),
            # Of a shared cluster that was deleted before KubeRay looked again.
            (
                {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "jobStatus": "SUCCEEDED"},
                RunState.SUCCEEDED,
            ),
            ({"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded"}, RunState.TIMED_OUT),
            ({"jobDeploymentStatus": "Failed", "reason": "JobStatusCheckTimeoutExceeded"}, RunState.FAILED),
            ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, RunState.FAILED),
            ({"jobDeploymentStatus": "Suspended"}, RunState.QUEUED),
            ({"jobDeploymentStatus": "Retrying"}, RunState.STARTING),
            ({"jobDeploymentStatus": "Pondering"}, RunState.RUNNING),
            ({"jobDeploymentStatus": "Pondering", "endTime": "2026-03-01T02:00:00Z"}, RunState.FAILED),
        ],
    )
    def test_what_words_mean(self, status, state):
        snapshot = seen(**status)

        assert snapshot.state is state
        assert snapshot.recognised is (status.get("jobDeploymentStatus") != "Pondering")

    def test_when_we_have_stopped_it(self):
        """The same words mean a stop then; what had ended has ended."""
        states = [
            seen({STOPPED: "true"}, jobDeploymentStatus=word, jobStatus=status).state
            for word, status in (
                ("Running", "RUNNING"),
                ("Suspending", ""),
                ("Suspended", ""),
                ("Complete", "SUCCEEDED"),
            )
        ]

        assert states == [RunState.STOPPING, RunState.STOPPING, RunState.STOPPED, RunState.SUCCEEDED]

    def test_why_it_was_stopped(self):
        """What it had waited for is not lost with its pods."""
        waited = seen({STOPPED: "Unschedulable: 0/3 nodes"}, jobDeploymentStatus="Suspended")

        assert (waited.state, waited.message) == (RunState.STOPPED, "Unschedulable: 0/3 nodes")
        assert seen({STOPPED: "true"}, jobDeploymentStatus="Suspended").message == ""

    def test_given_up(self):
        snapshot = seen({UNRECOVERABLE: "InvalidImageName: no"}, jobDeploymentStatus="Suspended")

        assert (snapshot.state, snapshot.message) == (RunState.FAILED, "InvalidImageName: no")

    def test_trouble_is_in_the_raw_state(self):
        """Which is what `follow` tells of when it changes."""
        trouble = PendingReason("ImagePullBackOff", "Back-off pulling image")

        assert seen(trouble=trouble, jobDeploymentStatus="Initializing").raw_state == "Initializing/ImagePullBackOff"
        assert seen(trouble=trouble, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED").message == ""


class TestTrouble:
    def pod(self, *statuses: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}}

    def test_the_ordinary_is_none(self):
        making = {"name": HEAD, "state": {"waiting": {"reason": "ContainerCreating"}}}
        rayjob = {**manifest(), "status": {"jobDeploymentStatus": "Initializing"}}

        assert pending_reason(rayjob, [self.pod(making)], []) is None

    def test_what_a_container_died_of(self):
        """Rather than only that its next start is put off."""
        last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
        trouble = pending_reason(manifest(), [self.pod({"name": HEAD, "state": waiting, "lastState": last})], [])

        assert trouble == PendingReason(
            "CrashLoopBackOff", "Container ray-head of pod p: back-off 10s; it ended with OOMKilled (137)"
        )

    def test_the_hopeless_comes_first(self):
        reasons = ("ImagePullBackOff", "InvalidImageName")
        pods = [self.pod({"name": HEAD, "state": {"waiting": {"reason": reason}}}) for reason in reasons]
        trouble = pending_reason(manifest(), pods, [])

        assert trouble is not None
        assert (trouble.reason, trouble.is_unrecoverable) == ("InvalidImageName", True)

    def test_what_changes_back_and_forth_is_one_reason(self):
        """Or each turn would be a line of the log."""
        found = {
            pending_reason(manifest(), [self.pod({"name": HEAD, "state": {"waiting": {"reason": reason}}})], []).reason
            for reason in ("ErrImagePull", "ImagePullBackOff")
        }

        assert found == {"ImagePullBackOff"}

    @pytest.mark.parametrize(
        ("text", "advice"),
        [
            ('Failed to pull image "x/y:1": x/y:1: not found', "`image` of the settings"),
            ('Back-off pulling image "x/y:1": ErrImagePull: manifest unknown', "`image` of the settings"),
            ("failed to pull image x: no match for platform in manifest: not found", "another processor"),
            ("exec /bin/sh: exec format error", "another processor"),
            (
                'pods "h" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation',
                "securityContext",
            ),
            ('error looking up service account etl/x: serviceaccount "x" not found', "`service_account`"),
        ],
    )
    def test_what_no_waiting_mends_says_what_to_do(self, text, advice):
        waiting = {"name": HEAD, "state": {"waiting": {"reason": "ErrImagePull", "message": text}}}
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": text}
        status = {"jobDeploymentStatus": "Initializing", "rayClusterStatus": {"conditions": [condition]}}
        found = [
            pending_reason(manifest(), [self.pod(waiting)], []),
            pending_reason({**manifest(), "status": status}, [], []),
        ]

        assert all(each is not None and each.is_unrecoverable and advice in each.message for each in found), found

    @pytest.mark.parametrize(("seconds", "age", "is_over"), [(60, 59, False), (60, 61, True), (0, 10**6, False)])
    def test_how_long_it_may_take(self, seconds, age, is_over):
        rayjob = manifest(kuberay={"startup_timeout": seconds})
        reason = startup_timeout_reason(rayjob, age, PendingReason("Unschedulable", "0/3 nodes"))

        assert (reason is not None) is is_over
        if is_over:
            assert reason.message == (
                "It has not started within 60 s (startup_timeout); it waited: Unschedulable: 0/3 nodes"
            )

    def test_a_queue_takes_its_time(self):
        """A RayJob begins when Kueue lets it go; a RayCluster when it is made."""
        made = {"metadata": {"creationTimestamp": "2026-03-01T02:00:00Z"}}
        began = {"jobDeploymentStatus": "Initializing", "startTime": "2026-03-01T03:00:00Z"}

        assert began_at({**made, "status": {"jobDeploymentStatus": "Suspended"}}) is None
        assert began_at({**made, "status": began}) == began_at(made) + 3600

    def test_what_kuberay_says_of_the_cluster(self):
        text = 'pods "c-head" is forbidden: exceeded quota: etl'
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": text}
        status = {"jobDeploymentStatus": "Initializing", "rayClusterStatus": {"conditions": [condition]}}

        assert pending_reason({**manifest(), "status": status}, [], []) == PendingReason("FailedCreateHeadPod", text)


def test_the_default_pods_fit_the_node_that_aws_recommends():
    """An r7g.2xlarge: 8 vCPU and 64 GiB, less what EKS reserves for the kubelet, evictions and DaemonSets.

    Reserved: 60 + 10 + 2 * 5 + 4 * 2.5 millicores, 255 MiB + 11 MiB for each of 58 pods, 100 MiB (EKS' bootstrap
    script); a quarter of a CPU and 2 GiB are assumed for the system and DaemonSets.
    """
    pod = RayJobSettings(image="i").resources
    mib = 1024**2

    assert float(pod["cpu"]) <= 8 - 0.09 - 0.25
    assert amount_of(pod["memory"]) <= 64 * 1024 * mib - (255 + 11 * 58 + 100 + 2048) * mib
