"""Which release a host runs: by the process, not by what is installed."""

from __future__ import annotations

from tests.fabric.hosts import Host
from tests.fault.scene import agent_process

RELEASES = "/opt/hostagent/releases"


def running_release(host: Host) -> str:
    """The release that the agent's process was started from; empty: it does not run."""
    process = agent_process(host)
    if not process:
        return ""
    words = host.run(["cat", f"/proc/{process}/cmdline"]).stdout
    return words.removeprefix(f"{RELEASES}/").split("/")[0]
