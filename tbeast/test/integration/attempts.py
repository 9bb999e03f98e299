"""What is tried to have a request read in two ways; see L{tbeast.test.integration.smuggling} for how.

In many stands a question for L{HIDDEN}, whole or only begun, where a body is or the middle of a field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from attrs import evolve, frozen

OWN: Final = "BTC"
HIDDEN: Final = "DOGE"


@frozen
class Attempt:
    """Something to try.

    @ivar name: what it is called.
    @ivar parts: what is sent, with a moment between one part and the next.
    @ivar ends: whether the client then says that it will send no more.
    @ivar hides: whether what stands in it for L{HIDDEN} is no question of its own.
    @ivar is_old: whether an answer may come without a head, as in HTTP/0.9.
    """

    name: str
    parts: Sequence[bytes]
    ends: bool = False
    hides: bool = True
    is_old: bool = False


def ask(asset: str, key: str, *more: str) -> bytes:
    """A plain question."""
    return _head(f"GET /price?asset={asset} HTTP/1.1", key, *more)


def _head(line: str, key: str, *more: str) -> bytes:
    lines = [line, "Host: prices", f"Authorization: Bearer {key}", *more]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def attempts(key: str) -> Iterator[Attempt]:
    """All that is tried."""
    whole = ask(HIDDEN, key)
    # what comes next on the connection would be the value of its last field
    begun = whole[:-2] + b"X: "
    for hidden, name in ((whole, ""), (begun, ", only begun")):
        for attempt in (*_framings(key, hidden), *_lengths(key, hidden), *_chunks(key, hidden)):
            yield evolve(attempt, name=attempt.name + name)
    yield from _lines(key)
    yield from _heads(key)
    yield from _request_lines(key)
    yield from _protocols(key)
    yield from _orders(key)


def _framings(key: str, hidden: bytes) -> Iterator[Attempt]:
    """Who says where the body ends."""
    both = b"0\r\n\r\n" + hidden
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    for line in ("POST /prices HTTP/1.1", f"GET /price?asset={OWN} HTTP/1.1"):
        verb = line[:4].strip()
        length, within = f"Content-Length: {len(both)}", f"Content-Length: {len(b'%x' % len(hidden)) + 2}"
        for name, fields, body in (
            ("CL.TE", [length, "Transfer-Encoding: chunked"], both),
            ("TE.CL", ["Transfer-Encoding: chunked", within], chunk),
            ("CL 0, TE", ["Content-Length: 0", "Transfer-Encoding: chunked"], chunk),
            ("TE in upper case", [length, "TRANSFER-ENCODING: CHUNKED"], both),
        ):
            yield Attempt(f"{verb} {name}", [_head(line, key, *fields), body])
    for name, said in (
        ("twice", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
        ("and identity", ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"]),
        ("identity and", ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"]),
        ("list", ["Transfer-Encoding: chunked, identity"]),
        ("gzip", ["Transfer-Encoding: gzip, chunked"]),
        ("identity", ["Transfer-Encoding: identity"]),
        ("x", ["Transfer-Encoding: xchunked"]),
        ("x behind", ["Transfer-Encoding: chunkedx"]),
        ("space", ["Transfer-Encoding : chunked"]),
        ("tab", ["Transfer-Encoding:\tchunked"]),
        ("vertical tab", ["Transfer-Encoding: \x0bchunked"]),
        ("form feed behind", ["Transfer-Encoding: chunked\x0c"]),
        ("quoted", ['Transfer-Encoding: "chunked"']),
        ("empty", ["Transfer-Encoding: "]),
        ("parameter", ["Transfer-Encoding: chunked;a=b"]),
        ("folded", ["Transfer-Encoding:", " chunked"]),
        ("folded name", ["Transfer-Encoding", " : chunked"]),
        ("behind a fold", ["A: b", " Transfer-Encoding: chunked"]),
        ("behind a bare LF", ["A: b\nTransfer-Encoding: chunked"]),
        ("behind a bare CR", ["A: b\rTransfer-Encoding: chunked"]),
        ("NUL in the name", ["Transfer-\0Encoding: chunked"]),
        ("NUL in the value", ["Transfer-Encoding: chun\0ked"]),
        ("underscore", ["Transfer_Encoding: chunked"]),
        ("latin-1", ["Transfer-Encoding: chunk\xe9d"]),
        ("no-break space", ["Transfer-Encoding:\xa0chunked"]),
        ("hop by hop", ["Transfer-Encoding: chunked", "Connection: Transfer-Encoding"]),
    ):
        yield Attempt(
            f"TE {name}, CL of all", [_head("POST /prices HTTP/1.1", key, f"Content-Length: {len(both)}", *said), both]
        )
        yield Attempt(f"TE {name}, alone", [_head("POST /prices HTTP/1.1", key, *said), chunk])
        # whoever reads chunks finds the last one, and a question behind it
        yield Attempt(f"TE {name}, GET", [_head(f"GET /price?asset={OWN} HTTP/1.1", key, *said), both], hides=False)
    # where nobody speaks of chunks there is no body, and what follows is a question
    plain = _head("POST /prices HTTP/1.1", key)
    yield Attempt("no length", [plain, hidden], hides=False)
    yield Attempt("no length, chunks", [plain, chunk], hides=False)


def _lengths(key: str, hidden: bytes) -> Iterator[Attempt]:
    size = len(hidden)
    for name, said in (
        ("twice the same", [f"Content-Length: {size}"] * 2),
        ("twice, the first is right", [f"Content-Length: {size}", "Content-Length: 0"]),
        ("twice, the second is right", ["Content-Length: 0", f"Content-Length: {size}"]),
        ("list of the same", [f"Content-Length: {size}, {size}"]),
        ("list", [f"Content-Length: {size}, 0"]),
        ("plus", [f"Content-Length: +{size}"]),
        ("minus", [f"Content-Length: -{size}"]),
        ("zeros before", [f"Content-Length: 000{size}"]),
        ("hexadecimal", [f"Content-Length: 0x{size:x}"]),
        ("underscore", [f"Content-Length: {size // 10}_{size % 10}"]),
        ("space within", [f"Content-Length: {size // 10} {size % 10}"]),
        ("space before the colon", [f"Content-Length : {size}"]),
        ("tab before the colon", [f"Content-Length\t: {size}"]),
        ("tab", [f"Content-Length:\t{size}\t"]),
        ("vertical tab", [f"Content-Length: \x0b{size}"]),
        ("NUL behind", [f"Content-Length: {size}\0"]),
        ("point", [f"Content-Length: {size}.0"]),
        ("exponent", ["Content-Length: 1e2"]),
        ("superscript", ["Content-Length: \xb2"]),
        ("empty", ["Content-Length: "]),
        ("folded", ["Content-Length:", f" {size}"]),
        ("folded digits", [f"Content-Length: {size // 10}", f" {size % 10}"]),
        ("behind a bare LF", [f"A: b\nContent-Length: {size}"]),
        ("behind a bare CR", [f"A: b\rContent-Length: {size}"]),
        ("underscored name", [f"Content_Length: {size}"]),
        ("hop by hop", [f"Content-Length: {size}", "Connection: Content-Length"]),
        ("of 20 digits", ["Content-Length: 18446744073709551616"]),
        ("over 64 bits", [f"Content-Length: {2**64 + size}"]),
        ("of 5,000 digits", ["Content-Length: " + "9" * 5_000]),
        ("far too large", ["Content-Length: 3000000"]),
    ):
        for line in ("POST /prices HTTP/1.1", f"GET /price?asset={OWN} HTTP/1.1"):
            yield Attempt(
                f"{line[:4].strip()}, CL {name}", [_head(line, key, *said), hidden], hides=name != "underscored name"
            )
    fits = _head(f"GET /price?asset={OWN} HTTP/1.1", key, f"Content-Length: {size}")
    yield Attempt("a GET with a body", [fits + hidden])
    yield Attempt("a HEAD with a body", [fits.replace(b"GET", b"HEAD", 1) + hidden])
    yield Attempt("a body in two parts", [fits + hidden[:20], hidden[20:]])
    yield Attempt("a body that is too short", [fits + hidden[:20]], ends=True)
    yield Attempt("a body that is too long", [fits + hidden, hidden], hides=False)


def _chunks(key: str, hidden: bytes) -> Iterator[Attempt]:
    size = b"%x" % len(hidden)
    for name, body in (
        ("plain", size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("extension", size + b";a=b\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("quoted extension", size + b';a="b;c"\r\n' + hidden + b"\r\n0;d\r\n\r\n"),
        ("extension with a bare LF", b"2;\nxx\r\n" + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("extension with a bare CR", b"2;\rxx\r\n" + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("endless extension", size + b";" + b"a" * 70_000 + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("spaces behind the size", size + b"  \r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("space before the size", b" " + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("plus", b"+" + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("minus", b"-1\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("0x", b"0x" + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("underscore", size[:1] + b"_" + size[1:] + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("zeros before", b"0" * 30 + size + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("64 bits", b"10000000000000000" + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("64 bits and more", b"1000000000000000" + size.rjust(2, b"0") + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("no size", b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("word for a size", b"xyz\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("bare LF behind the size", size + b"\n" + hidden + b"\r\n0\r\n\r\n"),
        ("bare CR behind the size", size + b"\r" + hidden + b"\r\n0\r\n\r\n"),
        ("bare LF behind the data", size + b"\r\n" + hidden + b"\n0\r\n\r\n"),
        ("nothing behind the data", size + b"\r\n" + hidden + b"0\r\n\r\n"),
        ("two bytes that are no CRLF", size + b"\r\n" + hidden + b"XX0\r\n\r\n"),
        ("bare LF at the end", size + b"\r\n" + hidden + b"\r\n0\n\n"),
        ("size too small", b"2\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("size too large", b"%x" % (len(hidden) + 40) + b"\r\n" + hidden + b"\r\n0\r\n\r\n"),
        ("trailer", b"0\r\nX: y\r\n\r\n"),
        ("trailer that says a length", size + b"\r\n" + hidden + b"\r\n0\r\nContent-Length: 5\r\n\r\n"),
        ("trailer that says chunks", size + b"\r\n" + hidden + b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("trailer that is a question", b"0\r\n" + hidden),
        ("trailer with a bare LF", b"0\r\nX: y\n\n" + hidden),
        ("trailer, endless", b"0\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
        ("no end", size + b"\r\n" + hidden + b"\r\n"),
    ):
        head = _head("POST /prices HTTP/1.1", key, "Transfer-Encoding: chunked")
        yield Attempt(f"chunks, {name}", [head, body])
    # what stands behind the last chunk is a question
    yield Attempt(
        "chunks, and a question behind",
        [_head("POST /prices HTTP/1.1", key, "Transfer-Encoding: chunked") + b"0\r\n\r\n" + hidden],
        hides=False,
    )


def _lines(key: str) -> Iterator[Attempt]:
    own, hidden = ask(OWN, key), ask(HIDDEN, key)
    line = own.partition(b"\r\n")[0]
    yield Attempt("bare LF everywhere", [own.replace(b"\r\n", b"\n")])
    yield Attempt("bare LF behind the request line", [own.replace(b"\r\n", b"\n", 1)])
    yield Attempt("bare LF at the end", [own[:-2] + b"\n" + hidden], hides=False)
    yield Attempt("two bare LF at the end", [own[:-4] + b"\n\n" + hidden], hides=False)
    yield Attempt("LF CRLF at the end", [own[:-4] + b"\n\r\n" + hidden], hides=False)
    yield Attempt("bare CR everywhere", [own.replace(b"\r\n", b"\r")])
    yield Attempt("CR CR LF", [own.replace(b"\r\n", b"\r\r\n")])
    yield Attempt("CR CR LF at the end", [own[:-2] + b"\r\r\n" + hidden], hides=False)
    yield Attempt("bare CR in the request line", [own.replace(b" HTTP", b"\r HTTP", 1)])
    yield Attempt("question in a field behind bare CR", [own[:-2] + b"A: b\r\r" + hidden])
    yield Attempt("question in a field behind bare LF", [own[:-2] + b"A: b\n\n" + hidden], hides=False)
    yield Attempt("question in a folded field", [own[:-2] + b"A: b\r\n " + hidden])
    yield Attempt("folded", [own[:-2] + b"A: b\r\n c\r\n\r\n"])
    yield Attempt("folded by a tab", [own[:-2] + b"A: b\r\n\tc\r\n\r\n"])
    yield Attempt("folded key", [line + b"\r\nHost: prices\r\nAuthorization: Bearer\r\n " + key.encode() + b"\r\n\r\n"])
    yield Attempt("folded first field", [line + b"\r\n A: b\r\n" + own.partition(b"\r\n")[2]])
    yield Attempt("line of a space alone", [own[:-2] + b" \r\n" + hidden], hides=False)
    yield Attempt("empty lines before", [b"\r\n\r\n" + own])
    yield Attempt("bare LF before", [b"\n" + own])
    yield Attempt("bare CR before", [b"\r" + own])
    yield Attempt("spaces before", [b"  " + own])
    yield Attempt("NUL before", [b"\0" + own])


def _heads(key: str) -> Iterator[Attempt]:
    own, hidden = ask(OWN, key), ask(HIDDEN, key)
    for name, said in (
        ("space before the colon", "A : b"),
        ("tab before the colon", "A\t: b"),
        ("space in the name", "A B: c"),
        ("no colon", "A"),
        ("no name", ": b"),
        ("NUL in a name", "A\0: b"),
        ("NUL in a value", "A: b\0c"),
        ("NUL and a question", "A: \0\r\n\r\n" + hidden.decode("latin-1")[:-4]),
        ("8-bit name", "\xc4: b"),
        ("8-bit value", "A: \xc4"),
        ("control byte", "A: \x01"),
        ("DEL", "A: \x7f"),
        ("brackets", "(A): b"),
        ("second host", "Host: other"),
        ("second host, the same", "Host: prices"),
        ("line of 20 KB", "A: " + "b" * 20_000),
        ("line of 40 KB", "A: " + "b" * 40_000),
        ("name of 20 KB", "a" * 20_000 + ": b"),
        ("150 fields", "\r\n".join(["A: b"] * 150)),
        ("key twice", f"Authorization: Bearer {key}"),
        ("two keys", "X-API-Key: another-key-altogether"),
        ("two keys, the same", f"X-API-Key: {key}"),
        ("key named as hop by hop", "Connection: Authorization"),
        ("host named as hop by hop", "Connection: Host"),
        ("Connection: close, keep-alive", "Connection: close, keep-alive"),
        ("Connection twice", "Connection: keep-alive\r\nConnection: close"),
        ("Keep-Alive", "Keep-Alive: timeout=1000, max=1"),
        ("TE", "TE: trailers, chunked"),
        ("Trailer", "Trailer: Content-Length"),
        ("Range", "Range: bytes=0-5"),
        ("X-Forwarded-For", "X-Forwarded-For: 127.0.0.1, ::1"),
        ("method override", "X-HTTP-Method-Override: POST"),
        ("rewritten", "X-Original-URL: /price?asset=" + HIDDEN),
        ("Content-Encoding", "Content-Encoding: gzip"),
    ):
        hides = name != "NUL and a question"
        yield Attempt(f"field, {name}", [own[:-2] + said.encode("latin-1") + b"\r\n\r\n"], hides=hides)
    yield Attempt("no host", [own.replace(b"Host: prices\r\n", b"")])
    yield Attempt("empty host", [own.replace(b"Host: prices", b"Host:")])
    yield Attempt("host with a question", [own.replace(b"Host: prices", b"Host: a/price?asset=" + HIDDEN.encode())])
    yield Attempt("head in two parts", [own[:25], own[25:]])
    yield Attempt("head in three parts", [own[:-4], own[-4:-2], own[-2:]])
    yield Attempt("head cut off", [own[:-2]], ends=True)
    yield Attempt("head cut off at once", [own[:1]], ends=True)


def _request_lines(key: str) -> Iterator[Attempt]:
    def line(text: str, *more: str) -> bytes:
        return _head(text, key, *more)

    path = f"/price?asset={OWN}"
    for name, text in (
        ("two spaces", f"GET  {path} HTTP/1.1"),
        ("two spaces behind", f"GET {path}  HTTP/1.1"),
        ("tab", f"GET\t{path}\tHTTP/1.1"),
        ("space at the end", f"GET {path} HTTP/1.1 "),
        ("four words", f"GET {path} HTTP/1.1 HTTP/1.1"),
        ("question within", f"GET {path} HTTP/1.1 GET /price HTTP/1.1"),
        ("lower-case method", f"get {path} HTTP/1.1"),
        ("lower-case version", f"GET {path} http/1.1"),
        ("unknown method", f"FETCH {path} HTTP/1.1"),
        ("no method", f"{path} HTTP/1.1"),
        ("HTTP/1.2", f"GET {path} HTTP/1.2"),
        ("HTTP/2.0", f"GET {path} HTTP/2.0"),
        ("HTTP/0.9", f"GET {path} HTTP/0.9"),
        ("HTTP/1.01", f"GET {path} HTTP/1.01"),
        ("HTTP/01.1", f"GET {path} HTTP/01.1"),
        ("HTTP/1.1x", f"GET {path} HTTP/1.1x"),
        ("HTTP/1", f"GET {path} HTTP/1"),
        ("HTTP/1.", f"GET {path} HTTP/1."),
        ("8-bit path", f"GET {path}\xdf HTTP/1.1"),
        ("NUL in the path", f"GET {path}\0 HTTP/1.1"),
        ("encoded CRLF", f"GET {path}%0d%0aX:%20y HTTP/1.1"),
        ("encoded question", f"GET {path}%20HTTP/1.1%0d%0a%0d%0aGET%20/price HTTP/1.1"),
        ("fragment", f"GET {path}#a HTTP/1.1"),
        ("absolute", f"GET http://prices{path} HTTP/1.1"),
        ("absolute, another host", f"GET http://other{path} HTTP/1.1"),
        ("absolute, https", f"GET https://prices{path} HTTP/1.1"),
        ("absolute, user", f"GET http://a:b@prices{path} HTTP/1.1"),
        ("absolute, no path", "GET http://prices HTTP/1.1"),
        ("other scheme", f"GET ftp://prices{path} HTTP/1.1"),
        ("authority", "CONNECT prices:80 HTTP/1.1"),
        ("asterisk", "OPTIONS * HTTP/1.1"),
        ("GET *", "GET * HTTP/1.1"),
        ("two slashes", f"GET /{path} HTTP/1.1"),
        ("dots", f"GET /x/..{path} HTTP/1.1"),
        ("encoded dots", f"GET /x/%2e%2e{path} HTTP/1.1"),
        ("backslash", f"GET \\{path} HTTP/1.1"),
        ("long", f"GET {path}&x={'y' * 9_000} HTTP/1.1"),
        ("far too long", f"GET {path}&x={'y' * 70_000} HTTP/1.1"),
        ("TRACE", f"TRACE {path} HTTP/1.1"),
        ("two questions", f"GET {path}&asset={HIDDEN} HTTP/1.1"),
        ("PUT", f"PUT {path} HTTP/1.1"),
    ):
        yield Attempt(f"line, {name}", [line(text)], hides=name != "question within")
    yield Attempt("line alone", [f"GET {path}\r\n".encode()], is_old=True)
    yield Attempt("line alone, twice", [f"GET {path}\r\n\r\n".encode() * 2], is_old=True)
    yield Attempt("HTTP/1.0", [line(f"GET {path} HTTP/1.0")])
    yield Attempt("HTTP/1.0, keep-alive", [line(f"GET {path} HTTP/1.0", "Connection: keep-alive")])
    hidden = ask(HIDDEN, key)
    yield Attempt(
        "HTTP/1.0, chunks",
        [
            line("POST /prices HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked"),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden),
        ],
    )
    yield Attempt(
        "HTTP/1.0, CL.TE",
        [
            line(
                "POST /prices HTTP/1.0",
                "Connection: keep-alive",
                f"Content-Length: {len(hidden) + 5}",
                "Transfer-Encoding: chunked",
            ),
            b"0\r\n\r\n" + hidden,
        ],
    )


def _protocols(key: str) -> Iterator[Attempt]:
    own, hidden = ask(OWN, key), ask(HIDDEN, key)
    body = b'{"assets":["%b"]}' % OWN.encode()
    for name, more in (
        ("h2c", ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]),
        ("h2c, without Connection", ["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]),
        (
            "websocket",
            [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ],
        ),
        ("websocket of no version", ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 777"]),
        ("TLS", ["Connection: Upgrade", "Upgrade: TLS/1.0"]),
    ):
        upgrade = own[:-2] + "\r\n".join([*more, "", ""]).encode()
        yield Attempt(f"upgrade, {name}", [upgrade, hidden], hides=False)
    yield Attempt("HTTP/2 at once", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + hidden], hides=False)
    yield Attempt("PROXY protocol", [b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n" + own])
    yield Attempt("TLS", [b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160)])
    expecting = _head("POST /prices HTTP/1.1", key, "Expect: 100-continue", f"Content-Length: {len(body)}")
    yield Attempt("100-continue, waited for", [expecting, body])
    yield Attempt("100-continue, not waited for", [expecting + body])
    yield Attempt(
        "100-continue, a question for a body", [expecting.replace(b": %d" % len(body), b": %d" % len(hidden)), hidden]
    )
    yield Attempt("100-continue, no body", [own[:-2] + b"Expect: 100-continue\r\n\r\n"])
    yield Attempt(
        "100-continue, chunks",
        [
            _head("POST /prices HTTP/1.1", key, "Expect: 100-continue", "Transfer-Encoding: chunked"),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden),
        ],
    )
    yield Attempt("another expectation", [own[:-2] + b"Expect: the-unexpected\r\n\r\n"])
    yield Attempt("100-continue, twice", [own[:-2] + b"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n"])


def _orders(key: str) -> Iterator[Attempt]:
    """What stands in which order, and how it ends."""
    own, hidden = ask(OWN, key), ask(HIDDEN, key)
    body = b'{"assets":["%b"]}' % OWN.encode()
    post = _head("POST /prices HTTP/1.1", key, f"Content-Length: {len(body)}") + body
    head = own.replace(b"GET", b"HEAD", 1)
    yield Attempt("pipelined", [own * 20])
    yield Attempt("pipelined behind a body", [post + own + post + own])
    yield Attempt("pipelined behind a HEAD", [head + own + head * 3 + own])
    yield Attempt("pipelined behind a refusal", [own.replace(b"/price", b"/nothing", 1) * 3 + own])
    yield Attempt("pipelined behind a bad key", [ask(OWN, "nobody-has-this-key") * 3 + own])
    yield Attempt("pipelined behind a look-up", [ask("NOPE", key) + own])
    yield Attempt("a hundred", [own * 100])
    yield Attempt("byte by byte", [bytes([byte]) for byte in own[:24]] + [own[24:]])
    yield Attempt("half-closed", [own], ends=True)
    yield Attempt("half-closed behind many", [own * 20], ends=True)
    yield Attempt("half-closed in a head", [own + own[:30]], ends=True)
    yield Attempt("half-closed in a body", [post[:-3]], ends=True)
    yield Attempt("half-closed behind a body", [post], ends=True)
    yield Attempt("Connection: close in between", [own[:-2] + b"Connection: close\r\n\r\n" + hidden], hides=False)
