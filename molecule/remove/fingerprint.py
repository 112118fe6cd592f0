"""Print, line by line, all of a host that a rollout might leave something in. Two prints of a host can be compared."""

import hashlib
import os
import pathlib
import subprocess

ROOTS = ("/etc", "/opt", "/srv", "/usr", "/var/lib", "/var/cache", "/var/spool", "/home", "/root", "/run")
# What changes by itself, or by Ansible's mere visit.
PASSING = ("/root/.ansible", "/run/systemd", "/run/user", "/run/log", "/run/mount", "/run/udev", "/run/sudo", "/run/lock",
           "/var/lib/systemd", "/var/lib/dbus", "/etc/.pwd.lock", "/run/xtables.lock")
VOLATILE = ("/run",)  # only what is there counts, not what it says


def files():
    for root in ROOTS:
        for folder, below, names in os.walk(root):
            below[:] = [each for each in below if each != "__pycache__" and not passing(f"{folder}/{each}")]
            yield folder
            for name in names:
                path = f"{folder}/{name}"
                if not passing(path) and not name.endswith((".pyc", "-")):
                    yield described(pathlib.Path(path))


def passing(path):
    return any(path == each or path.startswith(f"{each}/") for each in PASSING)


def described(path):
    if path.is_symlink():
        return f"{path} -> {os.readlink(path)}"
    if not path.is_file() or str(path).startswith(VOLATILE):
        return str(path)
    return f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def said(*argv):
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [f"{argv[0]}: {line}" for line in output.splitlines() if line.strip()]


print("\n".join([
    *sorted(set(files())),
    *said("getent", "passwd"),
    *said("getent", "group"),
    *said("sysctl", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce", "net.ipv4.ip_forward"),
    *said("nft", "list", "tables"),
    *said("ip", "-oneline", "-brief", "address", "show", "to", "198.51.100.64/26"),
    *said("ip", "rule", "show"),
    *said("systemctl", "list-units", "--all", "--plain", "--no-legend", "hostagent*"),
]))
