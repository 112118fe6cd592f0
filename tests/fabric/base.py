"""The disks that lab hosts start from: a Debian tree, and layers of packages on it, built once and cached.

A host's own disk is an overlay on them, so forty hosts cost one build and little room. The cache is keyed by all
that goes into a tree or layer; it is safe to delete it, and safe for two processes to ask for it at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fabric.assets import Progress, cache_dir, to_stderr
from tests.fabric.command import FabricError, run
from tests.fabric.networks import Network

BOOKWORM, TRIXIE = "bookworm", "trixie"  # Debian 12 and 13
DEFAULT_MIRRORS = (
    f"deb http://deb.debian.org/debian {BOOKWORM} main",
    f"deb http://deb.debian.org/debian-security {BOOKWORM}-security main",
)
PACKAGES = (
    # a Debian server as the installer leaves it, as far as hostagent can notice
    *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "openssh-server", "sudo", "ca-certificates", "less"),
    *("ifupdown", "iproute2", "iputils-ping", "iputils-arping", "procps", "tcpdump", "curl", "openssl"),
    # what Ansible's modules (apt, pip) want to find, and what the agent's virtual environment is made with
    *("python3", "python3-apt", "python3-venv", "python3-packaging"),
    # what kube-proxy calls
    *("nftables", "iptables", "conntrack"),
    # all hosts share the machine's clock: the one way to have a host whose programs see another time
    "libfaketime",
)
FRR = ("frr", "frr-pythontools")  # 8.4 on Debian 12, 10.3 on Debian 13; the latter for frr-reload
BIRD = ("bird2",)
NETWORK_MANAGER = ("network-manager",)
# No host has it: what wheels for the hosts' Python are built with, where the machine has no such Python itself.
COMPILER = ("gcc", "libc6-dev", "pkg-config", "libsystemd-dev", "python3-dev")

# Runs with the tree as $1. Each line cures something that was seen to break or slow down lab hosts.
FINISH = r"""
set -eu; T=$1
# made anew at first boot; left behind, all hosts would be one machine to journald
: > "$T/etc/machine-id"; rm -f "$T/var/lib/dbus/machine-id"
# bootstrap copies the outer machine's; a left-over /etc/hostname wins against nspawn's --hostname
rm -f "$T/etc/hostname" "$T/etc/hosts" "$T/etc/resolv.conf"
# nothing on these timers is wanted in a host that lives for minutes, without network
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer \
            systemd-networkd-wait-online.service console-getty.service; do
  ln -sf /dev/null "$T/etc/systemd/system/$unit"
done
# sshd refuses to start without host keys, and only the package's installation makes them
chroot "$T" ssh-keygen -qA
mkdir -p -m 0700 "$T/root/.ssh"
# the outer machine's own CAs, for package mirrors behind an inspecting proxy
mkdir -p "$T/usr/local/share/ca-certificates"
for ca in /usr/local/share/ca-certificates/*.crt; do
  [ ! -e "$ca" ] || cp "$ca" "$T/usr/local/share/ca-certificates/"
done
chroot "$T" update-ca-certificates >/dev/null 2>&1
printf 'source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n' > "$T/etc/network/interfaces"
mkdir -p "$T/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=32M\nRateLimitIntervalSec=0\n' \
  > "$T/etc/systemd/journald.conf.d/lab.conf"
rm -rf "$T"/var/cache/apt/archives/*.deb "$T"/var/lib/apt/lists/*
"""

# Runs with the merged tree as $1, the overlay's options as $2, then packages. In a mount namespace of its own.
ADD_LAYER = r"""
set -eu; T=$1; O=$2; shift 2
mount -t overlay layer -o "$O" "$T"
mount -t proc proc "$T/proc"
mount -t tmpfs run "$T/run"
printf '#!/bin/sh\nexit 101\n' > "$T/usr/sbin/policy-rc.d"; chmod 0755 "$T/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$T/etc/resolv.conf"
chroot "$T" apt-get -qq update
DEBIAN_FRONTEND=noninteractive chroot "$T" apt-get -qq install --no-install-recommends -y "$@"
rm -rf "$T/usr/sbin/policy-rc.d" "$T/etc/resolv.conf" "$T"/var/cache/apt/archives/*.deb "$T"/var/lib/apt/lists/*
"""

BUILD_TIMEOUT_S = 900.0  # a slow mirror; usually 70 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What a host's disk starts from."""

    suite: str = BOOKWORM
    add: tuple[str, ...] = ()
    """Packages beyond those of every host."""
    network: Network = Network.IFUPDOWN

    def layers(self, progress: Progress = to_stderr) -> tuple[Path, ...]:
        """As `base_layers`."""
        manager = NETWORK_MANAGER if self.network == Network.NETWORK_MANAGER else ()
        return base_layers(self.suite, add=(*self.add, *manager), progress=progress)


def base_layers(suite: str = BOOKWORM, *, add: Sequence[str] = (), progress: Progress = to_stderr) -> tuple[Path, ...]:
    """Overlay layers, uppermost first, of a bare Debian host; the packages `add` are installed in it too.

    Built when missing (about 70 s, a layer 10 s more), else immediate. Nobody may write into them: an overlay whose
    lower tree changes under it shows neither the old nor the new files.
    Raises FabricError when a tool or the package mirror is missing.
    """
    home = cache_dir() / f"base-{_key(suite)}"
    tree = home / "tree"
    with _locked(home, progress):
        if not tree.is_dir():
            _make_tree(home, suite, progress)
        if not add:
            return (tree,)
        layer = home / f"{add[0]}-{_hash(ADD_LAYER, *add)}"
        if not layer.is_dir():
            _make_layer(layer, tree, add, progress)
        return (layer, tree)


def _key(suite: str) -> str:
    outer_cas = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    return _hash(suite, FINISH, *PACKAGES, *(p.read_text() for p in outer_cas))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _locked(home: Path, progress: Progress) -> Iterator[None]:
    """One builder at a time; the others wait and find the work done. The kernel frees the lock of a killed one."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("lab: waiting for another process that builds the host base tree")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fresh(path: Path) -> Path:
    """An empty place to build in, next to its final name so that the rename is atomic."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def _make_tree(home: Path, suite: str, progress: Progress) -> None:
    tarball = home / "tree.tar.zst"
    building = _fresh(home / "tree.new")
    if tarball.exists():
        progress(f"lab: unpacking the host base tree from {tarball}")
        run(["tar", "--zstd", "-xpf", str(tarball), "-C", str(building)], timeout_s=BUILD_TIMEOUT_S)
    else:
        _bootstrap(building, suite, progress)
        packed = home / "tree.tar.zst.new"
        pack = ["tar", "--zstd", "--one-file-system", "-cpf", str(packed), "-C", str(building), "."]
        run(pack, timeout_s=BUILD_TIMEOUT_S)
        packed.rename(tarball)
    building.rename(home / "tree")


def _bootstrap(tree: Path, suite: str, progress: Progress) -> None:
    for tool in ("mmdebstrap", "zstd"):
        if shutil.which(tool) is None:
            raise FabricError(f"{tool} is not installed: apt-get install {tool} (or `make setup`)")
    progress(f"lab: building the host base tree, Debian {suite}, once (about 70 s)")
    mirrors = _mirrors(suite)
    no_docs = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale")]
    # In a mount namespace of its own, so that a killed build leaves no mount behind in the half-made tree.
    own_mounts = ["unshare", "--mount", "--propagation", "private", "--"]
    run(
        [
            *own_mounts,
            *("mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES)}"),
            *("--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Languages none"),
            *no_docs,
            *(suite, str(tree), *mirrors),
        ],
        timeout_s=BUILD_TIMEOUT_S,
    )
    run(["sh", "-c", FINISH, "finish", str(tree)])
    progress("lab: host base tree built")


def _mirrors(suite: str) -> tuple[str, ...]:
    """The mirrors that this machine itself is told to use, so that a site's own mirror is respected.

    For another suite than the machine's the same mirrors, which carry all of them.
    """
    fields = run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=False,
    ).stdout
    lines = sorted({line for line in fields.splitlines() if line.endswith(" main")})
    for known in (suite, BOOKWORM):
        found = [f"deb {line}" for line in lines if line.split()[1].split("-")[0] == known]
        if any(f" {known} " in line for line in found):
            return tuple(line.replace(f" {known}", f" {suite}") for line in found)
    return tuple(line.replace(BOOKWORM, suite) for line in DEFAULT_MIRRORS)


def _make_layer(layer: Path, tree: Path, packages: Sequence[str], progress: Progress) -> None:
    progress(f"lab: adding {', '.join(packages)} to the host base tree, once (about 10 s)")
    building = _fresh(layer.with_suffix(".new"))
    for name in ("up", "work", "root"):
        (building / name).mkdir()
    options = f"lowerdir={tree},upperdir={building / 'up'},workdir={building / 'work'}"
    run(
        [
            *("unshare", "--mount", "--propagation", "private", "--"),
            *("sh", "-c", ADD_LAYER, "layer", str(building / "root"), options, *packages),
        ],
        timeout_s=BUILD_TIMEOUT_S,
    )
    (building / "up").rename(layer)
    shutil.rmtree(building)
