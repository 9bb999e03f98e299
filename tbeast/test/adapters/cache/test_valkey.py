"""Tests of L{tbeast.adapters.cache.valkey} against a real server in good health."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.protocols.portforward import ProxyFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tbeast.adapters.cache.valkey import RefusedError, Script, ValkeyClient, packed
from tbeast.adapters.cache.valkeytarget import target
from tbeast.test.adapters.cache.clients import SHORT, ServerCase, SharedServerCase, outcome, until
from tbeast.test.adapters.feeds.certificates import Authority
from tbeast.testing.valkey import Server

ECHO = Script(b"return {KEYS[1], ARGV[1]}")
COUNT = Script(
    b"if ARGV[1] == 'bad' then return redis.call('LPUSH', KEYS[1], 1) end return redis.call('INCR', KEYS[1])"
)


class QuestionTests(SharedServerCase):
    async def test_bytes_come_back_as_they_went(self) -> None:
        for value in (b"", b"1", b"1.50", b"-0", b"nan", b"\x00\xff\r\n+OK\r\n", "é".encode(), b"$-1\r\n"):
            await self.valkey.command("SET", "k", value)
            self.assertEqual(await self.valkey.command("GET", "k"), value)

    async def test_every_sort_of_answer(self) -> None:
        self.assertEqual(await self.valkey.command("SET", "k", "v"), b"OK")
        self.assertIsNone(await self.valkey.command("GET", "none"))
        self.assertEqual(await self.valkey.command("INCRBY", "n", -5), -5)
        self.assertEqual(await self.valkey.command("MGET", "k", "none"), [b"v", None])
        self.assertEqual(await self.valkey.command("KEYS", "nothing*"), [])
        self.assertEqual(await self.valkey.command("EVAL", "return {1, {'a', {}, false}, redis.status_reply('S')}", 0),
                         [1, [b"a", [], None], b"S"])  # fmt: skip

    async def test_a_refusal(self) -> None:
        with self.assertRaisesRegex(RefusedError, "unknown command"):
            await self.valkey.command("NO SUCH")
        self.assertEqual(self.valkey.counts["refused"], 1)

    async def test_a_pipeline_keeps_the_order_and_goes_on_after_a_refusal(self) -> None:
        replies = await self.valkey.pipeline([("SET", "k", 1), ("LPUSH", "k", 1), ("INCR", "k")])
        self.assertEqual((replies[0], replies[1].wrong_type, replies[2]), (b"OK", True, 2))
        self.assertEqual(await self.valkey.pipeline([]), [])

    async def test_large_values_and_long_pipelines(self) -> None:
        value = bytes(range(256)) * 4096 * 5
        await self.valkey.command("SET", "large", value)
        self.assertEqual(await self.valkey.pipeline([("GET", "large")] * 4), [value] * 4)
        await self.valkey.pipeline([("SET", f"k{number}", number) for number in range(20_000)])
        replies = await self.valkey.pipeline([("GET", f"k{number}") for number in range(20_000)])
        self.assertEqual(replies, [b"%d" % number for number in range(20_000)])

    async def test_each_of_many_gets_its_own(self) -> None:
        await self.valkey.pipeline([("SET", f"k{number}", number) for number in range(400)])
        replies = await gatherResults([self.valkey.command("GET", f"k{number}") for number in range(400)])
        self.assertEqual(replies, [b"%d" % number for number in range(400)])

    async def test_a_script(self) -> None:
        for _ in range(3):
            self.assertEqual(await self.valkey.script(ECHO, ["k"], [b"\x00\xff"]), [b"k", b"\x00\xff"])
        self.server.command("SCRIPT", "FLUSH")
        self.assertEqual(await self.valkey.script(ECHO, ["k"], [1]), [b"k", b"1"])

    async def test_a_forgotten_script_runs_once_for_each_call(self) -> None:
        calls = [((f"k{number % 3}",), ("",)) for number in range(30)]
        for round_ in range(3):
            self.server.command("SCRIPT", "FLUSH")
            replies = await self.valkey.scripts(COUNT, calls)
            self.assertEqual(replies, [round_ * 10 + number // 3 + 1 for number in range(30)])
        self.assertEqual(await self.valkey.scripts(COUNT, []), [])

    async def test_a_script_that_fails_for_one_key(self) -> None:
        replies = await self.valkey.scripts(COUNT, [(("a",), ("",)), (("a",), ("bad",)), (("b",), ("",))])
        self.assertEqual((replies[0], replies[2]), (1, 1))
        self.assertIn("WRONGTYPE", str(replies[1]))
        with self.assertRaises(RefusedError):
            await self.valkey.script(COUNT, ["a"], ["bad"])

    async def test_bulk(self) -> None:
        data = b"".join(packed("HSET", f"h{number}", "a", number) + packed("ZADD", "z", number, f"h{number}")
                        for number in range(5000))  # fmt: skip
        sent = [self.valkey.send_packed(data, 10_000) for _ in range(3)]
        asked = self.valkey.command("PING")
        self.assertEqual((await gatherResults(sent), await asked), ([None] * 3, b"PONG"))
        self.assertEqual(self.server.command("ZCARD", "z"), 5000)
        self.assertEqual(self.server.command("DBSIZE"), 5001)

    async def test_bulk_with_refusals(self) -> None:
        await self.valkey.command("SET", "k", "v")
        data = packed("SET", "a", 1) + packed("LPUSH", "k", 1) * 2 + packed("GET", "k") + packed("INCR", "a")
        with self.assertRaisesRegex(RefusedError, "^2 refused; the first: WRONGTYPE"):
            await self.valkey.send_packed(data, 5)
        await self.valkey.send_packed(packed("INCR", "a"), 1)
        self.assertEqual(self.server.command("GET", "a"), b"3")

    async def test_the_state(self) -> None:
        self.assertTrue(self.valkey.status.up)
        self.assertEqual(self.valkey.status.why, "")
        await self.valkey.stop()
        self.assertEqual((self.valkey.status.up, self.valkey.status.why), (False, "stopped"))
        self.assertIn("stopped", str(await outcome(self.valkey.command("PING"))))
        await self.valkey.start()
        self.assertEqual(await self.valkey.command("PING"), b"PONG")


class PlaceTests(ServerCase):
    async def test_a_password(self) -> None:
        server = self.own_server(password="p/w:@").start()
        client = self.client(f"redis://:p%2Fw%3A%40@127.0.0.1:{server.port}")
        await client.start()
        self.assertEqual(await client.command("PING"), b"PONG")

    async def test_a_user(self) -> None:
        server = self.own_server().start()
        server.command("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all")
        client = self.client(f"redis://me:secret@127.0.0.1:{server.port}")
        await client.start()
        self.assertEqual(await client.command("ACL", "WHOAMI"), b"me")

    async def test_a_database(self) -> None:
        server = self.own_server().start()
        client = self.client(f"{server.url}/3")
        await client.start()
        await client.command("SET", "k", "v")
        self.assertEqual(server.command("DBSIZE"), 0)
        self.assertIn(b"db3:keys=1", server.command("INFO", "keyspace"))

    async def test_a_socket_in_the_file_system(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        server = Server(arguments=("--unixsocket", f"{folder}/s"))
        self.addCleanup(server.stop)
        server.start()
        client = self.client(f"unix://{folder}/s")
        await client.start()
        self.assertEqual(await client.command("SET", "k", "v"), b"OK")
        self.assertEqual(server.command("GET", "k"), b"v")


class TlsTests(ServerCase):
    """The server behind a proxy that speaks TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.server = self.own_server().start()

    def proxy(self, certified: str) -> int:
        """Listen with a certificate for that host; gives the port."""
        wrapped = TLSMemoryBIOFactory(
            self.authority.server(certified).options(), False, ProxyFactory("127.0.0.1", self.server.port)
        )
        return self._listen(wrapped)

    def _listen(self, factory: Any) -> int:
        factory.noisy = False
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def tls_client(self, url: str, trusted: Any) -> ValkeyClient:
        client = ValkeyClient(target(url), reactor, lambda: 0.0, lambda: 0.5, SHORT, trusted)
        self.addCleanup(client.stop)
        return client

    async def asked(self, url: str, trusted: Any) -> object:
        client = self.tls_client(url, trusted)
        await client.start()
        return await outcome(client.command("PING"))

    async def test_one_that_is_what_it_claims(self) -> None:
        port = self.proxy("localhost")
        self.assertEqual(await self.asked(f"rediss://localhost:{port}", self.authority.trust_root), b"PONG")
        port = self.proxy("127.0.0.1")
        self.assertEqual(await self.asked(f"rediss://127.0.0.1:{port}", self.authority.trust_root), b"PONG")

    async def test_one_that_nobody_vouches_for(self) -> None:
        port = self.proxy("localhost")
        for trusted in (None, Authority().trust_root):
            self.assertIn(
                "TLS: certificate verify failed", str(await self.asked(f"rediss://localhost:{port}", trusted))
            )

    async def test_another_host(self) -> None:
        for certified, named in (("elsewhere.example", "localhost"), ("localhost", "127.0.0.1")):
            port = self.proxy(certified)
            told = await self.asked(f"rediss://{named}:{port}", self.authority.trust_root)
            self.assertIn("TLS: the certificate is another host's", str(told))

    async def test_one_that_speaks_no_tls(self) -> None:
        told = await self.asked(f"rediss://127.0.0.1:{self.server.port}", self.authority.trust_root)
        self.assertIn("cannot be asked", str(told))

    async def test_no_tls_where_it_is_wanted(self) -> None:
        told = await self.asked(f"redis://127.0.0.1:{self.proxy('127.0.0.1')}", None)
        self.assertIn("cannot be asked", str(told))

    async def test_it_comes_back_over_tls(self) -> None:
        client = self.tls_client(f"rediss://localhost:{self.proxy('localhost')}", self.authority.trust_root)
        await client.start()
        self.server.kill()
        await until(lambda: not client.status.up)
        self.assertIsInstance(await outcome(client.command("PING")), str)
        self.server.start()
        await until(lambda: client.status.up)
        value = bytes(1_000_000)
        await client.command("SET", "k", value)
        self.assertEqual(await client.command("GET", "k"), value)
