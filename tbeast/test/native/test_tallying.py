"""What was answered is counted, by kind, until it is taken out."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve

from tbeast.domain.admission import Standing
from tbeast.test.native.parts import KEY, NOW, PARTNER, REPLY, LanesCase, head, open_lanes, totals

HOUR = 3_600.0


class DrainTests(LanesCase):
    def setUp(self) -> None:
        super().setUp()
        self.listen()
        self.put()
        self.learn()
        self.asking = self.client()

    def drained(self) -> dict[tuple[str, str, str, str], int]:
        return totals(self.drain())

    def test_rows_as_they_are_wanted(self) -> None:
        """What was taken out stays as it was, whatever is counted and taken out meanwhile, and whatever ends."""
        self.put("ETH")
        self.ask(self.asking, head(), head(b"ETH"), head())
        first = self.lanes.drain()
        self.ask(self.asking, head(b"ETH"))
        second, third = self.lanes.drain(), self.lanes.drain()
        self.lanes.forget(PARTNER.key_id)
        self.assertEqual([2, 1, 0], [len(one) for one in (first, second, third)])
        del third
        self.lanes.close()
        del self.lanes
        self.lanes = open_lanes(self.memory)
        self.assertEqual([("BTC", 2), ("ETH", 1)], [(row[2], row[5]) for row in first.rows(0, 2)])
        self.assertEqual([("ETH", 1)], [(row[2], row[5]) for row in first.rows(1, 2)])
        self.assertEqual([("ETH", 1)], [(row[2], row[5]) for row in second.rows(0, 1)])
        for start, stop in ((0, 3), (-1, 1), (2, 1), (3, 3)):
            self.assertRaises(IndexError, first.rows, start, stop)
        self.assertEqual([], first.rows(2, 2))

    def test_nothing(self) -> None:
        self.assertEqual([], self.drain())
        self.ask(self.asking, head())
        self.assertEqual(1, len(self.drain()))
        self.assertEqual([], self.drain())

    def test_one_kind(self) -> None:
        """Requests, the sum of what they took, and the longest; the time is the first one's."""
        self.ask(self.asking, *[head()] * 7)
        self.now += 10.0
        self.ask(self.asking, *[head()] * 5)
        ((key_id, protocol, asset, source, at, requests, total, longest),) = self.drain()
        self.assertEqual(
            (PARTNER.key_id, "http", "BTC", "median", NOW, 12), (key_id, protocol, asset, source, at, requests)
        )
        self.assertTrue(0 <= longest <= total <= 12 * longest or longest == total == 0)

    def test_kinds(self) -> None:
        """By key, protocol, asset and source."""
        other = evolve(PARTNER, key_id="other")
        self.learn(other, b"other-key")
        self.put("ETH", REPLY._replace(source="kraken-ws"))
        self.bind()
        asker = self.asker()
        self.ask(self.asking, head(), head(b"eth"), head(b"eth", b"other-key"))
        for question in (KEY + b"|BTC", b"other-key|eth|1", b"other-key|eth|2"):
            asker.send(question)
        self.turn_until(lambda: self.figures("answers") == (3,))
        self.put("BTC", REPLY._replace(source="okx-ws"))
        self.ask(self.asking, head(), head())
        self.put()
        self.ask(self.asking, head())
        wanted = {
            ("p", "http", "BTC", "median"): 2, ("p", "http", "BTC", "okx-ws"): 2, ("p", "http", "ETH", "kraken-ws"): 1,
            ("other", "http", "ETH", "kraken-ws"): 1, ("p", "udp", "BTC", "median"): 1,
            ("other", "udp", "ETH", "kraken-ws"): 2,
        }  # fmt: skip
        self.assertEqual(
            {(PARTNER.key_id if key == "p" else key, *rest): n for (key, *rest), n in wanted.items()}, self.drained()
        )

    def test_new_writings_share_a_row(self) -> None:
        """A new price of the same source is no new kind."""
        for number in range(20):
            self.put("BTC", REPLY._replace(head=b"%d" % number))
            self.ask(self.asking, head())
        self.assertEqual([20], [row[5] for row in self.drain()])

    def test_hours_apart(self) -> None:
        """A row lies within one hour, since reports are made by the hour."""
        self.put("BTC", REPLY._replace(fresh_until=NOW + 10 * HOUR))
        times = (NOW, NOW + HOUR, NOW + HOUR, NOW, NOW + 3 * HOUR)
        for self.now in times:
            self.ask(self.asking, head())
        rows = self.drain()
        self.assertEqual({NOW: 2, NOW + HOUR: 2, NOW + 3 * HOUR: 1}, {row[4]: row[5] for row in rows})

    def test_outlives_the_key(self) -> None:
        """What was answered stays counted when the key is forgotten, and when it comes back."""
        self.ask(self.asking, head())
        self.lanes.forget(PARTNER.key_id)
        self.assertEqual(0, self.figures("keys")[0])
        self.learn()
        self.ask(self.asking, head(), head())
        self.lanes.forget(PARTNER.key_id)
        self.assertEqual({(PARTNER.key_id, "http", "BTC", "median"): 3}, self.drained())

    def test_outlives_the_sockets(self) -> None:
        self.ask(self.asking, head())
        self.lanes.close()
        self.assertEqual({(PARTNER.key_id, "http", "BTC", "median"): 1}, self.drained())
        self.assertEqual((0, 1, 1), self.figures("connections", "requests", "accepted"))

    def test_told(self) -> None:
        """What is told is what was answered since the last telling, and is taken out all the same."""
        self.assertEqual(b"", self.lanes.tell())
        self.put("ETH", REPLY._replace(source="kraken-ws"))
        told: list[list[str]] = []
        counts: list[list[int]] = []
        took = 0
        first: list[list[Any]] = []
        for requests in ((head(), head(b"ETH")), (head(),), (), (head(b"ETH"),) * 3):
            self.ask(self.asking, *requests)
            rows = json.loads(b"[%b]" % self.lanes.tell())
            first += [row for row in rows if isinstance(row[0], list)]
            told.append([(first[row[0]][0] if len(row) == 4 else row[0])[3] for row in rows])
            counts.append([row[-3] for row in rows])
            took += sum(row[-2] for row in rows)
            for kind, at, _, _, _ in (row for row in rows if len(row) == 5):
                source = {"BTC": "median", "ETH": "kraken-ws"}[kind[3]]
                self.assertEqual([PARTNER.key_id, "lpo", "http", kind[3], source, "shelf", 200, True], kind)
                self.assertEqual(NOW, at)
        self.assertEqual([["BTC", "ETH"], ["BTC"], [], ["ETH"]], told)
        self.assertEqual([[1, 1], [1], [], [3]], counts)
        self.assertEqual(2, len(first))
        rows = self.drain()
        self.assertEqual({"BTC": 2, "ETH": 4}, {row[2]: row[5] for row in rows})
        self.assertEqual(took, sum(row[6] for row in rows))
        self.assertEqual(b"", self.lanes.tell())
        self.ask(self.asking, head())
        self.drain()
        self.assertEqual(b"", self.lanes.tell())

    def test_told_at_length(self) -> None:
        """As many rows as need more room than there was at first, of names as long as they may be."""
        ids = [f"{number:0>128}" for number in range(300)]
        for number, key_id in enumerate(ids):
            self.learn(evolve(PARTNER, key_id=key_id), b"key-%d" % number)
        self.put("ABCDEFGHIJKLMNOP", REPLY._replace(source="s" * 32))
        self.ask(self.asking, *(head(b"ABCDEFGHIJKLMNOP", b"key-%d" % number) for number in range(len(ids))))
        rows = json.loads(b"[%b]" % self.lanes.tell())
        self.assertEqual([(key_id, "s" * 32) for key_id in ids], [(kind[0], kind[4]) for kind, *_ in rows])

    def test_full(self) -> None:
        """More kinds than there is room for are not answered here, until what is counted was taken out."""
        most, keys = 65_536, [b"key-%d" % number for number in range(128)]
        for key in keys:
            self.learn(evolve(PARTNER, key_id=key.decode()), key)
        assets = [f"A{number}" for number in range(most // len(keys))]
        for asset in assets:
            self.put(asset)
        for key in keys:
            for start in range(0, len(assets), 128):
                self.ask(self.asking, *(head(asset.encode(), key) for asset in assets[start : start + 128]))
        client = self.client()
        client.sendall(head())
        self.turn_until(lambda: self.left)
        self.assertEqual((head(), b"", None, 0), self.left[0][1:])
        self.assertEqual({(k.decode(), "http", a, "median"): 1 for k in keys for a in assets}, self.drained())
        self.ask(self.asking, head())
        self.assertEqual({(PARTNER.key_id, "http", "BTC", "median"): 1}, self.drained())


class KeyTests(LanesCase):
    """Who is known, and how he stands."""

    def test_learning_anew(self) -> None:
        """The last word on a key id holds: another key, another standing."""
        first, second = Standing(PARTNER, NOW), Standing(PARTNER, NOW)
        self.lanes.learn(KEY, "id", first)
        self.lanes.learn(b"other", "id", second)
        self.assertIsNone(self.lanes.decide(KEY, NOW))
        self.assertIsNotNone(self.lanes.decide(b"other", NOW))
        self.assertEqual((0, 1, 1), (first.used, second.used, self.figures("keys")[0]))
        self.lanes.learn(b"other", "id", first)
        self.lanes.decide(b"other", NOW)
        self.assertEqual((1, 1, 1), (first.used, second.used, self.figures("keys")[0]))

    def test_ids_that_are_none(self) -> None:
        """What could not stand in the spool as it is."""
        for key_id in ('a"b', "a\\b", "a b", "\xfc", "a\n", "i" * 129, "a\0b"):
            self.assertRaises(ValueError, self.lanes.learn, KEY, key_id, Standing(PARTNER, NOW))
        self.assertIsNone(self.lanes.decide(KEY, NOW))

    def test_one_key_of_two(self) -> None:
        """The last one that it was learned for has it, and forgetting the other changes nothing."""
        first, second = Standing(PARTNER, NOW), Standing(PARTNER, NOW)
        self.lanes.learn(KEY, "first", first)
        self.lanes.learn(KEY, "second", second)
        self.lanes.forget("first")
        self.lanes.decide(KEY, NOW)
        self.assertEqual((0, 1, 1), (first.used, second.used, self.figures("keys")[0]))
        self.lanes.forget("second")
        self.assertIsNone(self.lanes.decide(KEY, NOW))

    def test_many(self) -> None:
        """Through several growths of the table, with others taken out in between."""
        standings = {b"key-%d" % number: Standing(PARTNER, NOW) for number in range(20_000)}
        for key, standing in standings.items():
            self.lanes.learn(key, key.decode(), standing)
        for number, key in enumerate(standings):
            if number % 3:
                self.lanes.forget(key.decode())
        self.assertEqual(-(-20_000 // 3), self.figures("keys")[0])
        known = [key for key in standings if self.lanes.decide(key, NOW) is not None]
        self.assertEqual([key for number, key in enumerate(standings) if not number % 3], known)
        self.assertEqual(len(known), sum(standing.used for standing in standings.values()))

    def test_coming_and_going(self) -> None:
        """The table does not fill up with those that are gone."""
        for number in range(30_000):
            self.lanes.learn(b"key-%d" % number, "id", Standing(PARTNER, NOW))
        self.assertEqual(1, self.figures("keys")[0])
        self.assertIsNotNone(self.lanes.decide(b"key-29999", NOW))
        self.assertIsNone(self.lanes.decide(b"key-29998", NOW))
