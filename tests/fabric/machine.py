"""What the machine must be able to do before a lab is made on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Debian's names of the packages that hold them.
_TOOLS = {
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "zstd": "zstd",
}
# A systemd takes six inotify instances; the kernel's default of 128 for root ends at the 21st host.
_INOTIFY_INSTANCES = 4096
_INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


def why_not() -> str | None:
    """Why no lab can be made here, and what to do; None when one can."""
    if os.geteuid() != 0:
        return "labs need root (namespaces, mounts, control groups): run as root"
    if missing := sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None}):
        return f"labs need tools that are not installed: apt-get install {' '.join(missing)} (or `make setup`)"
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        return "labs need overlayfs: modprobe overlay"
    if not any(Path("/sys/fs/cgroup", where, "cgroup.procs").exists() for where in (".", "unified")):
        return "labs need cgroup2 at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount -t cgroup2 cgroup2 there"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "labs need to make control groups, and /sys/fs/cgroup is read-only: run outside of a container"
    return None


def allow_many_hosts() -> None:
    """Raise the machine's inotify limit; it stays raised, as other labs may count on it."""
    if int(_INOTIFY_LIMIT.read_text()) < _INOTIFY_INSTANCES:
        _INOTIFY_LIMIT.write_text(str(_INOTIFY_INSTANCES))
