"""tbeast price, against a real surface on loopback."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tbeast.commands import desks
from tbeast.commands.asking import NoAnswer, PriceAnswer, one_line, outcome_of, printable
from tbeast.commands.cells import age, steady
from tbeast.commands.main import main
from tbeast.servers.answers import Answers
from tbeast.settings import SETTINGS
from tbeast.test.commands.opendoors import STRANGER, OpenDoors, real_reactor
from tbeast.test.servers.rooms import FREE, PARTNER, stale_quote

BTC_LINE = "BTC  83421.57 USD  good  median  3/4 sources  age 0.41 s  spread 1.8 bp  SIMULATED"


def dead_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port on which nobody listens."""
    with closing(socket.socket(socket.AF_INET, kind)) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class HttpTests(OpenDoors):
    async def test_one_price(self) -> None:
        result = await self.ask("price", "btc")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(result.stdout.rstrip(), BTC_LINE)
        self.assertEqual(self.site.asked, [b"/price?asset=BTC"])

    async def test_several_are_one_question(self) -> None:
        result = await self.ask("price", "BTC", "eth", "Btc")
        self.assertEqual(result.exit_code, 0, result.output)
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertEqual(
            re.split("  +", lines[1].rstrip()),
            ["ETH", "3180.25 USD", "degraded", "kraken-ws", "1/2 sources", "age 0.41 s", "spread 1.8 bp", "SIMULATED"],
        )
        self.assertEqual(lines[0].index("USD"), lines[1].index("USD"))
        self.assertEqual(self.site.asked, [b"/prices?assets=BTC%2CETH"])

    async def test_more_than_one_question_may_hold(self) -> None:
        assets = [f"NO{number}" for number in range(31)]
        result = await self.ask("price", *assets, "--json")
        self.assertEqual([json.loads(line)["asset"] for line in result.stdout.splitlines()], assets)
        self.assertEqual(len(self.site.asked), 2)

    async def test_json_is_as_the_daemon_wrote_it(self) -> None:
        result = await self.ask("price", "BTC", "--json")
        self.assertTrue(result.stdout.startswith('{"asset":"BTC","price":83421.57,"timestamp":"'), result.stdout)
        self.assertEqual(result.stdout.count("\n"), 1)
        self.assertIs(json.loads(result.stdout)["simulated"], True)

    async def test_json_has_a_line_for_each_and_refusals_too(self) -> None:
        result = await self.ask("price", "BTC", "NOPE", "ETH", "--json")
        self.assertEqual(result.exit_code, 1)
        first, second, third = (json.loads(line) for line in result.stdout.splitlines())
        self.assertEqual((first["price"], third["price"]), (83421.57, 3180.25))
        self.assertEqual(second, {"asset": "NOPE", "error": "unknown_asset"})
        self.assertEqual(result.stderr, "NOPE: The asset is not known. (unknown_asset)\n")

    async def test_options(self) -> None:
        self.house.view.singles["BTC", "kraken"] = self.house.shelf.replies["BTC"].quote
        result = await self.ask("price", "BTC", "--exchange", "Kraken", "--quote", "usdt", "--max-age-ms", "5000")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertTrue(result.stdout.startswith("BTC  166843.14 USDT  good"), result.stdout)
        self.assertEqual(self.site.asked, [b"/price?asset=BTC-USDT&exchange=kraken&max_age_ms=5000"])

    async def test_options_with_several_are_a_question_each(self) -> None:
        result = await self.ask("price", "BTC", "ETH", "--max-age-ms", "100")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(self.site.asked), 2)
        one, other = result.stderr.splitlines()
        self.assertIn("BTC: The newest price of BTC is 412 ms old", one)
        self.assertTrue(other.endswith("(no_fresh_price)"), other)
        self.assertIn("The last was 3180.25 USD, 0 s ago.", other)

    async def test_a_quote_currency_goes_into_the_batch(self) -> None:
        result = await self.ask("price", "BTC", "ETH-USDT", "--quote", "USDT")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.site.asked, [b"/prices?assets=BTC-USDT%2CETH-USDT"])
        self.assertIn("6360.5 USDT", result.stdout)

    async def test_an_unknown_asset(self) -> None:
        result = await self.ask("price", "BTV")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "BTV is not among the assets. Near to it: BTC (Bitcoin). (unknown_asset)\n")

    async def test_no_fresh_price(self) -> None:
        self.house.lookup.last["DOGE"] = stale_quote("DOGE", observed_at=self.house.time - 90.0)
        result = await self.ask("price", "DOGE")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(
            result.stderr,
            "DOGE: no source has a fresh price. The last was 1800.5 USD, 90 s ago. (no_fresh_price)\n",
        )

    async def test_a_key_that_nobody_has(self) -> None:
        for assets in (["BTC"], ["BTC", "ETH"]):
            result = await self.ask("price", *assets, key=STRANGER)
            self.assertEqual((result.exit_code, result.stdout), (1, ""))
            said = f"{', '.join(assets)}: Nobody has this key, or it was taken back. (bad_key)\n"
            self.assertEqual(result.stderr, said)
            self.assertNotIn(STRANGER, result.output)

    async def test_a_limit(self) -> None:
        for _ in range(5):
            await self.ask("price", "BTC", key=FREE)
        result = await self.ask("price", "BTC", key=FREE)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("The key asks too fast", result.stderr)
        self.assertIn("(rate_limited)", result.stderr)

    async def test_no_colours_on_a_pipe(self) -> None:
        result = await self.ask("price", "BTC")
        self.assertNotIn("\x1b", result.output)

    async def test_colours(self) -> None:
        result = await self.ask("price", "BTC", "ETH", FORCE_COLOR="1", COLUMNS="100")
        self.assertIn("\x1b[32mgood", result.stdout)
        self.assertIn("\x1b[33mdegraded", result.stdout)
        self.assertIn("\x1b[1;35mSIMULATED", result.stdout)

    async def test_a_line_is_never_cut(self) -> None:
        result = await self.ask("price", "BTC", COLUMNS="30")
        self.assertEqual(result.stdout.rstrip(), BTC_LINE)

    async def test_nobody_there(self) -> None:
        port = dead_port()
        result = await self.ask("price", "BTC", "--port", str(port))
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertEqual(result.stderr, f"no answer from http://127.0.0.1:{port}: connection refused\n")

    async def test_silence(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as mute:
            port = mute.getsockname()[1]
            result = await self.ask("price", "BTC", "--port", str(port), "--timeout", "0.05")
        self.assertEqual(result.exit_code, 3)
        self.assertEqual(result.stderr, f"no answer from http://127.0.0.1:{port}: timed out\n")

    async def test_somebody_else_answers(self) -> None:
        page = b"HTTP/1.1 %b\r\nContent-Length: 5\r\n\r\nhello"
        cut = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"asset":"BTC"'
        contradiction = b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%b"
        price = bytes(await self._price_json())
        for answer, why in (
            (page % b"200 OK", "somebody answers, but not in the words of a tbeast daemon"),
            (page % b"502 Bad Gateway", "status 502, and not in the words of a tbeast daemon"),
            (cut, "the answer broke off"),
            (contradiction % (len(price), price), "status 500 does not go with what was said"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2 << 20), "the answer is too large"),
            (b"SSH-2.0-\x1b[2J\r\n", "what comes back is not HTTP"),
            (b"", "hung up without an answer"),
        ):
            port = self.saying(answer)
            result = await self.ask("price", "BTC", "--port", str(port))
            self.assertEqual((result.exit_code, result.stdout), (3, ""), why)
            self.assertEqual(result.stderr, f"no answer from http://127.0.0.1:{port}: {why}\n")

    async def _price_json(self) -> bytes:
        result = await self.ask("price", "BTC", "--json")
        return result.stdout.encode()

    async def test_too_few_prices(self) -> None:
        body = b'{"prices":[]}'
        port = self.saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        result = await self.ask("price", "BTC", "ETH", "--port", str(port))
        self.assertEqual(result.exit_code, 3)
        self.assertIn("2 prices asked for, 0 given", result.stderr)

    async def test_what_was_answered_before_the_silence_is_printed(self) -> None:
        lost = []
        answer = Answers.at_once

        def hang_up_at_the_second(answers: Any, query: Any, now: float) -> Any:
            if query.asset == "ETH":
                lost.append(query)
                self.site.hang_up()
            return answer(answers, query, now)

        self.patch(Answers, "at_once", hang_up_at_the_second)
        result = await self.ask("price", "BTC", "ETH", "--max-age-ms", "9999")
        self.assertEqual(result.exit_code, 3)
        self.assertEqual(result.stdout.rstrip(), BTC_LINE)
        self.assertIn("no answer from", result.stderr)
        self.assertEqual(len(lost), 2, "a connection that had served before deserves one more try, and only one")

    async def test_over_tls(self) -> None:
        pem = self_signed(self.mktemp(), "127.0.0.1")
        listening: Any = real_reactor.listenSSL(
            0, self.site, DefaultOpenSSLContextFactory(str(pem), str(pem)), interface="127.0.0.1"
        )
        self.addCleanup(listening.stopListening)
        port = str(listening.getHost().port)
        result = await self.ask("price", "BTC", "--port", port, "--ca-file", str(pem))
        self.assertEqual(result.stdout.rstrip(), BTC_LINE, result.stderr)
        self.assertEqual(result.exit_code, 0)
        for arguments in (("--tls",), ("--ca-file", str(pem), "--host", "localhost")):
            result = await self.ask("price", "BTC", "--port", port, *arguments)
            self.assertEqual((result.exit_code, result.stdout), (3, ""))
            self.assertIn("its certificate is not to be trusted", result.stderr)
        plain = self.saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        result = await self.ask("price", "BTC", "--tls", "--port", str(plain))
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertTrue(result.stderr.startswith(f"no answer from https://127.0.0.1:{plain}: TLS: "), result.stderr)


def self_signed(path: str, address: str) -> Path:
    """Write a key and its own certificate, good for this address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = Path(path).absolute()
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return pem


class UdpTests(OpenDoors):
    async def test_one_price(self) -> None:
        result = await self.ask("price", "BTC", "--udp")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual(result.stdout.rstrip(), BTC_LINE)
        self.assertEqual(self.site.asked, [])
        (question,) = (json.loads(datagram) for datagram in self.datagrams.heard)
        self.assertEqual((question["api_key"], question["asset"]), (PARTNER, "BTC"))

    async def test_several_are_one_datagram(self) -> None:
        result = await self.ask("price", "BTC", "NOPE", "ETH", "--udp")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual([line.split()[0] for line in result.stdout.splitlines()], ["BTC", "ETH"])
        self.assertEqual(result.stderr, "NOPE: The asset is not known. (unknown_asset)\n")
        self.assertEqual(len(self.datagrams.heard), 1)

    async def test_what_does_not_fit_one_answer_is_asked_again(self) -> None:
        for code in ("DOGE", "SOL"):
            self.put(code, 0.1)
        wanted = [f"{code}{currency}" for code in ("BTC", "ETH", "DOGE", "SOL") for currency in ("", "-USDT")]
        result = await self.ask("price", *wanted, "--udp", "--json")
        self.assertEqual(result.exit_code, 0, result.stderr)
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual(
            [(answer["asset"], answer["quote"]) for answer in answers],
            [(code, quote) for code in ("BTC", "ETH", "DOGE", "SOL") for quote in ("USD", "USDT")],
        )
        self.assertGreater(len(self.datagrams.heard), 1)
        self.assertLess(len(self.datagrams.heard), 8)

    async def test_signed(self) -> None:
        result = await self.ask("price", "BTC", "ETH", "--signed")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertEqual([line.split()[0] for line in result.stdout.splitlines()], ["BTC", "ETH"])
        self.assertEqual([datagram[:3] for datagram in self.datagrams.heard], [b"~1|", b"~1|"])
        self.assertNotIn(PARTNER.encode(), b"".join(self.datagrams.heard))

    async def test_json_is_the_datagram(self) -> None:
        result = await self.ask("price", "BTC", "--signed", "--json")
        answer = json.loads(result.stdout)
        self.assertEqual(answer["price"], 83421.57)
        self.assertEqual(str(answer["id"]), self.datagrams.heard[0].split(b"|")[4].decode())

    async def test_refusals_come_through_whatever_the_length_of_the_key(self) -> None:
        self.house.lookup.outcomes["DOGE"] = None
        for arguments in (("NOPE", "--udp"), ("NOPE", "--signed"), ("DOGE", "--udp"), ("DOGE", "--signed")):
            result = await self.ask("price", *arguments)
            self.assertEqual((result.exit_code, result.stdout), (1, ""), arguments)
            code = "unknown_asset" if arguments[0] == "NOPE" else "no_fresh_price"
            self.assertTrue(result.stderr.endswith(f"({code})\n"), result.stderr)

    async def test_a_limit(self) -> None:
        self.patch(desks, "DATAGRAM_WAIT_SECONDS", 5.0)
        for _ in range(5):
            await self.ask("price", "BTC", "--udp", key=FREE)
        result = await self.ask("price", "BTC", "ETH", "--udp", key=FREE)
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(result.stderr, "BTC, ETH: Too many questions at once. (rate_limited)\n")

    async def test_a_lost_datagram_is_sent_again(self) -> None:
        self.patch(desks, "DATAGRAM_WAIT_SECONDS", 0.5)
        for form in ("--udp", "--signed"):
            self.datagrams.heard.clear()
            self.datagrams.losing = 1
            result = await self.ask("price", "BTC", form)
            self.assertEqual(result.exit_code, 0, result.stderr)
            self.assertEqual(result.stdout.rstrip(), BTC_LINE)
            first, *rest = self.datagrams.heard
            self.assertTrue(rest)
            # what was signed once is not good a second time
            self.assertEqual(first == rest[0], form == "--udp")

    async def test_an_answer_to_another_question_is_passed_over(self) -> None:
        class Confused(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                assert self.transport is not None
                theirs = json.loads(datagram)["id"]
                for answer in (b"?", b"[1]", b'{"error":"x"}', b'{"error":"old","id":%d}' % (theirs + 1)):
                    self.transport.write(answer, addr)
                self.transport.write(b'{"error":"quota_exceeded","id":%d}' % theirs, addr)

        port: Any = real_reactor.listenUDP(0, Confused(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        result = await self.ask("price", "BTC", "--udp", "--port", str(port.getHost().port))
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(result.stderr, "BTC: The month's quota is used up. (quota_exceeded)\n")

    async def test_silence(self) -> None:
        self.patch(desks, "DATAGRAM_WAIT_SECONDS", 0.02)
        result = await self.ask("price", "BTC", "--udp", key=STRANGER)
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertEqual(
            result.stderr,
            f"no answer from udp://127.0.0.1:{self.udp_port}: silence after 3 datagrams; the daemon is away, or does"
            " not know the key\n",
        )
        while len(self.datagrams.heard) < 3:  # sent, and not yet read
            await deferLater(real_reactor, 0.01)
        self.assertEqual(len(self.datagrams.heard), 3)
        self.assertEqual(len(set(self.datagrams.heard)), 1)

    async def test_nobody_there(self) -> None:
        port = dead_port(socket.SOCK_DGRAM)
        result = await self.ask("price", "BTC", "--udp", "--port", str(port))
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertEqual(result.stderr, f"no answer from udp://127.0.0.1:{port}: connection refused\n")


class KeyAndPlaceTests(OpenDoors):
    def keep(self, text: str) -> None:
        self.state.mkdir()
        (self.state / "demo.key").write_text(text)

    async def test_the_demo_key(self) -> None:
        self.keep(f"{PARTNER}\n")
        result = await self.run_command("price", "BTC")
        self.assertEqual(result.stdout.rstrip(), BTC_LINE, result.stderr)

    async def test_a_key_file(self) -> None:
        self.keep(f"{STRANGER}\n")
        path = Path(self.mktemp())
        path.write_text(f" {PARTNER}\r\n")
        result = await self.run_command("price", "BTC", "--key-file", str(path))
        self.assertEqual(result.exit_code, 0, result.stderr)

    async def test_a_key_from_standard_input(self) -> None:
        result = await self.in_thread(
            lambda: CliRunner().invoke(
                main, ["price", "BTC", "--key-file", "-"], env=self.environment(), input=f"{PARTNER}\n"
            )
        )
        self.assertEqual(result.exit_code, 0, result.stderr)

    async def test_no_key(self) -> None:
        result = await self.run_command("price", "BTC")
        self.assertEqual((result.exit_code, result.stdout), (2, ""))
        self.assertIn("No key: give --key-file or --key", result.stderr)
        self.assertIn("no such file or directory", result.stderr)

    async def test_what_is_no_key(self) -> None:
        self.keep("x" * 500)
        for arguments in ((), ("--key", "a|b|c|d"), ("--key", ""), ("--key", "sm\u00f8rrebr\u00f8d")):
            result = await self.run_command("price", "BTC", *arguments)
            self.assertEqual(result.exit_code, 2, arguments)
            self.assertIn("what is there is no key", result.stderr)
            self.assertNotIn("a|b", result.stderr)
        self.assertEqual(self.site.asked, [])

    async def test_an_option_before_the_environment(self) -> None:
        result = await self.ask("price", "BTC", "--port", str(self.port), TCP_PORT_LPO=str(dead_port()))
        self.assertEqual(result.exit_code, 0, result.stderr)

    async def test_an_installed_command_starts_without_twisted(self) -> None:
        program = (
            "import sys\nfrom tbeast.commands.main import main\n"
            "main(sys.argv[1:], standalone_mode=False)\n"
            "print(sorted({'twisted', 'treq', 'autobahn'} & set(sys.modules)), file=sys.stderr)\n"
        )
        environment = {name: text for name, text in self.environment().items() if text is not None}
        ran = await deferToThread(
            subprocess.run,
            [sys.executable, "-c", program, "price", "BTC", "--key", PARTNER],
            env={**environment, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, timeout=50,
        )  # fmt: skip
        self.assertEqual(ran.stdout.decode().rstrip(), BTC_LINE)
        self.assertEqual(ran.stderr, b"[]\n")


class MisuseTests(SynchronousTestCase):
    def assertMisuse(self, words: str, *arguments: str, **environ: str) -> None:
        environment = {**dict.fromkeys(SETTINGS), **environ}
        result = CliRunner().invoke(main, ["price", "--key", PARTNER, *arguments], env=environment)
        self.assertEqual(result.exit_code, 2, result.output)
        self.assertEqual(result.stdout, "")
        self.assertIn(words, " ".join(result.stderr.split()))

    def test_misuse(self) -> None:
        self.assertMisuse("Missing argument")
        self.assertMisuse("'a|b' is no asset", "a|b", "--udp")
        self.assertMisuse("'EUR' is none of USD, USDT, USDC", "BTC-EUR")
        self.assertMisuse("BTC-USDC names one currency and --quote another", "BTC-USDC", "--quote", "USDT")
        self.assertMisuse("'EUR' is not one of", "BTC", "--quote", "EUR")
        self.assertMisuse("'nyse' is not one of", "BTC", "--exchange", "nyse")
        self.assertMisuse("over HTTP only", "BTC", "--udp", "--exchange", "kraken")
        self.assertMisuse("over HTTP only", "BTC", "--signed", "--max-age-ms", "5")
        self.assertMisuse("--tls is of HTTP", "BTC", "--udp", "--tls")
        self.assertMisuse("give one of the two", "BTC", "--key-file", "x")
        self.assertMisuse("is not in the range", "BTC", "--port", "70000")
        self.assertMisuse("TCP_PORT_LPO='many' in the environment", "BTC", TCP_PORT_LPO="many")
        self.assertMisuse("UDP_PORT_LPO='0' in the environment", "BTC", "--udp", UDP_PORT_LPO="0")
        self.assertMisuse("--ca-file", "BTC", "--ca-file", __file__)


class WordingTests(SynchronousTestCase):
    def test_ages(self) -> None:
        said = [age(seconds) for seconds in (None, 0.0, 0.054, 9.994, 12.4, 179.0, 600.0)]
        self.assertEqual(said, ["", "0.00 s", "0.05 s", "9.99 s", "12 s", "179 s", "10 min"])

    def test_steady_prices(self) -> None:
        self.assertEqual(
            [steady(price) for price in (83421.57, 1234567.891, 1.0, 0.000008611, 0.0)],
            ["83421.57", "1234567.89", "1.000000", "0.000008611000", "0.0"],
        )

    @given(st.floats(min_value=1e-9, max_value=1e9))
    @settings(deadline=None, max_examples=200)
    def test_a_steady_price_is_the_price(self, price: float) -> None:
        self.assertLess(abs(float(steady(price)) - price), price * 1e-6)

    @given(st.text())
    @settings(deadline=None, max_examples=200)
    def test_nothing_that_commands_a_terminal_is_printed(self, text: str) -> None:
        self.assertTrue(printable(text).isprintable())
        self.assertEqual(len(printable(text)), len(text))

    def test_json_on_one_line(self) -> None:
        raw = b'{\r\n  "a": "\\n",\x1b\n "b": "\xc3\xb8"}\n'
        self.assertEqual(json.loads(one_line(raw)), {"a": "\n", "b": "\u00f8"})
        self.assertTrue(one_line(raw).isprintable())

    def test_a_price_needs_no_more_than_its_members(self) -> None:
        raw = (
            b'{"asset":"BTC","price":1,"source":"x","cache_age_seconds":0,"quote":"USD","quality":"new","sources_used":1,'
            b'"sources_seen":1,"to_come":{}}'
        )
        self.assertEqual(
            outcome_of("BTC", raw, "here").price, PriceAnswer("BTC", 1.0, "x", 0.0, "USD", "new", 1, 1, None, False)
        )

    @given(st.binary())
    @example(b"[" * 100_000)
    @example(b'{"code":"x","detail":1}')
    @example(b'{"asset":"\xff","price":1}')
    @settings(deadline=None, max_examples=200)
    def test_no_bytes_surprise(self, raw: bytes) -> None:
        try:
            outcome = outcome_of("BTC", raw, "here")
        except NoAnswer as error:
            self.assertTrue(error.message.startswith("no answer from here: "))
        else:
            # by chance, or taken from this very file
            self.assertEqual(outcome.raw, raw)
            self.assertIsInstance(json.loads(raw), dict)

    def test_what_is_no_number_is_no_price(self) -> None:
        for price in (b"1e999", b"NaN", b"null", b'"1"', b"[1]"):
            raw = (
                b'{"asset":"BTC","price":%b,"source":"x","cache_age_seconds":0,"quote":"USD","quality":"good",'
                b'"sources_used":1,"sources_seen":1}'
            )
            self.assertEqual(getattr(outcome_of("BTC", raw % b"1", "here").price, "price", None), 1.0)
            with self.assertRaises(NoAnswer):
                outcome_of("BTC", raw % price, "here")
