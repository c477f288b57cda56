"""Teach the libraries of an older runtime what newer ones do by themselves; scripts are not touched.

`runtimes` copies this file into the environment it builds, where each start of Python imports it. Hence: Python 3.9,
the standard library only, and nothing happens before a script imports the library in question. AWS has nothing of this.

- boto3 1.26, aiobotocore and Arrow 11 do not know AWS_ENDPOINT_URL. While it is set, their clients and `s3://` paths
  go there, unless the script names an endpoint itself.
- Ray 2.4 has no authentication and listens on all interfaces, unless a node's address is 127.0.0.1. So here all nodes
  have that address, each keeps a directory of its own, drivers attach to the head, and web pages cannot submit jobs.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

_LOOPBACK = "127.0.0.1"
_HEAD_SECONDS = 30.0
#: Set for the processes of an endpoint: the name of the head, and on each `ray start` the node's directory.
HEAD_VARIABLE, DIRECTORY_VARIABLE = "GLUERAY_RAY_HEAD", "GLUERAY_RAY_DIRECTORY"


def start_node(parameters: Any, head: bool) -> None:
    """Let `ray start` make a worker node on 127.0.0.1 with its own files; Ray calls this through RAY_START_HOOK.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 has all processes take 127.0.0.1 for this machine's address, but it forbids a
    second node.
    """
    from ray._private import ray_constants, services

    services.get_node_ip_address = lambda *_: _LOOPBACK
    ray_constants.ENABLE_RAY_CLUSTER = True
    parameters.temp_dir = os.environ[DIRECTORY_VARIABLE]
    os.makedirs(os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True)  # Ray writes there and does not make it


def _endpoint(service: str) -> str | None:
    specific = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_').replace(' ', '_')}"
    return os.environ.get(specific) or os.environ.get("AWS_ENDPOINT_URL")


def _with_endpoint(create: Any) -> Any:
    @functools.wraps(create)
    def create_client(session: Any, service_name: str, *arguments: Any, **options: Any) -> Any:
        # endpoint_url is the fifth of the other parameters; all clients give it by name.
        if len(arguments) < 5 and options.get("endpoint_url") is None:
            options["endpoint_url"] = _endpoint(service_name)
        return create(session, service_name, *arguments, **options)

    return create_client


def _bridge_botocore(module: ModuleType) -> None:
    module.Session.create_client = _with_endpoint(module.Session.create_client)


def _bridge_aiobotocore(module: ModuleType) -> None:
    session = module.AioSession
    session._create_client = _with_endpoint(session._create_client)


def _bridge_arrow(module: ModuleType) -> None:
    """Put classes with the names of Arrow's in their place: Arrow's own cannot be changed."""
    from urllib.parse import quote, urlsplit

    arrow: Any = module
    file_system, s3_file_system = arrow.FileSystem, arrow.S3FileSystem

    class StandIn(type(file_system)):  # type: ignore[misc]
        """What is an instance or a subclass of the original is one of the class in its place."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, cls.__base__)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, cls.__base__)

    class FileSystem(file_system, metaclass=StandIn):  # type: ignore[misc, valid-type]
        __doc__ = file_system.__doc__

        @staticmethod
        def from_uri(uri: Any) -> Any:
            endpoint = _endpoint("s3")
            if endpoint and isinstance(uri, str) and uri.startswith("s3://") and "endpoint_override=" not in uri:
                scheme, _, host = endpoint.partition("://")
                parts = urlsplit(uri)
                added = f"scheme={scheme}&endpoint_override={quote(host.rstrip('/'), safe='')}"
                uri = parts._replace(query="&".join(filter(None, (parts.query, added)))).geturl()
            return file_system.from_uri(uri)

    class S3FileSystem(s3_file_system, metaclass=StandIn):  # type: ignore[misc, valid-type]
        __doc__ = s3_file_system.__doc__

        def __init__(self, **options: Any) -> None:
            endpoint = _endpoint("s3")
            if endpoint and not options.get("endpoint_override"):
                scheme, _, host = endpoint.partition("://")
                options.update(scheme=scheme, endpoint_override=host.rstrip("/"))
            super().__init__(**options)

    arrow.FileSystem, arrow.S3FileSystem = FileSystem, S3FileSystem


def _bridge_ray(module: ModuleType) -> None:
    services: Any = module
    head = os.environ.get(HEAD_VARIABLE)
    if not head:
        return

    def get_node_to_connect_for_driver(gcs_address: str, node_ip_address: str) -> Any:
        """Return the head, for which a worker node may have to wait: Ray goes by the address, which all share here."""
        state = services.ray._private.state.GlobalState()
        state._initialize_global_state(services._get_gcs_client_options(gcs_address))
        deadline = time.monotonic() + _HEAD_SECONDS
        while time.monotonic() < deadline:
            for node in state.node_table():
                if node["NodeName"] == head and node["Alive"]:
                    return SimpleNamespace(
                        object_store_socket_name=node["ObjectStoreSocketName"],
                        raylet_socket_name=node["RayletSocketName"],
                        node_manager_port=node["NodeManagerPort"],
                    )
            time.sleep(0.1)
        raise RuntimeError("the head of this Ray cluster does not show up")

    services.get_node_to_connect_for_driver = get_node_to_connect_for_driver


def _bridge_ray_jobs(module: ModuleType) -> None:
    """Have drivers run on the head: Ray takes the node that came last for it, because all have its address."""
    jobs: Any = module
    head = os.environ.get(HEAD_VARIABLE)
    if not head:
        return

    async def get_scheduling_strategy(_manager: Any, _resources_specified: bool) -> Any:
        (node,) = (node for node in jobs.ray.nodes() if node["NodeName"] == head)
        return jobs.NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)

    jobs.JobManager._get_scheduling_strategy = get_scheduling_strategy


def _refuse_web_pages(module: ModuleType) -> None:
    """Keep web pages from submitting jobs through the browser of whoever looks at them."""
    web: Any = module.aiohttp.web

    @web.middleware  # type: ignore[untyped-decorator]
    async def refuse(request: Any, handler: Any) -> Any:
        if request.method not in {"GET", "HEAD"} and {"Origin", "Sec-Fetch-Site"} & set(request.headers):
            return web.Response(status=403, text="not for web pages")
        return await handler(request)

    class Application(web.Application):  # type: ignore[misc]
        def __init__(self, *arguments: Any, middlewares: Any = (), **options: Any) -> None:
            super().__init__(*arguments, middlewares=[refuse, *middlewares], **options)

    web.Application = Application


class _Finder:
    """Finds what others find, and bridges it once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        bridge = _BRIDGES.get(name)
        if bridge is None:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_bridge(module: ModuleType) -> None:
                execute(module)
                bridge(module)

            spec.loader.exec_module = execute_and_bridge
        return spec


_BRIDGES = {
    "botocore.session": _bridge_botocore,
    "aiobotocore.session": _bridge_aiobotocore,
    "pyarrow.fs": _bridge_arrow,
    "ray._private.services": _bridge_ray,
    "ray.dashboard.modules.job.job_manager": _bridge_ray_jobs,
    "ray.dashboard.http_server_agent": _refuse_web_pages,
    "ray.dashboard.http_server_head": _refuse_web_pages,
}


def install() -> None:
    """Bridge what will be imported from now on. Asking twice is harmless: an overlay's Python does."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
