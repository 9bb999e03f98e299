"""Tests of L{tbeast.codecs.forwarded}."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs.forwarded import MOST_HOPS, asked_from

OURS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


class AskedFromTests(SynchronousTestCase):
    def check(self, expected: str, peer: str, *forwarded: bytes) -> None:
        self.assertEqual(expected, asked_from(peer, forwarded, OURS))

    def test_nobody_between(self) -> None:
        self.check("192.0.2.7", "192.0.2.7")

    def test_a_stranger_is_not_believed(self) -> None:
        self.check("192.0.2.7", "192.0.2.7", b"198.51.100.1")
        self.assertEqual("10.0.0.1", asked_from("10.0.0.1", [b"198.51.100.1"], ()))

    def test_one_proxy(self) -> None:
        self.check("198.51.100.1", "10.0.0.1", b"198.51.100.1")

    def test_what_the_client_claims_is_not_read(self) -> None:
        """The left-most hop is what everybody can write."""
        self.check("198.51.100.1", "10.0.0.1", b"203.0.113.9, 198.51.100.1")
        self.check("198.51.100.1", "10.0.0.1", b"rubbish, , 198.51.100.1")
        self.check("198.51.100.1", "10.0.0.1", b"203.0.113.9", b"198.51.100.1")

    def test_several_proxies(self) -> None:
        self.check("198.51.100.1", "10.0.0.1", b"203.0.113.9, 198.51.100.1, 10.1.1.1,10.2.2.2")
        self.check("198.51.100.1", "fd00::1", b"198.51.100.1,fd00::2")

    def test_the_whole_way_is_ours(self) -> None:
        self.check("10.3.3.3", "10.0.0.1", b"10.3.3.3, 10.2.2.2")

    def test_no_header(self) -> None:
        self.check("10.0.0.1", "10.0.0.1")

    def test_what_a_proxy_of_ours_wrote_cannot_be_read(self) -> None:
        for header in (b"", b"unknown", b"198.51.100.1,", b"1.2.3", b"10.1.1.1:x", b"[::1", b"\xff", b"fe80::1%eth0"):
            self.check("10.0.0.1", "10.0.0.1", header)
        self.check("10.0.0.1", "10.0.0.1", b"rubbish, 10.2.2.2")

    def test_ports_and_spellings(self) -> None:
        self.check("198.51.100.1", "10.0.0.1", b"198.51.100.1:4711")
        self.check("2001:db8::1", "10.0.0.1", b"[2001:DB8::1]:4711")
        self.check("2001:db8::1", "10.0.0.1", b"[2001:db8:0::1]")
        self.check("198.51.100.1", "::ffff:10.0.0.1", b"::ffff:198.51.100.1")

    def test_a_peer_without_an_address(self) -> None:
        self.check("unknown", "unknown", b"198.51.100.1")

    def test_no_end_of_proxies(self) -> None:
        self.check("10.9.9.9", "10.0.0.1", b",".join([b"198.51.100.1", *[b"10.9.9.9"] * (MOST_HOPS + 5)]))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=60), st.sampled_from(["198.51.100.1", "2001:db8::1"]))
    def test_nothing_on_the_left_moves_it(self, claimed: bytes, client: str) -> None:
        self.check(client, "10.0.0.1", claimed + b"," + client.encode())

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.binary(max_size=40), max_size=4))
    def test_reads_anything(self, forwarded: list[bytes]) -> None:
        self.assertTrue(asked_from("10.0.0.1", forwarded, OURS))
