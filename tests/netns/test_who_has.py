"""`hostagent who-has` on a real segment: all that answer are heard, by their own MACs."""

from __future__ import annotations

import importlib
from ipaddress import ip_address

from .conftest import Host, Segment
from .test_neighbors import V4, V6, give

cli = importlib.import_module("hostagent.cli.who_has")  # the package has its command under the same name
NOBODYS = ip_address("192.0.2.101")


def test_who_answers_is_heard_and_who_does_not_is_not(segment: Segment, host: Host, client: Host) -> None:
    for vip in (V4, V6):
        give(client, vip)
    give(segment.host(), V4)  # a second machine with the same address
    heard = host.run(lambda: cli._heard([V4, V6, NOBODYS], {host.interface: host.mac}, 0.6))
    assert len(heard[str(V4)]) == 2
    assert client.mac in heard[str(V4)]
    assert heard[str(V6)] == (client.mac,)
    assert heard[str(NOBODYS)] == ()
