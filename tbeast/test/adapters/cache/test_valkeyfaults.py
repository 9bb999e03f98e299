"""What becomes of L{tbeast.adapters.cache.valkey} when the real server fails in every way that it can.

In each case whoever asks is answered, rightly or by the one error, and everything goes on by itself. A question without
an end would run into the test's own limit.
"""

from __future__ import annotations

import socket
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.portforward import ProxyFactory

from tbeast.adapters.cache.valkey import Script, ValkeyClient, packed
from tbeast.test.adapters.cache.clients import ServerCase, outcome, sleep, until
from tbeast.testing.daemonports import free_ports

ADD = Script(b"return redis.call('INCRBY', KEYS[1], ARGV[1])")


class FaultTests(ServerCase):
    async def works(self, client: ValkeyClient) -> None:
        """It answers again, and rightly: each question has its own answer."""
        await until(lambda: client.status.up)
        await client.pipeline([("SET", f"k{number}", number) for number in range(50)])
        replies = await gatherResults([client.command("GET", f"k{number}") for number in range(50)])
        self.assertEqual(replies, [b"%d" % number for number in range(50)])
        await client.command("DEL", "sum")
        self.assertEqual(await client.scripts(ADD, [(("sum",), (5,)), (("sum",), (6,))]), [5, 11])
        await until(lambda: client._bulk.ready)
        await client.send_packed(packed("INCR", "sum") * 3, 3)
        self.assertEqual(await client.command("GET", "sum"), b"14")

    async def test_absent_at_the_start(self) -> None:
        server = self.own_server()
        (server.port,) = free_ports(1)
        client = self.client(server.url)
        await client.start()
        told = await gatherResults([outcome(client.command("PING")) for _ in range(100)])
        self.assertEqual(set(told), {f"CacheUnavailableError: the cache at 127.0.0.1:{server.port} cannot be asked: "
                                     "connection refused"})  # fmt: skip
        self.assertEqual(len(self.log.having("is away")), 1)
        server.start()
        await self.works(client)

    async def test_killed_and_started_again(self) -> None:
        server = self.own_server().start()
        client = self.client(server.url)
        await client.start()
        for _ in range(3):
            asked = [outcome(client.command("SET", "k", "v")) for _ in range(100)]
            bulk = outcome(client.send_packed(packed("INCR", "n") * 1000, 1000))
            await sleep(0)  # so that they are on the wire
            server.kill()
            answers = set(await gatherResults(asked))
            self.assertTrue(
                answers <= {b"OK", *(answer for answer in answers if "Unavailable" in str(answer))}, answers
            )
            await bulk
            await until(lambda: not client.status.up)
            self.assertIn("cannot be asked", str(await outcome(client.command("PING"))))
            server.start()
            await self.works(client)

    async def test_hanging_and_going_on(self) -> None:
        """Longer than the time-out, so that its late answers come on connections that nobody listens to any more."""
        server = self.own_server().start()
        client = self.client(server.url)
        await client.start()
        await client.pipeline([("SET", f"old{number}", f"old{number}") for number in range(8)])
        for _ in range(2):
            server.hang()
            waiting = [outcome(client.command("GET", f"old{number}")) for number in range(8)]
            answers = await gatherResults(waiting)
            self.assertEqual(set(answers), {"CacheUnavailableError: no answer within 0.6 s"})
            before = client.counts["asked"]
            turned_away = await gatherResults([outcome(client.command("GET", "old1")) for _ in range(500)])
            self.assertTrue(all("cannot be asked" in str(answer) for answer in turned_away))
            self.assertEqual(client.counts["asked"], before)
            server.resume()
            await self.works(client)

    async def test_hanging_for_a_moment(self) -> None:
        """Shorter than the time-out: those who asked at once are answered, no connection is lost."""
        server = self.own_server().start()
        client = self.client(server.url, reply_seconds=20.0)
        await client.start()
        server.hang()
        waiting = [outcome(client.command("PING")) for _ in range(10)]
        await until(lambda: not client.status.up)
        self.assertIn("its answers are late", str(await outcome(client.command("PING"))))
        server.resume()
        self.assertEqual(await gatherResults(waiting), [b"PONG"] * 10)
        await until(lambda: client.status.up)
        self.assertEqual(client.counts["losses"], 0)

    async def test_it_hangs_while_nobody_asks(self) -> None:
        server = self.own_server().start()
        client = self.client(server.url)
        told: list[object] = []
        client.subscriber(b"c", told.append, lambda: told.append("lost"), lambda: told.append("regained"))
        await client.start()
        await until(lambda: told)
        server.hang()
        await until(lambda: not client.status.up and told == ["regained", "lost"])
        server.resume()
        await until(lambda: client.status.up and told == ["regained", "lost", "regained"])
        await client.command("PUBLISH", "c", "1")
        await until(lambda: told[3:] == [b"1"])

    async def test_flapping_under_load(self) -> None:
        """Each answer belongs to its question, however often the server comes and goes."""
        server = self.own_server().start()
        client = self.client(server.url)
        await client.start()
        chance = Random(5)
        answers: list[tuple[int, object]] = []
        loading = True

        async def load(number: int) -> None:
            while loading:
                answers.append((number, await outcome(client.command("ECHO", number))))
                await sleep(0.001)

        work = [Deferred.fromCoroutine(load(number)) for number in range(20)]
        for _ in range(8):
            await sleep(0.05 + 0.1 * chance.random())
            if chance.random() < 0.5:
                server.kill()
                await sleep(0.05 * chance.random())
                server.start()
            else:
                server.hang()
                await sleep(0.8 * chance.random())
                server.resume()
        loading = False
        await gatherResults(work)
        right = [number for number, answer in answers if answer == b"%d" % number]
        wrong = [(n, a) for n, a in answers if a != b"%d" % n and "CacheUnavailableError" not in str(a)]
        self.assertEqual(wrong, [])
        self.assertGreater(len(right), 100)
        await self.works(client)

    async def test_a_wrong_password(self) -> None:
        server = self.own_server(password="right").start()
        client = self.client(f"redis://:wrong@127.0.0.1:{server.port}")
        await client.start()
        told = str(await outcome(client.command("PING")))
        self.assertIn("the password was refused: WRONGPASS", told)
        await sleep(0.5)
        self.assertEqual(len(self.log.lines), 1, self.log.lines)
        self.assertNotIn("wrong@", self.log.lines[0])
        server.command("CONFIG", "SET", "requirepass", "wrong")
        server.password = "wrong"
        await self.works(client)

    async def test_a_password_that_is_missing(self) -> None:
        server = self.own_server(password="right").start()
        client = self.client(f"redis://127.0.0.1:{server.port}")
        await client.start()
        self.assertIn("NOAUTH", str(await outcome(client.command("PING"))))

    async def test_a_password_that_nobody_asked_for(self) -> None:
        server = self.own_server().start()
        client = self.client(f"redis://:pw@127.0.0.1:{server.port}")
        await client.start()
        self.assertIn("the password was refused", str(await outcome(client.command("PING"))))

    async def test_no_such_database(self) -> None:
        server = self.own_server().start()
        client = self.client(f"{server.url}/999")
        await client.start()
        self.assertIn("database 999 was refused", str(await outcome(client.command("PING"))))

    async def test_everything_is_forgotten(self) -> None:
        server = self.own_server().start()
        client = self.client(server.url)
        await client.start()
        await self.works(client)
        server.command("FLUSHALL")
        server.command("SCRIPT", "FLUSH")
        self.assertIsNone(await client.command("GET", "k1"))
        await self.works(client)

    async def test_too_many_clients(self) -> None:
        """The server hangs up on us while all its places are taken by others."""
        server = self.own_server().start()
        with socket.create_connection(("127.0.0.1", server.port)) as other:
            other.sendall(b"CONFIG SET maxclients 1\r\n")
            self.assertEqual(other.recv(100), b"+OK\r\n")
            client = self.client(server.url)
            await client.start()
            self.assertIn("cannot be asked", str(await outcome(client.command("PING"))))
            other.sendall(b"CONFIG SET maxclients 100\r\n")
        await self.works(client)

    async def test_it_kills_our_connections(self) -> None:
        server = self.own_server().start()
        client = self.client(server.url)
        await client.start()
        for times in range(1, 6):
            server.command("CLIENT", "KILL", "TYPE", "normal")
            await self.lost_and_back(client, times)
        await self.works(client)

    async def lost_and_back(self, client: ValkeyClient, times: int) -> None:
        await until(lambda: client.counts["losses"] == times and client.status.up)

    async def test_it_becomes_a_replica_and_a_primary_again(self) -> None:
        server = self.own_server().start()
        client = self.client(server.url, settled_seconds=0.0)
        await client.start()
        (closed,) = free_ports(1)
        server.command("REPLICAOF", "127.0.0.1", closed)
        self.assertIn("READONLY", str(await outcome(client.command("SET", "k", "v"))))
        server.command("REPLICAOF", "NO", "ONE")
        await self.works(client)


class PeerTests(ServerCase):
    """Where something else listens."""

    def listen(self, factory: Any) -> ValkeyClient:
        factory.noisy = False
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return self.client(f"127.0.0.1:{port.getHost().port}")

    async def told(self, client: ValkeyClient) -> str:
        await client.start()
        return str(await outcome(client.command("PING")))

    async def test_garbage(self) -> None:
        chance = Random(7)

        class Garbage(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.write(chance.randbytes(2000))

        client = self.listen(Factory.forProtocol(Garbage))
        self.assertIn("cannot be asked", await self.told(client))
        await sleep(0.5)
        self.assertFalse(client.status.up)

    async def test_a_web_server(self) -> None:
        class Web(Protocol):
            transport: Any

            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        self.assertIn("it does not speak the Redis protocol: it said 'HTTP/1.1 400 Bad Request'",
                      await self.told(self.listen(Factory.forProtocol(Web))))  # fmt: skip

    async def test_one_that_says_nothing(self) -> None:
        self.assertIn("no answer within 0.6 s", await self.told(self.listen(Factory.forProtocol(Protocol))))

    async def test_one_that_hangs_up(self) -> None:
        class Rude(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.loseConnection()

        self.assertIn("it hung up", await self.told(self.listen(Factory.forProtocol(Rude))))

    async def test_one_that_never_stops(self) -> None:
        class Endless(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.registerProducer(self, False)

            def resumeProducing(self) -> None:
                self.transport.write(b"x" * 65536)

            def stopProducing(self) -> None:
                """It hears that we are gone."""

        self.assertIn("a line without end", await self.told(self.listen(Factory.forProtocol(Endless))))

    async def test_a_network_that_is_cut(self) -> None:
        """Nothing passes in either direction: what was asked fails in time, and it comes back on new connections."""
        server = self.own_server().start()
        proxy = ProxyFactory("127.0.0.1", server.port)
        client = self.listen(proxy)
        ends: list[Any] = []
        build = proxy.buildProtocol

        def remembered(address: Any) -> Any:
            ends.append(build(address))
            return ends[-1]

        self.patch(proxy, "buildProtocol", remembered)
        await client.start()
        self.assertEqual(await client.command("PING"), b"PONG")
        for end in ends:
            end.transport.pauseProducing()
            end.peer.transport.pauseProducing()
        waiting = [outcome(client.command("PING")) for _ in range(4)]
        self.assertEqual(set(await gatherResults(waiting)), {"CacheUnavailableError: no answer within 0.6 s"})
        await until(lambda: client.status.up)
        self.assertEqual(await client.command("PING"), b"PONG")
        for end in ends:
            end.transport.abortConnection()
