"""The cluster admin's hands in a lab: kubectl in the namespace, and cheap reads for tests that look often."""

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.fabric.processes import connect_in, in_namespace

T = TypeVar("T")
Object = dict[str, Any]

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_LOOK_AGAIN_S = 0.1


class KubectlError(Exception):
    """kubectl refused or failed; the message is what it said."""


class ApiError(Exception):
    """The API server answered with something else than the object, or 404."""

    def __init__(self, path: str, status: int, body: str, method: str = "GET") -> None:
        super().__init__(f"{method} {path}: {status}: {body[:500]}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Session:
    """One connection that stays open: for who measures what a request sets off, and not how long it takes to connect.
    Close it."""

    _connection: http.client.HTTPSConnection

    def send(self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json") -> Object:
        """The answer, once it is there. Raises ApiError for a refusal; OSError, HTTPException as connections do."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, body=content, headers={"Content-Type": kind})
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(path, answer.status, said.decode(errors="replace"), method)
        decoded: Object = json.loads(said)
        return decoded

    def close(self) -> None:
        self._connection.close()


def wait_for(
    predicate: Callable[[], T], timeout_s: float, describe: str | Callable[[], str], *, every_s: float = _LOOK_AGAIN_S
) -> T:
    """The first true answer of `predicate`. After `timeout_s` without one, TimeoutError with `describe`,
    which says what was waited for, or is called then to say how things are."""
    deadline = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() >= deadline:
            what = describe if isinstance(describe, str) else describe()
            raise TimeoutError(f"not so after {timeout_s:g} s: {what}")
        time.sleep(every_s)
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    """Where the objects of one kind live."""

    prefix: str  # /api/v1, /apis/apps/v1
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str = "") -> str:
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.prefix}{middle}/{self.plural}" + (f"/{name}" if name else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """Acts as cluster-admin, from inside the control plane's namespace, so never touched by its faults for hosts."""

    netns: str
    address: str
    port: int
    kubectl_program: Path
    folder: Path  # holds admin.kubeconfig, admin.crt, admin.key, ca.crt
    _kinds: dict[str, _Resource] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def kubectl(self, *args: str, input: str | None = None, timeout_s: float = 60.0) -> str:  # noqa: A002
        """What `kubectl ARGS` prints. Raises KubectlError with what it says when it fails."""
        environment = [
            f"KUBECONFIG={self.kubeconfig}",
            f"HOME={self.folder}",
            f"KUBECACHEDIR={self.folder / 'kubectl-cache'}",
        ]
        argv = in_namespace(self.netns, ["env", "-i", *environment, self.kubectl_program, *args])
        done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, objects: str | Sequence[Object] | Object) -> None:
        """Make it so (server-side apply, our fields win): YAML or JSON text, one object, or several."""
        match objects:
            case str():
                text = objects
            case dict():
                text = json.dumps(objects)
            case _:
                text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=text)

    def delete(self, kind: str, name: str, namespace: str | None = "default") -> None:
        """It is gone when this returns, finalizers included; that it was not there is well too."""
        scope = [f"--namespace={namespace}"] if namespace else []
        self.kubectl("delete", kind, name, *scope, "--ignore-not-found", "--wait")

    def get(self, kind: str, name: str, namespace: str | None = "default") -> Object | None:
        """The object, or None. `kind` as for kubectl: Service, services, svc, leases.coordination.k8s.io.

        `namespace` does not matter to objects that have none. Raises ApiError; KeyError if there is no such kind.
        """
        return self._read(self._resource(kind).path(namespace, name))

    def list_all(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """All objects of `kind`, of one namespace or of all. Raises as `get`."""
        query = f"?labelSelector={selector}" if selector else ""
        answer = self._read(self._resource(kind).path(namespace) + query)
        return list(answer["items"]) if answer else []

    def read(self, path: str, *, accept: str = "application/json", timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of one GET. Raises OSError when the API server is not to be reached."""
        connection = self._connect(timeout_s)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:  # the server ended in mid-sentence
            raise ConnectionError(f"GET {path}: {error!r}") from error
        finally:
            connection.close()

    def session(self, timeout_s: float = 60.0) -> Session:
        """Raises OSError when the API server is not to be reached."""
        return Session(self._connect(timeout_s))

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        tls = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        tls.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        connection = http.client.HTTPSConnection(self.address, self.port, timeout=timeout_s, context=tls)
        plain = connect_in(self.netns, self.address, self.port, timeout_s)
        try:
            connection.sock = tls.wrap_socket(plain, server_hostname=self.address)
        except BaseException:
            plain.close()
            raise
        return connection

    def ready(self) -> bool:
        """The API server says that all of it has started, and what every cluster has is there.

        That is its own Service: made last, by a task that it counts as ready when that has begun.
        """
        last_made = "/api/v1/namespaces/default/services/kubernetes"
        try:
            return all(self.read(path, timeout_s=2.0)[0] == http.HTTPStatus.OK for path in ("/readyz", last_made))
        except OSError:
            return False

    def _read(self, path: str) -> Object | None:
        status, body = self.read(path)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        if status != http.HTTPStatus.OK:
            raise ApiError(path, status, body.decode(errors="replace"))
        decoded: Object = json.loads(body)
        return decoded

    def _resource(self, kind: str) -> _Resource:
        """Look `kind` up, asking the API server again for one not known: a CRD may have come since."""
        if kind.lower() not in self._kinds:
            for names, resource in self._discover():
                for name in names:
                    self._kinds.setdefault(name.lower(), resource)
        if kind.lower() not in self._kinds:
            raise KeyError(f"the API server has no kind {kind!r}; is its CRD applied?")
        return self._kinds[kind.lower()]

    def _discover(self) -> Iterator[tuple[list[str], _Resource]]:
        for root in ("/api", "/apis"):
            status, body = self.read(root, accept=_DISCOVERY)
            if status != http.HTTPStatus.OK:
                raise ApiError(root, status, body.decode(errors="replace"))
            for group in json.loads(body)["items"]:
                name = group["metadata"].get("name", "")
                for version in group["versions"]:  # the preferred one first, and a kind need not be in each
                    prefix = f"{root}/{name}/{version['version']}" if name else f"{root}/{version['version']}"
                    for found in version["resources"]:
                        yield (
                            _names_of(found, name),
                            _Resource(
                                prefix=prefix,
                                plural=found["resource"],
                                namespaced=found["scope"] == "Namespaced",
                            ),
                        )


def _names_of(resource: Object, group: str) -> list[str]:
    """What people call it, as kubectl lets them."""
    plain = [
        resource["resource"],
        resource["responseKind"]["kind"],
        resource.get("singularResource", ""),
        *resource.get("shortNames", []),
    ]
    return [*filter(None, plain), *(f"{name}.{group}" for name in filter(None, plain) if group)]
