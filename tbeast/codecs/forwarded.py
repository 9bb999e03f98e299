"""Who asks, where proxies stand between: C{X-Forwarded-For}, believed as far as we know who wrote it.

Every proxy appends the address that it was asked from. So the field is read from its right end: the socket's peer is
looked at first, and as long as an address is one of ours (C{TBEAST_TRUSTED_PROXIES}), the one that it has written is
looked at next. The first that is not ours is who asks; what stands left of it is what that one claims, and is never
read. If the whole way is ours, its far end is who asks. If one of ours has written what is no address, the field is
worth nothing, and the socket's peer is who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network

MOST_HOPS: Final = 32
"""More proxies of ours in a row than that are none."""


def asked_from(peer: str, forwarded: Sequence[bytes], trusted: Sequence[Network]) -> str:
    """Find the address that a request comes from.

    @param peer: the socket's.
    @param forwarded: the values of the C{X-Forwarded-For} headers, in their order.
    @param trusted: the networks of our own proxies.
    """
    own = _address(peer)
    if own is None:
        return peer
    found = own
    if not trusted or not _is_ours(own, trusted):
        return str(found)
    hops = b",".join(forwarded).rsplit(b",", MOST_HOPS) if forwarded else []
    for hop in reversed(hops[-MOST_HOPS:]):
        read = _address(hop.decode("latin-1").strip())
        if read is None:
            return str(own)
        found = read
        if not _is_ours(read, trusted):
            break
    return str(found)


def _is_ours(address: IPv4Address | IPv6Address, trusted: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with a port or without; an IPv4 address in IPv6's clothes is that IPv4 address."""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not (port == "" or _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6
