"""Patch the libraries of an older runtime with features of their newer versions; scripts stay unchanged.

`environments` copies this file into the environment that it builds, where each start of Python imports it. So this file
must run on Python 3.9 with the standard library only, and it patches a library only when a script imports it.
AWS has no such patches.

- boto3 1.26, aiobotocore and Arrow 11 ignore AWS_ENDPOINT_URL. With the patches, their clients and `s3://` paths use
  it, unless the script gives an endpoint of its own.
- Ray 2.4 has no authentication and listens on all interfaces, unless a node's address is 127.0.0.1. With the patches,
  all nodes have that address and a directory of their own, drivers attach to the head, and the dashboard refuses
  requests of web pages.
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
#: An endpoint sets the first for its processes, the name of the head, and the second for `ray start`, the directory.
HEAD_VARIABLE, DIRECTORY_VARIABLE = "GLUERAY_RAY_HEAD", "GLUERAY_RAY_DIRECTORY"


def start_node(parameters: Any, head: bool) -> None:
    """Make `ray start` create a worker node on 127.0.0.1 with its own files; Ray calls this through RAY_START_HOOK.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 makes all processes use 127.0.0.1 as this machine's address, but it forbids a
    second node.
    """
    from ray._private import ray_constants, services

    services.get_node_ip_address = lambda *_: _LOOPBACK
    ray_constants.ENABLE_RAY_CLUSTER = True
    parameters.temp_dir = os.environ[DIRECTORY_VARIABLE]
    os.makedirs(
        os.path.join(os.environ["RAY_TMPDIR"], "ray"), exist_ok=True
    )  # Ray writes to this directory but does not create it


def _endpoint(service: str) -> str | None:
    specific = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_').replace(' ', '_')}"
    return os.environ.get(specific) or os.environ.get("AWS_ENDPOINT_URL")


def _with_endpoint(create: Any) -> Any:
    @functools.wraps(create)
    def create_client(session: Any, service_name: str, *arguments: Any, **options: Any) -> Any:
        # endpoint_url is the fifth positional parameter; all clients pass it by name.
        if len(arguments) < 5 and options.get("endpoint_url") is None:
            options["endpoint_url"] = _endpoint(service_name)
        return create(session, service_name, *arguments, **options)

    return create_client


def _patch_botocore(module: ModuleType) -> None:
    module.Session.create_client = _with_endpoint(module.Session.create_client)


def _patch_aiobotocore(module: ModuleType) -> None:
    session = module.AioSession
    session._create_client = _with_endpoint(session._create_client)


def _patch_arrow(module: ModuleType) -> None:
    """Replace two classes of Arrow by subclasses with the same names, since Arrow's own are immutable."""
    from urllib.parse import quote, urlsplit

    arrow: Any = module
    file_system, s3_file_system = arrow.FileSystem, arrow.S3FileSystem

    class SubclassAsOriginal(type(file_system)):  # type: ignore[misc]
        """A metaclass that accepts instances and subclasses of the original class as those of its subclass."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, cls.__base__)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, cls.__base__)

    class FileSystem(file_system, metaclass=SubclassAsOriginal):  # type: ignore[misc, valid-type]
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

    class S3FileSystem(s3_file_system, metaclass=SubclassAsOriginal):  # type: ignore[misc, valid-type]
        __doc__ = s3_file_system.__doc__

        def __init__(self, **options: Any) -> None:
            endpoint = _endpoint("s3")
            if endpoint and not options.get("endpoint_override"):
                scheme, _, host = endpoint.partition("://")
                options.update(scheme=scheme, endpoint_override=host.rstrip("/"))
            super().__init__(**options)

    arrow.FileSystem, arrow.S3FileSystem = FileSystem, S3FileSystem


def _patch_ray(module: ModuleType) -> None:
    services: Any = module
    head = os.environ.get(HEAD_VARIABLE)
    if not head:
        return

    def get_node_to_connect_for_driver(gcs_address: str, node_ip_address: str) -> Any:
        """Return the head, and wait for it if necessary: Ray compares addresses, which are equal for all nodes here."""
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
        raise RuntimeError(f"Ray has not reported the head of this cluster for {_HEAD_SECONDS:.0f} s")

    services.get_node_to_connect_for_driver = get_node_to_connect_for_driver


def _patch_ray_jobs(module: ModuleType) -> None:
    """Run drivers on the head: Ray would run them on the newest node, because all nodes have the head's address."""
    jobs: Any = module
    head = os.environ.get(HEAD_VARIABLE)
    if not head:
        return

    async def get_scheduling_strategy(_manager: Any, _resources_specified: bool) -> Any:
        (node,) = (node for node in jobs.ray.nodes() if node["NodeName"] == head)
        return jobs.NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)

    jobs.JobManager._get_scheduling_strategy = get_scheduling_strategy


def _patch_dashboard(module: ModuleType) -> None:
    """Refuse requests of web pages, which could otherwise submit jobs through the user's browser."""
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
    """A finder that delegates to the other finders and patches a module once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        patch = _PATCHES.get(name)
        if patch is None:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                patch(module)

            spec.loader.exec_module = execute_and_patch
        return spec


_PATCHES = {
    "botocore.session": _patch_botocore,
    "aiobotocore.session": _patch_aiobotocore,
    "pyarrow.fs": _patch_arrow,
    "ray._private.services": _patch_ray,
    "ray.dashboard.modules.job.job_manager": _patch_ray_jobs,
    "ray.dashboard.http_server_agent": _patch_dashboard,
    "ray.dashboard.http_server_head": _patch_dashboard,
}


def install() -> None:
    """Patch the modules that are imported from now on. An overlay's Python calls this twice, without effect."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
