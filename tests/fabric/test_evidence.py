"""What the client's and the listener's records are counted into."""

import struct

import pytest

from tests.fabric.capture import claim, question
from tests.fabric.client import by_address, ping_result
from tests.fabric.listener import Answer, Kind, double_answers, duplicate_ms, relapses

MAC = bytes.fromhex("02aabbccddee")


def test_no_ping_lost() -> None:
    result = ping_result([0.00, 0.01, 0.02], {0: 0.001, 1: 0.011, 2: 0.021})

    assert (result.sent, result.lost, result.windows, result.longest_gap_ms) == (3, 0, (), 0.0)
    assert result.longest_silence_ms == pytest.approx(10)


def test_a_gap_lasts_from_the_first_lost_ping_to_the_first_answered_again() -> None:
    result = ping_result([0.00, 0.01, 0.02, 0.03, 0.04], {0: 0.001, 3: 0.031})

    assert [window.lost for window in result.windows] == [2, 1]
    assert result.longest_gap_ms == pytest.approx(20)
    assert result.windows[1].duration_ms == 0  # the last ping sent: no later one shows how long it lasted


def test_an_answer_after_the_deadline_is_none() -> None:
    assert ping_result([0.00, 0.01], {0: 0.001, 1: 1.5}, deadline_ms=1000).lost == 1


def test_pings_to_several_addresses_take_turns() -> None:
    results = by_address(["a", "b"], [0.00, 0.01, 0.02, 0.03, 0.04], {0: 0.001, 2: 0.021, 3: 0.031, 4: 0.041})

    assert {address: (result.sent, result.lost) for address, result in results.items()} == {"a": (3, 0), "b": (2, 1)}


def said(*by: tuple[float, str]) -> list[Answer]:
    return [Answer(at_s=at, vip="198.51.100.64", mac=mac, host=mac, kind=Kind.REPLY) for at, mac in by]


def test_a_handover_is_a_double_answer_but_no_relapse() -> None:
    handover = said((0.00, "a"), (0.05, "a"), (0.06, "b"), (0.10, "b"))

    assert len(double_answers(handover, 100)) == 1
    assert double_answers(handover, 5) == []
    assert relapses(handover, 100) == []


def test_two_holders_relapse() -> None:
    both = said((0.00, "a"), (0.05, "a"), (0.051, "b"), (0.10, "a"), (0.101, "b"))

    assert [(new.mac, old.mac) for new, old in relapses(both, 100)] == [("b", "a"), ("a", "b")]


@pytest.mark.parametrize(
    ("answers", "twice_ms"),
    [
        ([], 0),
        ([(0.00, "a"), (0.05, "a"), (0.06, "b"), (0.10, "b")], 0),  # a hand-over
        ([(0.00, "a"), (0.05, "b"), (0.07, "a"), (0.10, "b")], 20),  # one that overlaps
        ([(0.00, "a"), (0.05, "b"), (1.00, "a"), (1.05, "b")], 0),  # each time one, long after the other
        ([(0.00, "a"), (0.00, "b"), (0.1, "a"), (0.1, "b"), (0.1, "c")], 100),
    ],
)
def test_the_time_in_which_two_speak_for_an_address(answers: list[tuple[float, str]], twice_ms: float) -> None:
    assert duplicate_ms(said(*answers)) == pytest.approx(twice_ms)


def test_coming_back_later_is_no_relapse() -> None:
    assert relapses(said((0.0, "a"), (5.0, "b"), (10.0, "a")), 1000) == []


@pytest.mark.parametrize(
    ("operation", "sender", "target", "kind"),
    [(2, 64, 200, "reply"), (1, 64, 64, "garp"), (2, 64, 64, "garp"), (1, 64, 200, "request")],
)
def test_arp_claims(operation: int, sender: int, target: int, kind: str) -> None:
    addresses = [bytes([198, 51, 100, last]) for last in (sender, target)]
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, MAC, addresses[0], bytes(6), addresses[1])

    assert claim(bytes(12) + b"\x08\x06" + body) == ("198.51.100.64", "02:aa:bb:cc:dd:ee", kind)


def test_an_arp_probe_claims_nothing() -> None:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MAC, bytes(4), bytes(6), bytes([198, 51, 100, 64]))

    assert claim(bytes(12) + b"\x08\x06" + body) is None


@pytest.mark.parametrize(("flags", "kind"), [(0x60, "na"), (0x20, "unsolicited-na")])
def test_neighbour_advertisements(flags: int, kind: str) -> None:
    vip = bytes.fromhex("20010db8005100000001000000000001")
    icmp = struct.pack("!BBHI", 136, 0, 0, flags << 24) + vip + b"\x02\x01" + MAC
    frame = bytes(12) + b"\x86\xdd" + bytes(40) + icmp

    assert claim(frame) == ("2001:db8:51:0:1::1", "02:aa:bb:cc:dd:ee", kind)


@pytest.mark.parametrize("address", ["198.51.100.64", "2001:db8:51:0:1::1"])
def test_a_question_claims_no_vip(address: str) -> None:
    said = claim(question(address))

    assert said is None or said[0] == "198.51.100.201"
