"""What boto3's errors say, for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_LONGEST: Final = 300
_QUOTES_WHAT_WAS_SIGNED: Final = re.compile("signature|token|security", re.I)


def words_of(error: Exception) -> str:
    """What an error of boto3 says, in one line without anything secret."""
    told = getattr(error, "response", None)
    if isinstance(told, Mapping) and isinstance(told.get("Error"), Mapping):
        code = str(told["Error"].get("Code", "?"))
        if _QUOTES_WHAT_WAS_SIGNED.search(code):
            return code
        return f"{code}: {one_line(str(told['Error'].get('Message') or ''))}".removesuffix(": ")
    return f"{type(error).__name__}: {one_line(str(error))}"


def one_line(text: str) -> str:
    """C{text} without line ends, and not too long."""
    return " ".join(text.split())[:_LONGEST]
