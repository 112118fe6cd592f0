"""rtnetlink messages about addresses, as bytes: encoding, and the decoding of the few fields we use.

By hand, because it is on the path that runs for thousands of VIPs every few seconds: a general encoder takes 0.6 ms for
one message, this one a few microseconds. Tests hold it against pyroute2. Layouts: linux/netlink.h, linux/if_addr.h.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hostagent.model.names import IP, OnLink

MARK = 104
"""IFA_PROTO of our addresses. 1 to 3 are the kernel's; the rest is for administrators and daemons to choose from."""

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE, _IFA_F_MCAUTOJOIN = 0x02, 0x200, 0x400
_IFLA_IFNAME = 3
_AF_INET, _AF_INET6 = 2, 10
_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
IFINFOMSG_SIZE = 16
_FOREVER = 0xFFFFFFFF


class Message(NamedTuple):
    kind: int
    flags: int
    port: int
    """Port id of the socket that asked for what is reported; 0: the kernel's own doing."""
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address as the kernel reports it."""

    on_link: OnLink
    index: int
    ours: bool
    """Carries our mark."""
    lifetime_left_s: int = _FOREVER

    @property
    def ip(self) -> IP:
        return self.on_link.ip


def add_request(ip: IP, index: int, lifetime_s: int) -> bytes:
    """Create the address, limited to `lifetime_s`, or answer EEXIST."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, ip, index, lifetime_s)


def replace_request(ip: IP, index: int, lifetime_s: int) -> bytes:
    """Create the address, or give the one that is there our mark and `lifetime_s` from now on."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, ip, index, lifetime_s)


def refresh_request(ip: IP, index: int, lifetime_s: int) -> bytes:
    """Give the address that is there `lifetime_s` from now on; EINVAL if it is not there. Never creates.

    Leaving out NLM_F_CREATE is not enough: both families ignore it for addresses ("userspace already relies on not
    having to provide this", addrconf.c). IFA_F_MCAUTOJOIN is: only the path that creates joins the address as a
    multicast group first, which a unicast address cannot be (ip_mc_join_group: EINVAL), and the path that replaces does
    not look at it. IPv6 keeps the flag (`ip address` shows "autojoin"), without effect. `KernelAddresses.open` tests
    that the running kernel still works like this.
    """
    return _address(RTM_NEWADDR, NLM_F_REPLACE, ip, index, lifetime_s, extra_flags=_IFA_F_MCAUTOJOIN)


def remove_request(ip: IP, index: int) -> bytes:
    """Delete the address with full prefix length; EADDRNOTAVAIL if it is not there."""
    return _address(RTM_DELADDR, 0, ip, index, None)


def dump_request() -> bytes:
    """Ask for all addresses of both families."""
    body = _IFADDRMSG.pack(0, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body


def _address(kind: int, flags: int, ip: IP, index: int, lifetime_s: int | None, *, extra_flags: int = 0) -> bytes:
    family = _AF_INET if ip.version == 4 else _AF_INET6
    body = _IFADDRMSG.pack(family, ip.max_prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, ip.packed) + attribute(_IFA_ADDRESS, ip.packed)
    if lifetime_s is not None:
        # Preferred 0: never chosen as a source (an IPv6 /128 would win over the node's own /64). No DAD: we probed, and
        # a tentative address does not answer for 1.5 s. No prefix route: there is no prefix.
        body += attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE | extra_flags))
        body += attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, lifetime_s, 0, 0))
        body += attribute(_IFA_PROTO, bytes((MARK,)))
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def messages(data: bytes) -> Iterator[Message]:
    """Split what one recv() brought."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _sequence, port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:  # would never end
            return
        yield Message(kind, flags, port, data[at + _HEADER.size : at + length])
        at += (length + 3) & ~3


def error_code(body: bytes) -> int:
    """The errno of an NLMSG_ERROR or NLMSG_DONE; 0 for an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0


def address_of(body: bytes) -> Address | None:
    """Decode RTM_NEWADDR or RTM_DELADDR; None for families other than IP."""
    family, prefix, _flags, _scope, index = _IFADDRMSG.unpack_from(body)
    if family not in (_AF_INET, _AF_INET6):
        return None
    found = attributes(body, _IFADDRMSG.size)
    # IFA_LOCAL is ours where both are there (on point-to-point links IFA_ADDRESS is the peer); IPv6 has it only then.
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None:
        return None
    on_link = ipaddress.ip_interface((packed, prefix))
    lifetimes = found.get(_IFA_CACHEINFO)
    return Address(
        on_link=on_link,
        index=index,
        ours=found.get(_IFA_PROTO) == bytes((MARK,)),
        lifetime_left_s=struct.unpack_from("=II", lifetimes)[1] if lifetimes else _FOREVER,
    )


def link_of(body: bytes) -> tuple[int, str] | None:
    """Index and name from RTM_NEWLINK or RTM_DELLINK; None for a bridge's news of its ports (family AF_BRIDGE)."""
    family, index = struct.unpack_from("=Bxxxi", body)
    if family != 0:
        return None
    name = attributes(body, IFINFOMSG_SIZE).get(_IFLA_IFNAME, b"")
    return index, name.rstrip(b"\0").decode(errors="replace")


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[at + _ATTRIBUTE.size : at + length]  # without the nested and byte-order bits
        at += (length + 3) & ~3
    return found
