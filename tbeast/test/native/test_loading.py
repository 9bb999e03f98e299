"""Whether there are native parts; these tests are run whether there are or not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from tbeast.native import loading
from tbeast.test.native.parts import MODULE, NOT_BUILT


class LoadingTests(SynchronousTestCase):
    def test_here(self) -> None:
        """Either they are there, or it is said why not."""
        module, why_not = loading.load()
        self.assertIs(MODULE, module)
        if module is None:
            self.assertNotEqual("", why_not)
            self.assertIn(why_not, NOT_BUILT or "")
        else:
            self.assertEqual(("", None), (why_not, NOT_BUILT))
            self.assertTrue(callable(module.Lanes) and callable(module.recognise))

    def test_not_built(self) -> None:
        """Nothing goes wrong without them."""
        self.patch(sys, "modules", {**sys.modules, "tbeast.native._lanes": None})
        module, why_not = loading.load()
        self.assertIsNone(module)
        self.assertIn("not built", why_not)

    def test_elsewhere(self) -> None:
        self.patch(loading, "sys", SimpleNamespace(platform="darwin", implementation=sys.implementation))
        module, why_not = loading.load()
        self.assertIsNone(module)
        self.assertIn("darwin", why_not)

    def test_other_python(self) -> None:
        self.patch(loading, "sys", SimpleNamespace(platform="linux", implementation=SimpleNamespace(name="pypy")))
        module, why_not = loading.load()
        self.assertIsNone(module)
        self.assertIn("pypy", why_not)
