"""The price surface over UDP, in memory."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.codecs import datagrams
from tbeast.codecs.datagrams import DROPS, LARGEST
from tbeast.codecs.signatures import SpentMacs, mac_of
from tbeast.servers import udp
from tbeast.servers.udp import PriceDatagrams
from tbeast.test.servers.rooms import FREE, NOON, PARTNER, House, Wire, quote_of
from tbeast.testing.reactors import MemoryDatagramPort

CLIENT = ("192.0.2.7", 5000)


class Port(MemoryDatagramPort):
    """A port that some addresses cannot be sent to from."""

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        if addr is not None and addr[1] == 0:
            raise OSError(22, "Invalid argument")
        super().write(packet, addr)


class UdpCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.open(House())

    def open(self, house: House, spent: SpentMacs | None = None) -> None:
        self.house = house
        self.protocol = PriceDatagrams(
            gate=house.gate, answers=house.answers, counters=house.counters, now=house.now, spent=spent
        )
        self.port = Port(2679, self.protocol)
        self.port.startListening()

    def send(self, datagram: bytes, address: tuple[str, int] = CLIENT) -> list[bytes]:
        """Send one datagram; give what comes back at once."""
        before = len(self.port.sent)
        self.protocol.datagramReceived(datagram, address)
        self.assertEqual({address}, {address, *(to for _, to in self.port.sent[before:])})
        return [answer for answer, _ in self.port.sent[before:]]

    def ask(self, datagram: bytes) -> Any:
        (answer,) = self.send(datagram)
        self.assertLessEqual(len(answer), LARGEST)
        return json.loads(answer)

    def assertDropped(self, reason: str, datagram: bytes) -> None:
        before = self.house.counters.value("udp_dropped", "lpo", reason)
        self.assertEqual([], self.send(datagram), datagram)
        self.assertEqual(before + 1, self.house.counters.value("udp_dropped", "lpo", reason), datagram)

    def signed(self, asset: str = "BTC", key: int = 1, at: float | None = None, id_text: str = "7") -> bytes:
        account = self.house.gate.keyring.accounts[key]  # type: ignore[attr-defined]
        at_ms = round((self.house.time if at is None else at) * 1000)
        text = f"~1|{account.key_id}|{at_ms}|{asset}|{id_text}".encode()
        return text + b"|" + mac_of(account.datagram_secret, text)


class FormTests(UdpCase):
    def test_text(self) -> None:
        """The answer is the body of /price, with the id at its end."""
        body = b'{"asset":"BTC",' + self.send(f"{PARTNER}|BTC".encode())[0].partition(b",")[2]
        for suffix, id_json in (
            ("", b""), ("|", b""), ("|7", b',"id":7'), ("|-12", b',"id":-12'), ("|007", b',"id":"007"'),
            ('|a"b|c', b',"id":"a\\"b|c"'), ("|\u00e9", ',"id":"\u00e9"'.encode()), ("\n", b""),
            ("|x\r\n", b',"id":"x"'),
            ("|" + "9" * 19, b',"id":"' + b"9" * 19 + b'"'),
        ):  # fmt: skip
            (answer,) = self.send(f"{PARTNER}|btc-usd{suffix}".encode())
            self.assertEqual(body[:-1] + id_json + b"}", answer, suffix)

    def test_json(self) -> None:
        for id_json in (b"7", b'"x"', b"null", b"true", b"1.50e3", b'"\\u00df\\n"', b'"' + b"i" * 62 + b'"'):
            (answer,) = self.send(b'{"api_key":"%b","asset":"btc", "id": %b , "x":[]}' % (PARTNER.encode(), id_json))
            self.assertTrue(answer.endswith(b',"id":' + id_json + b"}"), answer)
            self.assertEqual("BTC", json.loads(answer)["asset"])
        self.assertNotIn("id", self.ask(b'{"api_key":"%b","asset":"btc"}' % PARTNER.encode()))

    def test_signed(self) -> None:
        members = self.ask(self.signed())
        self.assertEqual(("BTC", 7), (members["asset"], members["id"]))
        self.assertEqual("a|b", self.ask(self.signed(id_text="a|b"))["id"])
        self.assertNotIn("id", self.ask(self.signed(id_text="") + b"\n"))
        self.assertEqual(3, self.house.gate.used("freefreefr"))

    def test_same_as_http(self) -> None:
        """UDP and HTTP answer with the same bytes, from the same bucket."""
        http = Wire(self.house.site(self.house.lpo())).ask("/price?asset=BTC", key=FREE)
        (datagram,) = self.send(f"{FREE}|BTC".encode())
        self.assertEqual(http.body, datagram)
        self.assertEqual(2, self.house.gate.used("freefreefr"))

    def test_other_currency(self) -> None:
        self.house.view.rates["USDT"] = 0.5
        self.assertEqual("USDT", self.ask(f"{PARTNER}|BTC-USDT".encode())["quote"])

    def test_options(self) -> None:
        """The JSON form takes those of a batch."""
        self.house.view.rates["USDT"] = 0.5
        self.house.view.singles["BTC", "okx"] = quote_of(source="okx-ws")
        for options, name, value in (('"quote":"usdt"', "quote", "USDT"), ('"exchange":"okx"', "source", "okx-ws")):
            one = self.ask(f'{{"api_key":"{PARTNER}","asset":"BTC",{options}}}'.encode())
            several = self.ask(f'{{"api_key":"{PARTNER}","assets":["BTC"],{options}}}'.encode())
            self.assertEqual((value, [one]), (one[name], several["prices"]))
        for options in ('"quote":"EUR"', '"quote":7', '"exchange":"x"', '"max_age_ms":"7"', '"max_age_ms":-1'):
            members = self.ask(f'{{"api_key":"{PARTNER}","asset":"BTC","id":1,{options}}}'.encode())
            self.assertEqual({"error": "bad_request", "id": 1}, members, options)
        aged = self.ask(f'{{"api_key":"{PARTNER}","asset":"BTC","max_age_ms":400}}'.encode())
        self.assertEqual({"error": "no_fresh_price"}, aged)

    def test_simulated(self) -> None:
        self.open(House(simulated=True))
        self.assertIs(True, self.ask(f"{PARTNER}|BTC|1".encode())["simulated"])

    def test_counted(self) -> None:
        self.send(f"{FREE}|BTC".encode())
        self.send(f"{FREE}|NOPE".encode())
        count = self.house.counters.value
        self.assertEqual((1, 1), (count("requests", "lpo", "udp", "200"), count("requests", "lpo", "udp", "404")))


class SeveralTests(UdpCase):
    def ask_for(self, *assets: Any, id_json: str = "1") -> Any:
        return self.ask(f'{{"api_key":"{PARTNER}","assets":{json.dumps(assets)},"id":{id_json}}}'.encode())

    def test_several(self) -> None:
        self.house.lookup.outcomes["ETH"] = quote_of("ETH", 1800.5)
        members = self.ask_for("btc", "BTC-USD", "NOPE", "b d", "ETH")
        self.assertEqual(["prices", "id"], list(members))
        self.assertEqual(
            [("BTC", None), ("NOPE", "unknown_asset"), ("b d", "malformed_asset"), ("ETH", None)],
            [(price["asset"], price.get("error")) for price in members["prices"]],
        )

    def test_one_is_still_a_list(self) -> None:
        self.assertEqual(["BTC"], [price["asset"] for price in self.ask_for("BTC")["prices"]])

    def test_what_does_not_fit_is_left_out(self) -> None:
        """The first ones that fit one datagram, and how many do not."""
        for code in ("ETH", "SOL", "DOGE"):
            self.house.put(quote_of(code))
        self.house.view.rates["USDT"] = 1.0
        members = self.ask_for("DOGE", "SOL", "ETH", "BTC", "BTC-USDT", "NOPE")
        self.assertEqual(["DOGE", "SOL", "ETH", "BTC"], [price["asset"] for price in members["prices"]])
        self.assertEqual((2, 1), (members["left_out"], members["id"]))

    def test_one_question(self) -> None:
        for _ in range(5):
            self.send(f'{{"api_key":"{FREE}","assets":["BTC","NOPE"]}}'.encode())
        self.assertEqual(5, self.house.gate.used("freefreefr"))

    def test_bad_lists(self) -> None:
        for assets in ('"BTC"', "[]", "[1]", "null", "{}", json.dumps([f"A{number}" for number in range(31)])):
            members = self.ask(f'{{"api_key":"{PARTNER}","assets":{assets}, "id":5                    }}'.encode())
            self.assertEqual({"error": "bad_request", "id": 5}, members, assets)

    def test_waits_for_all_together(self) -> None:
        eth, doge = self.house.lookup.later("ETH"), self.house.lookup.later("DOGE")
        self.house.lookup.outcomes["SOL"] = ZeroDivisionError()
        self.assertEqual([], self.send(f'{{"api_key":"{PARTNER}","assets":["ETH","SOL","DOGE","BTC"]}}'.encode()))
        self.assertEqual(["ETH", "SOL", "DOGE"], self.house.lookup.asked)
        doge.callback(None)
        eth.callback(quote_of("ETH"))
        ((answer, _),) = self.port.sent
        self.assertEqual(
            [None, "internal_error", "no_fresh_price", None],
            [price.get("error") for price in json.loads(answer)["prices"]],
        )
        self.assertEqual((1, 0), (len(self.flushLoggedErrors(ZeroDivisionError)), self.protocol.waiting))


class RefusalTests(UdpCase):
    def test_refusals(self) -> None:
        for suffix, error in (
            ("NOPE", "unknown_asset"), ("ETH", "no_fresh_price"), ("", "bad_request"), ("B C", "bad_request"),
            ("\u00df", "bad_request"), ("BTC-EUR", "bad_request"),
        ):  # fmt: skip
            self.house.pass_time(1.0)
            self.assertEqual({"error": error}, self.ask(f"{FREE}|{suffix}".encode()), suffix)

    def test_id_is_echoed(self) -> None:
        self.assertEqual({"error": "unknown_asset", "id": "x"}, self.ask(f"{FREE}|NOPE|x".encode()))

    def test_rate_limited(self) -> None:
        for _ in range(5):
            self.send(f"{FREE}|BTC".encode())
        self.assertEqual({"error": "rate_limited", "id": 1}, self.ask(f"{FREE}|BTC|1".encode()))
        self.assertEqual(1, self.house.counters.value("requests", "lpo", "udp", "429"))

    def test_quota(self) -> None:
        for _ in range(1000):
            self.house.time += 1.0
            self.send(f"{FREE}|NOPE".encode())
        self.assertEqual({"error": "quota_exceeded"}, self.ask(f"{FREE}|BTC".encode()))

    def test_no_longer_than_the_question(self) -> None:
        question = f"{PARTNER}|NOPE".encode()
        self.assertLess(len(question), len(b'{"error":"unknown_asset"}'))
        self.assertDropped("short_question", question)
        refused = b'{"error":"unknown_asset"}'
        asset = "N" * (len(refused) - len(PARTNER) - 1)
        self.assertDropped("short_question", f"{PARTNER}|{asset[1:]}".encode())
        self.assertEqual([refused], self.send(f"{PARTNER}|{asset}".encode()))

    def test_ids_that_cannot_be_echoed(self) -> None:
        for id_json in ("[1]", "{}", '"' + "i" * 63 + '"', "1e999"):
            question = f'{{"api_key":"{FREE}","asset":"BTC","id":{id_json}}}'.encode()
            self.house.time += 1.0
            self.assertEqual({"error": "bad_request"}, self.ask(question), id_json)
        for id_bytes in (b"\xff", b"i" * 65, b"\x01" * 20):
            self.house.time += 1.0
            self.assertEqual({"error": "bad_request"}, self.ask(FREE.encode() + b"|BTC|" + id_bytes))

    def test_dropped(self) -> None:
        self.assertDropped("empty", b"")
        for datagram in (
            b"x", b"|", b"|BTC", b"{}", b'{"api_key":7,"asset":"BTC"}', b'{"asset":"BTC"}',
            b'{"api_key":"","asset":"B"}',
            b"[" * 1000, b"{" * 1000, b'{"a":' * 200, b"~", b"~1", b"~1|||||", b"~2|a|1|BTC||" + b"m" * 22,
            b"k" * 129 + b"|BTC", b'{"api_key":"\xff"}', b'{"api_key":"\\u00df","asset":"BTC"}',
        ):  # fmt: skip
            self.assertDropped("unreadable", datagram)
        self.assertDropped("oversized", PARTNER.encode() + b"|BTC|" + b"1" * 1200)
        for datagram in (b"nobody-at-all-has-this-key|BTC|1", b'{"api_key":"nobody","asset":"BTC"}', b"\xff\x00|BTC"):
            self.assertDropped("bad_key", datagram)
        self.assertEqual(0, self.house.counters.total("requests"))

    def test_refused_before_it_is_read(self) -> None:
        """A key over its limit is told so, whatever it asks."""
        for _ in range(5):
            self.send(f"{FREE}|BTC".encode())
        self.assertEqual({"error": "rate_limited"}, self.ask(f"{FREE}|???".encode()))

    def test_unsendable(self) -> None:
        """An address that cannot be sent to is counted, and does no harm."""
        self.assertEqual([], self.send(f"{PARTNER}|BTC".encode(), ("192.0.2.7", 0)))
        self.assertEqual(1, self.house.counters.value("udp_dropped", "lpo", "unsendable"))
        self.assertEqual(0, self.house.counters.value("requests", "lpo", "udp", "200"))

    def test_own_answers_are_no_questions(self) -> None:
        """Two nodes cannot be set to talk to each other."""
        (answer,) = self.send(f"{PARTNER}|BTC|1".encode())
        self.assertDropped("unreadable", answer)
        self.assertDropped("unreadable", datagrams.refusal("rate_limited", b"1"))


class SignedTests(UdpCase):
    def test_once(self) -> None:
        question = self.signed()
        self.assertEqual(1, len(self.send(question)))
        self.assertDropped("replayed", question)
        self.assertDropped("replayed", question + b"\n")
        self.assertEqual(1, self.house.gate.used("freefreefr"))

    def test_timely(self) -> None:
        for off in (-29.9, 29.9):
            self.assertEqual(1, len(self.send(self.signed(at=self.house.time + off))))
        for off in (-30.1, 30.1, -1e6, 1e6):
            self.assertDropped("untimely", self.signed(at=self.house.time + off))

    def test_forged(self) -> None:
        question = self.signed()
        head, _, mac = question.rpartition(b"|")
        for forged in (
            head + b"|" + b"A" * 22, question[:-1] + (b"A" if question[-1:] != b"A" else b"Q"),
            head.replace(b"BTC", b"ETH") + b"|" + mac,
            head.replace(b"|7", b"|8") + b"|" + mac, head + b"|" + b"\xff" * 22,
        ):  # fmt: skip
            self.assertDropped("bad_mac", forged)
        self.assertDropped("unreadable", head + b"|" + mac + b"=")
        self.assertDropped("unreadable", head + b"|" + mac[:-1])
        self.assertEqual(0, self.house.gate.used("freefreefr"))
        self.assertEqual(1, len(self.send(question)))

    def test_one_spelling(self) -> None:
        """The bits that base64 leaves over do not make a second mac of the first."""
        question = self.signed()
        self.send(question)
        alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = alphabet.index(question[-1:])
        self.assertDropped("bad_mac", question[:-1] + alphabet[last ^ 1 : (last ^ 1) + 1])

    def test_unknown_id(self) -> None:
        self.assertDropped("bad_key", self.signed().replace(b"freefreefr", b"nobodynobo"))
        self.assertDropped("bad_key", self.signed().replace(b"freefreefr", b"\xff"))

    def test_key_as_its_own_id(self) -> None:
        """The key is found by its id alone in the signed form, and the id is no key in the others."""
        self.assertDropped("bad_key", b"freefreefr|BTC")
        self.assertDropped("bad_key", self.signed().replace(b"freefreefr", FREE.encode()))

    def test_what_was_refused_may_come_again(self) -> None:
        """A limit refused it, so nothing was answered: the same datagram is good as long as its time is."""
        for number in range(5):
            self.send(self.signed(id_text=str(number)))
        late = self.signed(id_text="late")
        self.assertEqual({"error": "rate_limited", "id": "late"}, self.ask(late))
        self.house.time += 2.0
        self.assertEqual("BTC", self.ask(late)["asset"])
        self.assertDropped("replayed", late)

    def test_memory_is_bounded(self) -> None:
        """It is refused rather than something forgotten that might come again; and in time there is room again."""
        self.open(House(), SpentMacs(capacity=3))
        first = self.signed(id_text="0")
        for question in (first, self.signed(id_text="1"), self.signed(id_text="2")):
            self.assertEqual(1, len(self.send(question)))
        self.assertDropped("memory_full", self.signed(id_text="3"))
        self.assertDropped("replayed", first)
        self.house.time += 61.0
        self.house.put(quote_of(fresh_until=self.house.time + 60))
        self.assertEqual(1, len(self.send(self.signed(id_text="4"))))

    def test_garbage_takes_no_memory(self) -> None:
        spent = SpentMacs()
        self.open(House(), spent)
        for number in range(50):
            self.send(self.signed(id_text=str(number))[:-4] + b"AAAA")
            self.send(b"~1|freefreefr|%d|BTC||%022d" % (round(self.house.time * 1000), number))
        self.assertEqual(0, len(spent))


class WaitTests(UdpCase):
    def test_look_up(self) -> None:
        waiting = self.house.lookup.later("ETH")
        self.assertEqual([], self.send(f"{PARTNER}|ETH|1".encode()))
        self.house.time += 0.5
        waiting.callback(quote_of("ETH", 1800.5, source="coinbase-rest", observed_at=self.house.time))
        ((answer, address),) = self.port.sent
        members = json.loads(answer)
        self.assertEqual((CLIENT, 1800.5, False, 500, 1), (address, *(
            members[name] for name in ("price", "cached", "latency_ms", "id"))))  # fmt: skip
        self.assertEqual(0, self.protocol.waiting)

    def test_nothing_found(self) -> None:
        self.assertEqual({"error": "no_fresh_price"}, self.ask(f"{FREE}|ETH".encode()))

    def test_failure(self) -> None:
        self.house.lookup.outcomes["ETH"] = ZeroDivisionError()
        self.assertEqual({"error": "internal_error"}, self.ask(f"{FREE}|ETH".encode()))
        self.assertEqual((1, 0), (len(self.flushLoggedErrors(ZeroDivisionError)), self.protocol.waiting))

    def test_port_closed_meanwhile(self) -> None:
        waiting = self.house.lookup.later("ETH")
        self.send(f"{PARTNER}|ETH|1".encode())
        self.port.stopListening()
        waiting.callback(quote_of("ETH"))
        self.assertEqual([], self.port.sent)
        self.assertEqual([], self.flushLoggedErrors())

    def test_not_all_may_wait(self) -> None:
        """What waits is bounded; the others are refused at once."""
        self.patch(udp, "MOST_WAITING", 2)
        self.house.lookup.later("ETH")
        question = f"{PARTNER}|ETH|12345678901234567".encode()
        for _ in range(2):
            self.assertEqual([], self.send(question))
        self.house.lookup.outcomes["ETH"] = None
        self.assertDropped("short_question", question)
        question = f"{FREE}|ETH|1".encode()
        self.assertEqual({"error": "no_fresh_price", "id": 1}, self.ask(question))


class AnyDatagramTests(UdpCase):
    @settings(max_examples=400, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=1300),
            st.builds(
                b"|".join,
                st.lists(
                    st.sampled_from([PARTNER.encode(), FREE.encode(), b"BTC", b"ETH", b"~1", b"freefreefr", b"7", b""])
                    | st.binary(max_size=70),
                    max_size=7,
                ),
            ),
            st.builds(
                lambda members: json.dumps(members).encode(),
                st.fixed_dictionaries(
                    {"api_key": st.sampled_from([PARTNER, FREE, "x"])},
                    optional={
                        "asset": st.sampled_from(["BTC", "ETH", "NOPE", ""]) | st.text(max_size=5) | st.none(),
                        "assets": st.lists(st.sampled_from(["BTC", "ETH", "NOPE"]) | st.text(max_size=20), max_size=40),
                        "id": st.none() | st.integers() | st.text(max_size=70) | st.floats() | st.lists(st.integers()),
                    },
                ),
            ),
        )
    )
    def test_any(self, datagram: bytes) -> None:
        """Nothing is raised; one answer at most, of 1,200 bytes at most; a refusal is no longer than its question."""
        self.open(House())
        answers = self.send(datagram)
        self.assertLessEqual(len(answers), 1)
        dropped = [labels for labels, _ in self.house.counters.family("udp_dropped")]
        self.assertEqual(1, len(answers) + len(dropped))
        for _, reason in dropped:
            self.assertIn(reason, DROPS)
        for answer in answers:
            self.assertLessEqual(len(answer), LARGEST)
            members = json.loads(answer)
            if "error" in members:
                self.assertLessEqual(len(answer), len(datagram))
            else:
                self.assertTrue("price" in members or "prices" in members)
        self.assertEqual([], self.flushLoggedErrors())


class TimeTests(UdpCase):
    def test_clock_that_went_back(self) -> None:
        """Macs that were forgotten do not become good again."""
        spent = SpentMacs()
        self.open(House(), spent)
        question = self.signed()
        self.send(question)
        self.house.time += 120.0
        self.send(self.signed())
        self.house.time = NOON
        self.assertDropped("untimely", question)
