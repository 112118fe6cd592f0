"""What can go wrong between hosts and the API server, done to it on purpose.

All of it is for traffic that enters the control plane's namespace from outside: the hosts'. The admin's own, made
inside, goes on undisturbed.
"""

import ipaddress
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fabric.processes import Processes, connect_in, in_namespace

_DETOUR_PORT = 6444
_DETOUR = "api-detour"  # the process that stands between hosts and API server
_PROGRAM = Path(__file__).with_name("api_detour.py")
_DETOUR_STARTS_WITHIN_S = 10.0

# Before connection tracking (priority raw), so that established connections are cut as well, and nothing answers:
# neither a reset nor an ICMP error tells the host what happened. Both ports, as a detour may be in force.
_CUT_OFF_RULES = """
add table inet hostagent_lab_api
add set inet hostagent_lab_api cut4 { type ipv4_addr; }
add set inet hostagent_lab_api cut6 { type ipv6_addr; }
add chain inet hostagent_lab_api from_hosts { type filter hook prerouting priority raw; }
add chain inet hostagent_lab_api to_hosts { type filter hook output priority raw; }
flush chain inet hostagent_lab_api from_hosts
flush chain inet hostagent_lab_api to_hosts
add rule inet hostagent_lab_api from_hosts tcp dport { $API, $DETOUR } ip saddr @cut4 drop
add rule inet hostagent_lab_api from_hosts tcp dport { $API, $DETOUR } ip6 saddr @cut6 drop
add rule inet hostagent_lab_api to_hosts tcp sport { $API, $DETOUR } ip daddr @cut4 drop
add rule inet hostagent_lab_api to_hosts tcp sport { $API, $DETOUR } ip6 daddr @cut6 drop
"""

_DETOUR_CHAINS = """
add table inet hostagent_lab_api
add chain inet hostagent_lab_api detour { type nat hook prerouting priority dstnat; }
add chain inet hostagent_lab_api reset_old { type filter hook input priority filter; }
flush chain inet hostagent_lab_api detour
flush chain inet hostagent_lab_api reset_old
"""

# New connections go to the detour. Established ones are reset: had they been made before connection tracking was on,
# they pass here as new, and the detour's port knows nothing of them; otherwise they still bear the API server's port.
# A reset by the host is let in, so that the API server's end closes too.
_DETOUR_RULES = (
    _DETOUR_CHAINS
    + """
add rule inet hostagent_lab_api detour iifname != "lo" tcp dport $API redirect to :$DETOUR
add rule inet hostagent_lab_api reset_old iifname != "lo" tcp dport $API tcp flags & rst == 0 reject with tcp reset
"""
)

_STRAIGHT_RULES = (
    _DETOUR_CHAINS
    + """
delete chain inet hostagent_lab_api detour
delete chain inet hostagent_lab_api reset_old
"""
)

_NO_RULES = """
add table inet hostagent_lab_api
delete table inet hostagent_lab_api
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFaults:
    """Faults of one API server. Holds no state: the kernel's rules and the recorded process are the state."""

    netns: str
    address: str
    port: int
    processes: Processes
    certificate: Path
    key: Path

    def cut_off(self, source: str) -> None:
        """From now on nothing passes between the host `source` and the API server, without a word to either."""
        self._nft(f"{_CUT_OFF_RULES}add {_element(source)}\n")

    def restore(self, source: str) -> None:
        """Undo `cut_off` for `source`; connections that outlived it go on."""
        # added first: deleting what is not there is an error
        self._nft(f"{_CUT_OFF_RULES}add {_element(source)}\ndelete {_element(source)}\n")

    def slow(self, delay_s: float) -> None:
        """Everything the API server says arrives `delay_s` late; what it is asked takes effect at once.

        That is the dangerous order: a lease is renewed, and its holder learns of it when it is old.
        Connections made before are reset.
        """
        self._detour("slow", f"--delay-s={delay_s}")

    def throttle(self, retry_after_s: int = 1) -> None:
        """Every request is answered 429 with Retry-After; connections made before are reset."""
        self._detour("throttle", f"--retry-after-s={retry_after_s}", self.certificate, self.key)

    def straight(self) -> None:
        """End `slow` or `throttle`; connections made under it end."""
        # the detour first: while its rules stand, the hosts still understand its farewell
        self.processes.stop(_DETOUR, grace_s=2.0)
        self._nft(_STRAIGHT_RULES)

    def clear(self) -> None:
        """Undo all faults and leave nothing behind; also when the namespace has gone."""
        self.processes.stop(_DETOUR, grace_s=0.0)
        if Path(f"/run/netns/{self.netns}").exists():
            self._nft(_NO_RULES)

    def _detour(self, *mode: str | Path) -> None:
        self.processes.stop(_DETOUR, grace_s=2.0)
        common = [f"--listen={_DETOUR_PORT}", f"--to={self.address}", f"--port={self.port}"]
        self.processes.start(_DETOUR, [sys.executable, _PROGRAM, *common, *mode])
        deadline = time.monotonic() + _DETOUR_STARTS_WITHIN_S
        while not self._detour_listens():
            if not self.processes.running(_DETOUR) or time.monotonic() > deadline:
                raise RuntimeError(f"{_PROGRAM.name} did not start:\n{self.processes.tail(_DETOUR)}")
            time.sleep(0.02)
        self._nft(_DETOUR_RULES)

    def _detour_listens(self) -> bool:
        try:
            connect_in(self.netns, self.address, _DETOUR_PORT, timeout_s=1.0).close()
        except OSError:
            return False
        return True

    def _nft(self, rules: str) -> None:
        """One transaction in the namespace."""
        text = f"define API = {self.port}\ndefine DETOUR = {_DETOUR_PORT}\n{rules}"
        done = subprocess.run(
            in_namespace(self.netns, ["nft", "-f", "-"]), input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"nft in namespace {self.netns}: {done.stderr.strip()}\n{text}")


def _element(source: str) -> str:
    address = ipaddress.ip_address(source)
    return f"element inet hostagent_lab_api cut{address.version} {{ {address} }}"
