"""Whether there are native parts, and why not.

They are built with the package where there is a C compiler, on Linux with CPython. What they do is done in Python
without them, more slowly.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType


def load() -> tuple[ModuleType | None, str]:
    """Find the native parts.

    @return: the module, or C{None} and why.
    """
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        return None, f"they need Linux and CPython, and this is {sys.platform} and {sys.implementation.name}"
    try:
        return import_module("tbeast.native._lanes"), ""
    except ImportError as error:
        return None, f"they were not built, or not for this Python: {error}"
