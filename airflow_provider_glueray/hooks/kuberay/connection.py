"""The way to a Kubernetes cluster with KubeRay: what the hooks for RayJobs and for RayClusters stand on.

Resources of a kind are found by a label that holds their name, many with one call.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.core.spec import RayClusterSpec, RayJobSpec
from airflow_provider_glueray.hooks.kuberay.errors import kubernetes_errors
from airflow_provider_glueray.hooks.kuberay.logs import SOURCES, PodLogs
from airflow_provider_glueray.hooks.kuberay.manifests.pods import GROUP, ROLE, VERSION, id_of
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings
from airflow_provider_glueray.packaging.upload import store_of

if TYPE_CHECKING:
    from airflow_provider_glueray.packaging.s3 import S3Store

#: What every request to the API server has: seconds to connect, and for an answer.
BOUNDED: Mapping[str, Any] = {"_request_timeout": (5.0, 30.0)}
#: Resources per list call: their names stand in its address, and proxies take some 8,000 characters of it.
BATCH = 100
# The Kubernetes client keeps what it has read of a kubeconfig in a global before it makes a client of it.
_configuring = RLock()


class KubeRayConnectionHook(KubernetesHook):
    """Talk to a Kubernetes cluster about custom resources of one kind.

    Its parameters and the fields of its connection are those of ``KubernetesHook``. The connection's extra may also
    have ``kuberay`` (the members of :class:`RayJobSettings`, for every run), ``aws_conn_id`` (for files on their way
    to S3; by default ``aws_default``), and ``run_url`` and ``logs_url`` (addresses with ``{namespace}`` and ``{name}``
    of what shows a RayJob and its logs).

    :cvar kind: what people call one of them; :cvar plural: what Kubernetes calls them; :cvar label: of them and of
        their pods, with their name.
    """

    kind: ClassVar[str]
    plural: ClassVar[str]
    label: ClassVar[str]

    # -- logs and pages -------------------------------------------------------------------------------------

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of pods: ``process`` is the head's, ``monitor`` the autoscaler's.

        Ray keeps the others in files inside of the pods: they are empty here.
        """
        wanted = [source for source in sources if source in SOURCES]
        pages = {ref: LogPage((), cursor) for ref, cursor in cursors.items()}
        for namespace, refs in group_by_namespace(cursors).items() if wanted else ():
            names = {ref: namespaced_name(ref)[1] for ref in refs}
            pods, logs = self._pods(namespace, list(names.values())), PodLogs(self._client, namespace)
            for ref, name in names.items():
                pages[ref] = logs.page(pods.get(name, []), cursors[ref], wanted)
        return pages

    def url(self, ref: RunRef) -> str:
        """Return the page of a run: ``run_url`` of the extra, else the resource at the API server."""
        return self._address("run_url", f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{self.plural}/{{name}}", ref)

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log: ``logs_url`` of the extra, else its pods at the API server."""
        return self._address(
            "logs_url", f"/api/v1/namespaces/{{namespace}}/pods?labelSelector={self.label}%3D{{name}}", ref
        )

    def _address(self, key: str, path: str, ref: RunRef) -> str:
        namespace, name = namespaced_name(ref)
        address = self._extra.get(key) or f"{self._client.configuration.host}{path}"
        return str(address).replace("{namespace}", namespace).replace("{name}", name)

    # -- lists ----------------------------------------------------------------------------------------------

    def _list(self, refs: Iterable[RunRef]) -> dict[str, Mapping[str, Any]]:
        """Return resources by the ids of their runs."""
        # Also a single one by a list: that one is not there, and that KubeRay is not, would be one answer else.
        found = {}
        for namespace, those in group_by_namespace(refs).items():
            for begin in range(0, len(those), BATCH):
                names = [namespaced_name(ref)[1] for ref in those[begin : begin + BATCH]]
                for resource in self._list_by(namespace, self._selector(names)):
                    found[id_of(resource)] = resource
        return found

    def _list_by(self, namespace: str, selector: str, plural: str = "", **query: Any) -> list[Mapping[str, Any]]:
        """Return the resources that a selector of labels selects, of the hook's kind or of another one."""
        with kubernetes_errors(f"{plural or self.plural} in namespace {namespace!r}"):
            answer = self._custom_objects.list_namespaced_custom_object(
                GROUP, VERSION, namespace, plural or self.plural, label_selector=selector, **query, **BOUNDED
            )
        return list(answer["items"])

    def _selector(self, names: Sequence[str]) -> str:
        return f"{self.label} in ({','.join(names)})"

    def _pods(self, namespace: str, names: Sequence[str], role: str = "") -> dict[str, list[Mapping[str, Any]]]:
        """Return pods by the name of what they belong to; those of a role, or all."""
        pods = defaultdict(list)
        of_role = f",{ROLE}={role}" if role else ""
        for begin in range(0, len(names), BATCH):
            with kubernetes_errors(f"pods in namespace {namespace!r}"):
                selector = self._selector(names[begin : begin + BATCH]) + of_role
                answer = self.core_v1_client.list_namespaced_pod(
                    namespace, label_selector=selector, _preload_content=False, **BOUNDED
                )
                for pod in json.loads(answer.data)["items"]:
                    pods[pod["metadata"]["labels"][self.label]].append(pod)
        return dict(pods)

    def _events(self, namespace: str, selector: str = "") -> list[Mapping[str, Any]]:
        """Return events of a namespace, such as its warnings by ``type=Warning``."""
        with kubernetes_errors(f"events in namespace {namespace!r}"):
            answer = self.core_v1_client.list_namespaced_event(
                namespace, field_selector=selector, limit=500, _preload_content=False, **BOUNDED
            )
            return list(json.loads(answer.data)["items"])

    # -- the connection -------------------------------------------------------------------------------------

    def get_conn(self) -> Any:
        """Return a client of the cluster."""
        with _configuring:
            return super().get_conn()

    @property
    def _client(self) -> Any:
        with kubernetes_errors(f"connection {self.conn_id!r}"):
            return self.api_client

    @property
    def _custom_objects(self) -> Any:
        with kubernetes_errors(f"connection {self.conn_id!r}"):
            return self.custom_object_client

    @cached_property
    def _extra(self) -> Mapping[str, Any]:
        with kubernetes_errors(f"connection {self.conn_id!r}"):
            return self.conn_extras  # type: ignore[no-any-return]

    @cached_property
    def _namespace(self) -> str:
        with kubernetes_errors(f"connection {self.conn_id!r}"):
            return self.get_namespace() or self.DEFAULT_NAMESPACE

    def _settings(self, spec: RayJobSpec | RayClusterSpec) -> RayJobSettings:
        """Return the settings of the connection, and over them those of a task."""
        over = spec.overrides.get("kuberay", {})
        return RayJobSettings.of(self._extra.get("kuberay") or {}, over, namespace=self._namespace)

    @cached_property
    def storage(self) -> S3Store:
        """S3, by the connection ``aws_conn_id`` of the extra.

        :raises ExtraMissing: the amazon provider is not installed.
        """
        return store_of(self._extra.get("aws_conn_id", "aws_default"))

    @cached_property
    def _warned(self) -> set[str]:
        return set()

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self.log.warning("%s", text)


def namespaced_name(ref: RunRef) -> tuple[str, str]:
    """Return the namespace and the name of a run's resource."""
    namespace, _, name = ref.id.partition("/")
    return namespace, name


def group_by_namespace(refs: Iterable[RunRef]) -> dict[str, list[RunRef]]:
    """Return runs by their namespace."""
    by_namespace = defaultdict(list)
    for ref in refs:
        by_namespace[namespaced_name(ref)[0]].append(ref)
    return dict(by_namespace)
