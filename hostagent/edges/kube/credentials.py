"""Who we are at the API, and where it is: a kubeconfig read into one frozen value."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from hostagent.edges.kube.certificate import Validity, validity
from hostagent.edges.kube.clock import boottime
from hostagent.model.errors import ConfigError, EdgeError
from hostagent.model.names import Instant

T = TypeVar("T")

LOAD_TIMEOUT_S = 30.0
"""Exec plugins talk to identity providers; one that takes longer than this hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """All that a request needs. Secrets are kept out of its repr. Equal ones are the same to an API server."""

    servers: tuple[str, ...]
    """API endpoints without a trailing slash, in the order in which they are to be tried."""
    tls: ssl.SSLContext | None = field(repr=False, compare=False)
    """Trusts the cluster's CA and carries the client certificate; None for plain HTTP."""
    authorization: str | None = field(default=None, repr=False)
    """The Authorization header's value, where a token or password is used."""
    files: tuple[Path, ...] = ()
    """What this was read from: load again when one of these changes."""
    expires_at: Instant | None = field(default=None, compare=False)
    """When the token ceases to be valid, where its issuer told."""
    certificate: Validity | None = None
    """Of the client certificate, where one is used."""
    client_pem: str = field(default="", repr=False)
    """The client certificate's file, which may hold the key besides."""
    ca_pem: str = field(default="", repr=False)
    """The cluster's CA, empty where the system's CAs are used."""
    server_name: str | None = None
    """Name that the server's certificate must carry, where it differs from the URL's (`tls-server-name`)."""
    proxy: str | None = None


async def load(
    kubeconfig: Path | str, *, servers: Sequence[str] = (), timeout_s: float = LOAD_TIMEOUT_S
) -> Credentials:
    """Read a kubeconfig in a thread: parsing, PEM decoding and exec plugins all block.

    `servers` are further endpoints of the same API servers; they follow the kubeconfig's own.
    Raises ConfigError when a file cannot be used (it names file and remedy), EdgeError when an exec plugin
    gave nothing or took longer than `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _in_daemon_thread(lambda: read(kubeconfig, servers=servers))
    except TimeoutError as exc:
        cause = f"not done after {timeout_s:.0f} s; does its exec plugin wait for a person or a dead server?"
        raise EdgeError("credentials.load", kubeconfig, cause) from exc


def read(kubeconfig: Path | str, *, servers: Sequence[str] = ()) -> Credentials:
    """`load`, blocking."""
    # Imported here: half a second and 40 MiB, and only this function needs it.
    import yaml  # noqa: PLC0415
    from kubernetes.client import Configuration  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger  # noqa: PLC0415

    _must_exist(kubeconfig)
    # Inline certificates are written to files on the way into the TLS context (OpenSSL takes no other), for as long
    # as this takes, readable by us alone.
    with tempfile.TemporaryDirectory(prefix="hostagent-") as scratch:
        try:
            merged = KubeConfigMerger(str(kubeconfig))
            loader = KubeConfigLoader(config_dict=merged.config, config_base_path=None, temp_file_path=scratch)
            configuration = Configuration()
            loader.load_and_set(configuration)
            user = _user(merged.config)
        except ConfigException as exc:
            raise ConfigError(f"{kubeconfig}: {exc}. `kubectl --kubeconfig {kubeconfig} version` tells more") from exc
        except OSError as exc:
            raise _unreadable(kubeconfig, exc) from exc
        except (TypeError, ValueError, KeyError, AttributeError) as exc:  # what the loader does with other YAML
            raise ConfigError(f"{kubeconfig}: not a kubeconfig: {exc}") from exc
        except yaml.YAMLError as exc:
            raise ConfigError(f"{kubeconfig}: not YAML: {exc}") from exc

        found = _Found.of(loader)
        authorization = configuration.api_key.get("BearerToken")
        if "exec" in user and not authorization and not found.cert:
            command = user["exec"].get("command", "") if isinstance(user["exec"], dict) else ""
            cause = f"exec plugin {command!r} gave no credentials: run it by hand as the agent's user to see why"
            raise EdgeError("credentials.exec", kubeconfig, cause)
        if not found.host:
            raise ConfigError(f"{kubeconfig}: the current context's cluster names no server")
        tokens = [found.base / user["tokenFile"]] if isinstance(user.get("tokenFile"), str) else []
        tls = _tls(found, kubeconfig) if found.host.startswith("https:") else None  # says what is wrong with the files
        client_pem = Path(found.cert).read_text() if found.cert else ""
        parts = [Path(name) for name in (found.ca, found.cert, found.key) if name]
        return Credentials(
            servers=tuple(dict.fromkeys([found.host, *(server.rstrip("/") for server in servers)])),
            tls=tls,
            authorization=authorization,
            files=(
                *(Path(path) for path in merged.paths),
                *(part for part in (*parts, *tokens) if not part.is_relative_to(scratch)),
            ),
            expires_at=_instant_of(found.expiry),
            certificate=_validity(client_pem, kubeconfig) if client_pem else None,
            client_pem=client_pem,
            ca_pem=Path(found.ca).read_text() if found.ca else "",
            server_name=found.server_name,
            proxy=found.proxy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the loader found; it sets an attribute only where the kubeconfig has the field."""

    host: str
    base: Path
    ca: str | None
    cert: str | None
    key: str | None
    verify: bool
    expiry: datetime | None
    server_name: str | None
    proxy: str | None

    @classmethod
    def of(cls, loader: Any) -> _Found:
        got: dict[str, Any] = vars(loader)
        return cls(
            host=got.get("host") or "",
            base=Path(getattr(got.get("_user"), "path", None) or ".").parent,
            ca=got.get("ssl_ca_cert"),
            cert=got.get("cert_file"),
            key=got.get("key_file"),
            verify=got.get("verify_ssl", True),
            expiry=got.get("expiry"),
            server_name=got.get("tls_server_name"),
            proxy=got.get("proxy"),
        )


def _must_exist(kubeconfig: Path | str) -> None:
    """The loader passes over a missing file in silence; KUBECONFIG may hold several."""
    paths = [Path(part).expanduser() for part in str(kubeconfig).split(":") if part]
    if not any(path.exists() for path in paths):
        raise ConfigError(
            f"{kubeconfig}: no such file. On a host, the role hostagent_access puts it there; "
            "elsewhere give --kubeconfig or set KUBECONFIG"
        )


def _unreadable(kubeconfig: Path | str, exc: OSError) -> ConfigError:
    name = exc.filename or kubeconfig
    return ConfigError(f"{name}: {exc.strerror}. The agent's user must be able to read it (used by {kubeconfig})")


def _user(config: Any) -> dict[str, Any]:
    """The current context's user entry, as written."""
    name = config["contexts"].get_with_name(config["current-context"])["context"].safe_get("user")
    if not name or not config.safe_get("users"):
        return {}
    entry = config["users"].get_with_name(name, safe=True)
    value = entry.safe_get("user") if entry else None
    return value if isinstance(value, dict) else {}


def _tls(found: _Found, kubeconfig: Path | str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=found.ca or None)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"{kubeconfig}: certificate-authority is not a PEM certificate: {exc}") from exc
    if not found.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if found.cert:
        try:
            # An encrypted key must fail here, not ask for its password on a terminal that nobody watches.
            context.load_cert_chain(found.cert, found.key, password="")
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(
                f"{kubeconfig}: client-certificate and client-key do not make a pair, or are not PEM: {exc}. "
                "Issue the host a new credential: `hostagent access sign`"
            ) from exc
    return context


def _validity(client_pem: str, kubeconfig: Path | str) -> Validity:
    try:
        return validity(client_pem)
    except ValueError as exc:
        raise ConfigError(f"{kubeconfig}: client-certificate: {exc}") from exc


def _instant_of(expiry: datetime | None) -> Instant | None:
    if expiry is None:
        return None
    return Instant(boottime() + (expiry - datetime.now(UTC)).total_seconds())


async def _in_daemon_thread(call: Callable[[], T]) -> T:
    """As asyncio.to_thread, but a plugin that hangs cannot keep the process from exiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if future.done():  # the caller gave up waiting
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (call(), None)
        except Exception as exc:  # noqa: BLE001  # not swallowed: raised in the task that awaits
            outcome = (None, exc)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=body, name="credentials", daemon=True).start()
    return await future
