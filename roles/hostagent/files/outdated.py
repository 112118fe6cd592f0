"""Say what is installed on this host but not in force yet, one word a line: units, release, settings; sysctls; catalog.

A run of the role that was interrupted has written files, and never came to the handlers that put them in force; the
next run finds nothing to write. So it asks here instead of remembering. The standard library only.

    outdated.py agent RELEASE UNITS COMMAND    the folder of the release that should run, that of the units, `hostagent`
    outdated.py sysctls FILE
    outdated.py catalog FILE DATABASE          what journalctl reads is older than our text, or is not there
"""

import json
import pathlib
import subprocess
import sys
import time

UNITS = ("hostagent.service", "hostagent-cleanup.service")


def main(what, *where):
    print("\n".join(LOOKS[what](*where)))


def agent_outdated(release, units, command):
    found = {
        "units": units_changed(pathlib.Path(units)),
        "release": release_changed(release),
        "settings": settings_changed(command),
    }
    return [word for word, changed in found.items() if changed]


def units_changed(folder):
    """A unit is newer than what systemd has read, or than the process that was started from it.

    A file from the future says nothing (somebody set the clock back): it must not look newer for ever.
    """
    if any(show(unit, "NeedDaemonReload") == "yes" for unit in UNITS):
        return True
    started = show(UNITS[0], "ExecMainStartTimestamp", "--timestamp=unix").lstrip("@")
    if not main_pid() or not started.isdigit():
        return False
    now = time.time()
    return any(int(started) + 1 <= file.stat().st_mtime <= now for file in map(folder.joinpath, UNITS) if file.exists())


def release_changed(release):
    """The running process was started from another release: its interpreter's path names the one it belongs to."""
    pid = main_pid()
    if not pid:
        return False
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return not words[0].startswith(f"{release}/".encode())


def settings_changed(command):
    """The agent has read settings that wait for a restart. One that cannot say so (older, or starting) does not count."""
    if not main_pid():
        return False
    try:
        said = subprocess.run([command, "status", "--output", "json"], capture_output=True, text=True, timeout=20)
        return bool(json.loads(said.stdout or "{}").get("needs_restart"))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False


def sysctls_outdated(name):
    """Keys whose value in the kernel is another than in the file; none without a file, as in a dry run."""
    file = pathlib.Path(name)
    lines = file.read_text().splitlines() if file.exists() else []
    wanted = [line.split("=", 1) for line in lines if "=" in line and line[0] not in "#;"]
    return [key.strip() for key, value in wanted if in_force(key.strip()) != " ".join(value.split())]


def catalog_outdated(text, database):
    """`journalctl --update-catalog` writes the database anew; a text from the future says nothing, as above."""
    file, made = pathlib.Path(text), pathlib.Path(database)
    if not file.exists():
        return []
    written = file.stat().st_mtime
    return ["catalog"] if written <= time.time() and (not made.exists() or made.stat().st_mtime < written) else []


def in_force(key):
    """The kernel's value; sysctl.d(5) separates by dots or, where a name has dots, by slashes."""
    path = key if "/" in key.split(".", 1)[0] else key.translate(str.maketrans("./", "/."))
    try:
        return " ".join(pathlib.Path("/proc/sys", path).read_text().split())
    except OSError:
        return None


def main_pid():
    return int(show(UNITS[0], "MainPID") or 0)


def show(unit, name, *options):
    argv = ["systemctl", "show", "--property", name, "--value", *options, unit]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


LOOKS = {"agent": agent_outdated, "sysctls": sysctls_outdated, "catalog": catalog_outdated}

if __name__ == "__main__":
    main(*sys.argv[1:])
