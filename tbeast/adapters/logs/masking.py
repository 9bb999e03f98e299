"""What must not stand in a log that others collect: keys, passwords, tokens.

Three rules, each for what the others may miss. A field whose name says that it is a secret is masked before the message
is made of it. The secrets that the settings hold are masked wherever their text turns up. And what looks like a
secret, a key of ours, a bearer's token or a password in a URL, is masked whoever's it is; the id of a key is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from tbeast.settings import Settings

MASK: Final = "***"
SHORTEST: Final = 4
"""A secret that is shorter is no secret, and its letters stand everywhere."""

_SECRET_NAME: Final = re.compile(
    r"(?:.*_)?(?:key|secret|password|passwd|token|authorization|credentials)", re.IGNORECASE
)
_LOOKS_SECRET: Final = (
    (re.compile(r"\btb_([0-9A-Za-z]{10})_[0-9A-Za-z]{32}"), rf"tb_\1_{MASK}"),
    (re.compile(r"(?i)\b(bearer\s+|authorization\W{1,5}basic\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(x-api-key|x-admin-key|password)(\"?'?\s*[:=]\s*(?:\[?b?[\"'])?)[^\s\"',;&]+"), rf"\1\2{MASK}"),
    (re.compile(r"(\w://)[^\s/@:]{0,200}:[^\s/]{0,500}@"), rf"\1{MASK}@"),
)


def names_a_secret(name: str) -> bool:
    """Whether what bears this name is a secret."""
    return _SECRET_NAME.fullmatch(name) is not None


def secrets_of(settings: Settings) -> frozenset[str]:
    """Every secret among the settings, as it may turn up in a text."""
    secrets = {key.key for key in settings.keys}
    secrets.add(settings.admin_key or "")
    for url in (settings.aurora_url, settings.cache_url):
        password = urlsplit(url).password if url and "://" in url else None
        secrets |= {password or "", unquote(password or "")}
    return frozenset(secret for secret in secrets if len(secret) >= SHORTEST)


class Masking:
    """Masks secrets in text.

    @param secrets: those that are known.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # the longest first: one may be a part of another
        known = sorted(set(secrets), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """C{text} with a mask in the place of each secret."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern, mask in _LOOKS_SECRET:
            text = pattern.sub(mask, text)
        return text
