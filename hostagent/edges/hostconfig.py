"""The host's own configuration file: read whole into frozen values, or refused with the key at fault."""

from __future__ import annotations

import asyncio
import re
import socket
import tomllib
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from hostagent.model.errors import ConfigError

DEFAULT_PATH = Path("/etc/hostagent/config.toml")
API_TIMEOUT_S = 2.0
"""Bound on one write to the API; the timing rule below reserves it."""
SETTLE_S = 0.2
"""Editors and Ansible write a file in several steps; they are looked at together."""

NODE_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
IN_WORDS = {
    "node": "must be a Node's name: lower-case letters, digits, '-' and '.'",
    "namespace": "must be a namespace's name: lower-case letters, digits and '-'",
}
"""What a pattern says, for the keys that have one."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class KubernetesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the API: `[kubernetes]`."""

    kubeconfig: str = "/etc/hostagent/kubeconfig"
    servers: tuple[str, ...] = ()
    """Further API endpoints (https://host:port), tried in turn after the kubeconfig's own."""


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This host's sign of life: `[session]`."""

    duration_s: Seconds = 15.0
    """After so long without a sign of life others may take this host's VIPs, if nobody answers for them."""
    renew_s: Seconds = 5.0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes to the journal: `[log]`."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers for Prometheus: `[metrics]`."""

    listen: str = "127.0.0.1:7474"
    """Address and port to answer scrapes at, over plain HTTP; empty: nowhere. Others can read what they can reach."""

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """`listen` in its parts; None when metrics are off. Raises ValueError for what is neither."""
        if not self.listen:
            return None
        host, _, port = self.listen.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host != bare
        if bracketed is not (ip_address(bare).version == 6) or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(self.listen)
        return bare, int(port)


class BgpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Advertising by the host's own routing daemon: `[bgp]`."""

    backend: Literal["auto", "frr", "external", "off"] = "auto"
    """`auto`: FRR, once it runs here. `external`: routes in `table`, for another daemon. `off`: what was ours goes."""
    table: Annotated[int, msgspec.Meta(ge=1, le=252)] = 174
    """Number of the kernel's routing table that is ours alone. FRR 8 takes no larger one."""
    protocol: Annotated[int, msgspec.Meta(ge=19, le=254)] = 74
    """Marks our routes (`ip route show proto 74`); smaller ones belong to kernels and known daemons."""
    graceful_shutdown_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 5.0
    """Between GRACEFUL_SHUTDOWN (RFC 8326) and withdrawing, at a drain or stop: time for routers to turn elsewhere."""
    frr_run_dir: str = "/run/frr"
    frr_file: str = "/var/lib/hostagent/frr.conf"
    """What FRR restarts into, beside the site's own file."""


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/etc/hostagent/config.toml`."""

    node: Annotated[str, msgspec.Meta(pattern=f"^({NODE_NAME})?$")] = ""
    """Name of this host's Node object; empty in the file means the host name."""
    namespace: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "metallb-system"
    """Where the configuration and the Leases live."""
    load_balancer_class: str = ""
    """Serve only Services of this class; empty: only those without a class."""
    allocator: bool = True
    """Whether this host may be elected to allocate addresses."""
    hang_timeout_s: Annotated[int, msgspec.Meta(ge=3, le=600)] = 10
    """Address lifetime in the kernel, and the unit's WatchdogSec: a hung agent's VIPs are answered no longer."""
    on_api_loss: Literal["hold", "fence"] = "hold"
    """While this host cannot renew its session: keep its VIPs, or drop them before others may count it as dead."""
    on_cordon: Literal["keep", "drain"] = "keep"
    """Whether a cordon of this host's Node (`kubectl cordon`, `kubectl drain`) also drains it of VIPs."""
    preempt_delay_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0
    """A host that advertisements prefer takes its VIPs back after it has been a candidate for so long."""
    kubernetes: KubernetesConfig = KubernetesConfig()
    session: SessionConfig = SessionConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    bgp: BgpConfig = BgpConfig()


def load(path: Path) -> HostConfig:
    """Read and check the configuration.

    Raises ConfigError naming the file, the key and the remedy: for an unreadable file, bad TOML, an unknown key, a
    value of the wrong type or range, and timings with which sessions would expire while their host is well.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    return parse(text, source=str(path))


def parse(text: str, *, source: str) -> HostConfig:
    """Decode the text of a configuration file; see `load`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{source}: not valid TOML: {exc}") from exc
    try:
        config = msgspec.convert(table, HostConfig)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{source}: {_readable(str(exc))}") from exc
    session = config.session
    if session.duration_s < 2 * session.renew_s + 2 * API_TIMEOUT_S:
        raise ConfigError(
            f"{source}: session.duration_s = {session.duration_s:g} is too short for session.renew_s = "
            f"{session.renew_s:g}: a single lost renewal would cost this host its VIPs; "
            f"set duration_s to at least {2 * session.renew_s + 2 * API_TIMEOUT_S:g}, or renew_s lower"
        )
    for server in config.kubernetes.servers:
        if not server.startswith("https://"):
            raise ConfigError(f'{source}: kubernetes.servers: "{server}" must begin with https://')
    try:
        config.metrics.endpoint  # noqa: B018
    except ValueError:
        raise ConfigError(
            f'{source}: metrics.listen: "{config.metrics.listen}" is not an address and a port, such as '
            '"127.0.0.1:7474" or "[::]:7474"; "" turns metrics off'
        ) from None
    return config if config.node else msgspec.structs.replace(config, node=_host_name(source))


def _host_name(source: str) -> str:
    """As the kubelet names its Node unless told otherwise."""
    name = socket.gethostname().lower()
    if re.fullmatch(NODE_NAME, name) is None:
        raise ConfigError(f'{source}: node: this host is called "{name}", which no Node can be: set node')
    return name


def _readable(message: str) -> str:
    """`Object contains unknown field `x` - at `$.session`` → the key as the file spells it, and what is known there."""
    what, _, where = message.partition(" - at `$")
    section = where.rstrip("`").lstrip(".")
    if "matching regex" in what:
        return f"{section} {IN_WORDS[section]}"
    if "unknown field" not in what:
        return f"{section or 'the file'}: {what}"
    key = what.split("`")[1]
    known = {
        "": HostConfig,
        "kubernetes": KubernetesConfig,
        "session": SessionConfig,
        "log": LogConfig,
        "metrics": MetricsConfig,
        "bgp": BgpConfig,
    }
    fields = ", ".join(known[section].__struct_fields__) if section in known else ""
    full = f"{section}.{key}" if section else key
    return f"{full}: unknown key (is it misspelt?); known here: {fields}"


class _Changes(FileSystemEventHandler):
    def __init__(self, names: frozenset[str], wake: Callable[[], None]) -> None:
        self._names, self._wake = names, wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return
        touched = {Path(str(path)).name for path in (event.src_path, event.dest_path) if path}
        if touched & self._names:
            self._wake()


async def watch(paths: Iterable[Path], changed: Callable[[], None]) -> None:
    """Call `changed` after any of the files was written, replaced or removed; runs until cancelled.

    Directories are watched, not files: editors, Ansible and certificate tools replace files by renaming.
    """
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    by_directory: dict[Path, set[str]] = {}
    for path in paths:
        by_directory.setdefault(path.parent, set()).add(path.name)
    observer = Observer()

    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    for directory, names in by_directory.items():
        observer.schedule(_Changes(frozenset(names), wake), str(directory))
    observer.start()
    try:
        while True:
            await woken.wait()
            await asyncio.sleep(SETTLE_S)
            woken.clear()
            changed()
    finally:
        observer.stop()
        await asyncio.to_thread(observer.join)
