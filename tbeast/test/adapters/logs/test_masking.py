"""No secret gets into the log, by whichever of the rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.logs.masking import MASK, Masking, names_a_secret, secrets_of
from tbeast.settings import Layer, load

KEY = "tb_freefreefr_abcdefghijklmnopqrstuvwxyz234567"


class MaskingTests(SynchronousTestCase):
    def test_what_looks_like_a_secret(self) -> None:
        mask = Masking()
        for text, masked in (
            (f"the key {KEY}, and more", f"the key tb_freefreefr_{MASK}, and more"),
            ("Authorization: Bearer abcdefgh.12", f"Authorization: Bearer {MASK}"),
            ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MASK}"),
            ("X-API-Key: my-own-key", f"X-API-Key: {MASK}"),
            ("{b'X-Admin-Key': [b'my-own-key']}", f"{{b'X-Admin-Key': [b'{MASK}']}}"),
            ("postgresql://me:hunter2@db:5432/x failed", f"postgresql://{MASK}@db:5432/x failed"),
            ("redis://:p@ss@cache", f"redis://{MASK}@cache"),
            ("password='hunter2' host=db", f"password='{MASK}' host=db"),
        ):
            self.assertEqual(masked, mask(text))

    def test_what_is_no_secret(self) -> None:
        for text in (
            "the bearer of news", "a basic fact", "wss://ws.okx.com:8443/ws", "2026-11-22 23:59:59 a@b.example",
            "key id tb_freefreefr", "BTC-USD: 83421.57",
        ):  # fmt: skip
            self.assertEqual(text, Masking()(text))

    def test_known_secrets_wherever_they_turn_up(self) -> None:
        """The longer before the shorter, and none is a pattern."""
        mask = Masking(["abcd", "abcd.*", "(x"])
        self.assertEqual(f"<{MASK}> {MASK}ef {MASK} z", mask("<abcd.*> abcdef (x z"))

    @given(st.text(max_size=300), st.text(min_size=4, max_size=20))
    @settings(deadline=None, max_examples=50)
    def test_nothing_is_left_of_a_known_one(self, text: str, secret: str) -> None:
        if secret not in MASK:
            left = Masking([secret])(f"{text}{secret}{text}")
            self.assertNotIn(secret, left.replace(MASK, ""))

    def test_a_hostile_text_takes_no_time(self) -> None:
        """Patterns that look back over and over would not come to an end here."""
        for text in ("a://" + ":" * 200_000, "password" + " " * 200_000, "bearer " * 50_000):
            self.assertLessEqual(len(Masking()(text)), len(text) + 4)


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        for name in ("key", "admin_key", "datagram_secret", "password", "API_TOKEN"):
            self.assertTrue(names_a_secret(name), name)
        for name in ("key_id", "keys", "secretary", "monkey", "tokens"):
            self.assertFalse(names_a_secret(name), name)


class SettingsTests(SynchronousTestCase):
    def test_every_secret_among_the_settings(self) -> None:
        values = {
            "ADMIN_KEY": "an-admin-key-of-length", "TBEAST_KEYS": "an-operators-key",
            "AURORA_URL": "postgresql://me:hun%2Fter@db/x", "CACHE_URL": "redis://:cache-pass@cache:6379",
        }  # fmt: skip
        self.assertEqual(
            {"an-admin-key-of-length", "an-operators-key", "hun%2Fter", "hun/ter", "cache-pass"},
            secrets_of(load([Layer("test", values)])),
        )

    def test_none(self) -> None:
        self.assertEqual(frozenset(), secrets_of(load([Layer("test", {"AURORA_URL": "db.example"})])))
