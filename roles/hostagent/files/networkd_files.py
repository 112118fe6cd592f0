"""Say which of networkd's .network files (base names, one a line) configure interfaces that could carry VIPs.

Run on the host by the role. Those with addresses by DHCP or router advertisements are left out: what keeps VIPs there
(KeepConfiguration=dynamic) would keep a lease beyond its end, too.
"""

import json
import os
import subprocess
import sys


def files(document):
    """From `networkctl --json=short list`."""
    found = set()
    for link in document.get("Interfaces", ()):
        file = link.get("NetworkFile", "")
        sources = {each.get("ConfigSource") for each in link.get("Addresses", ())}
        if file.startswith(("/etc/", "/run/")) and "static" in sources and sources <= {"static", "foreign"}:
            found.add(os.path.basename(file))
    return sorted(found)


def main():
    done = subprocess.run(["networkctl", "--json=short", "list"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    print("\n".join(files(json.loads(done.stdout))))


if __name__ == "__main__":
    main()
