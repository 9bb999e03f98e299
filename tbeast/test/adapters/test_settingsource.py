"""The files that settings name."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.settingsource import file_faults
from tbeast.settings import Layer, load

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


class FileFaultsTests(SynchronousTestCase):
    def file(self, text: str) -> str:
        path: str = self.mktemp()
        Path(path).write_text(text)
        return path

    def faults(self, **said: object) -> list[str]:
        return file_faults(load([Layer("here", said)]))

    def test_all_there(self) -> None:
        pem = self.file(PEM)
        self.assertEqual(
            [],
            self.faults(
                TBEAST_TLS_CERT=pem, TBEAST_TLS_KEY=pem, TBEAST_DB_CA=pem, TBEAST_CACHE_CA=pem,
                TBEAST_STATE=os.path.dirname(os.path.abspath(pem)),
            ),
        )  # fmt: skip

    def test_missing(self) -> None:
        """Each is named, with where it was set."""
        gone = self.mktemp()
        names = ("TBEAST_TLS_CERT", "TBEAST_TLS_KEY", "TBEAST_DB_CA", "TBEAST_CACHE_CA")
        self.assertEqual(
            [f"here: {name} = {gone!r}: cannot be read: no such file or directory" for name in names],
            self.faults(**dict.fromkeys(names, gone)),
        )

    def test_authorities_that_are_none(self) -> None:
        text = self.file("something else")
        names = ("TBEAST_DB_CA", "TBEAST_CACHE_CA")
        self.assertEqual(
            [f"here: {name} = {text!r}: there is no certificate in it" for name in names],
            self.faults(**dict.fromkeys(names, text)),
        )

    def test_the_state_folder_is_a_file(self) -> None:
        path = self.file("")
        self.assertEqual([f"here: TBEAST_STATE = {path!r}: is not a folder"], self.faults(TBEAST_STATE=path))
