"""Connections: where they go, how they are secured, who logs in, and what errors mean."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import tempfile
from pathlib import Path
from threading import Thread
from unittest import TestCase

import psycopg2
import psycopg2.errors
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.store import postgres
from tbeast.adapters.store.postgres import (
    Connection,
    Login,
    Target,
    code_of,
    connect,
    slots_taken,
    target,
    translated,
    untellable,
)
from tbeast.errors import StoreError, StoreRefusedError, StoreUnavailableError
from tbeast.test.adapters.feeds.certificates import Authority
from tbeast.testing.postgres import QUICK, Server, fresh_connection, fresh_database

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@frozen
class Secret:
    user: str
    password: str = field(repr=False)
    database: str | None = None
    host: str | None = None
    port: int | None = None


class PlainCase(SynchronousTestCase):
    """In an environment that says nothing of PostgreSQL."""

    def setUp(self) -> None:
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("PG", "SSL_"))}
        self.patch(os, "environ", clean)


class TargetTests(PlainCase):
    def test_a_host_alone(self) -> None:
        given = target("db.example.com").arguments()
        self.assertEqual((given["host"], given["user"], given["dbname"]), ("db.example.com", "tbeast", "tbeast"))
        self.assertNotIn("port", given)

    def test_a_host_with_a_port(self) -> None:
        for text, host, port in (
            ("db:6543", "db", "6543"),
            ("[::1]:6543", "::1", "6543"),
            ("10.0.0.1", "10.0.0.1", None),
        ):
            given = target(text).arguments()
            self.assertEqual((given["host"], given.get("port")), (host, port))

    def test_a_url(self) -> None:
        given = target("postgresql://me:pa%20ss@db:5433/prices?application_name=desk&connect_timeout=2").arguments()
        for name, text in (
            ("host", "db"), ("port", "5433"), ("user", "me"), ("password", "pa ss"), ("dbname", "prices"),
            ("application_name", "desk"), ("connect_timeout", "2"), ("keepalives_idle", "10"),
        ):  # fmt: skip
            self.assertEqual(given[name], text)

    def test_what_is_neither_is_refused_without_being_quoted(self) -> None:
        for text in ("", "a b", "db:x", "postgresql://me:hunter2@db/?nonsense=1", "postgresql://me:hunter2@[::1/"):
            with self.assertRaises(StoreError) as caught:
                target(text)
            self.assertIn("cannot be read", str(caught.exception))
            self.assertNotIn("hunter2", str(caught.exception))

    def test_nothing_is_refused(self) -> None:
        with self.assertRaises(StoreError):
            target(None)

    def test_a_secret_says_who_and_fills_in_what_the_url_leaves_open(self) -> None:
        secret = Secret("rotated", "new", "billing", "elsewhere", 6000)
        given = target("postgresql://me:old@db/prices", secret).arguments()
        self.assertEqual(
            [given[name] for name in ("user", "password", "host", "port", "dbname")],
            ["rotated", "new", "db", "6000", "prices"],
        )
        given = target(None, secret).arguments()
        self.assertEqual([given[name] for name in ("host", "port", "dbname")], ["elsewhere", "6000", "billing"])
        given = target("db", Secret("rotated", "new")).arguments()
        self.assertEqual([given[name] for name in ("host", "dbname")], ["db", "tbeast"])

    def test_libpqs_own_variables_fill_in_too(self) -> None:
        os.environ.update(PGUSER="who", PGDATABASE="which")
        given = target("db").arguments()
        self.assertEqual((given["user"], given["dbname"]), ("who", "which"))

    def test_where_it_is_for_people(self) -> None:
        for url, where in (
            ("postgresql://me:hunter2@db:5433/prices", "db:5433/prices"),
            ("db", "db:5432/tbeast"),
            ("postgresql:///prices", "this machine:5432/prices"),
            ("postgresql://%2Frun%2Fpg/prices", "/run/pg/prices"),
        ):
            self.assertEqual(target(url).where, where)
        later = target(None, refresh=lambda: Secret("me", "x"))
        self.assertEqual(later.where, "the host that the secret names:5432/tbeast")

    def test_no_text_of_it_holds_a_password(self) -> None:
        for place in (target("postgresql://me:hunter2@db/x"), target("db", Secret("me", "hunter2"))):
            self.assertNotIn("hunter2", repr(place))
            self.assertNotIn("hunter2", place.url)
            self.assertEqual(place.password, "hunter2")
        self.assertIsNone(target("db").password)

    def test_its_url_leads_to_the_same_place(self) -> None:
        for url in (
            "postgresql://me:x@db:5433/prices?sslmode=require",
            "postgresql://m%40e@%2Frun%2Fpg/a%20b",
            "[::1]:7",
            "postgresql://me@h1,h2/x?target_session_attrs=read-write&options=-c%20a%3Db",
        ):
            place = target(url)
            there = target(place.url)
            expected = place.arguments()
            expected.pop("password", None)
            self.assertEqual(there.arguments(), expected)
        self.assertEqual(target("postgresql://me:x@127.0.0.1/p").url, "postgresql://me@127.0.0.1/p?sslmode=prefer")

    @settings(deadline=None, max_examples=200)
    @given(NAMES, NAMES)
    def test_any_user_and_database_stand_in_its_url(self, user: str, database: str) -> None:
        place = Target({"host": "db", "user": user, "dbname": database})
        given = target(place.url).arguments()
        self.assertEqual((given["user"], given["dbname"], given["host"]), (user, database, "db"))


class SecuredTests(PlainCase):
    def mode(self, url: str) -> str:
        return target(url).arguments()["sslmode"]

    def test_a_mode_that_is_none(self) -> None:
        """It would be tried for ever."""
        error = self.assertRaises(StoreError, target, "postgresql://me:hunter2@db/x?sslmode=foo")
        self.assertIn("verify-full", str(error))
        self.assertNotIn("hunter2", str(error))

    def test_what_leaves_the_machine_is_verified(self) -> None:
        for url in ("db", "10.0.0.1", "postgresql://db/x", "postgresql://localhost,db/x", "localhost.example.com"):
            self.assertEqual(self.mode(url), "verify-full", url)
        self.assertEqual(target("postgresql://localhost/x?hostaddr=10.0.0.1").arguments()["sslmode"], "verify-full")

    def test_what_stays_need_not_be(self) -> None:
        for url in ("localhost", "127.0.0.2", "[::1]", "postgresql:///x", "postgresql://%2Frun/x"):
            self.assertEqual(self.mode(url), "prefer", url)

    def test_what_the_url_or_the_environment_says_holds(self) -> None:
        self.assertEqual(self.mode("postgresql://db/x?sslmode=disable"), "disable")
        self.assertEqual(self.mode("postgresql://localhost/x?sslmode=verify-full"), "verify-full")
        os.environ["PGSSLMODE"] = "require"
        self.assertEqual(self.mode("db"), "require")
        os.environ["PGHOST"] = "db"
        os.environ.pop("PGSSLMODE")
        self.assertEqual(self.mode("postgresql:///x"), "verify-full")

    def test_whom_it_trusts(self) -> None:
        authorities = os.path.abspath(self.mktemp())
        Path(authorities).write_text("")
        self.assertEqual(target("db", authorities=authorities).arguments()["sslrootcert"], authorities)
        url = "postgresql://db/x?sslrootcert=/mine.pem"
        self.assertEqual(target(url, authorities=authorities).arguments()["sslrootcert"], "/mine.pem")
        os.environ["PGSSLROOTCERT"] = "/theirs.pem"
        self.assertEqual(target("db").arguments()["sslrootcert"], "/theirs.pem")
        os.environ.pop("PGSSLROOTCERT")
        os.environ["SSL_CERT_FILE"] = authorities
        self.assertEqual(target("db").arguments()["sslrootcert"], authorities)
        system = target("postgresql://db/x?sslmode=verify-full&sslrootcert=system")
        self.assertEqual(system.arguments()["sslrootcert"], authorities)

    def test_a_system_that_keeps_its_authorities_elsewhere(self) -> None:
        self.patch(postgres, "_AUTHORITIES", ())
        os.environ["SSL_CERT_FILE"] = "/no/such/file"
        nowhere = ssl.DefaultVerifyPaths("/no", "/no", "SSL_CERT_FILE", "/no", "SSL_CERT_DIR", "/no")
        self.patch(ssl, "get_default_verify_paths", lambda: nowhere)
        self.assertEqual(target("db").arguments()["sslrootcert"], "system")


class Impostor:
    """A server that gets as far as the login, and then refuses in its own words.

    @ivar asked: the parameters of each start, by name; empty while none came.
    """

    def __init__(self, case: TestCase, refusal: str, certificate: tuple[str, str] | None = None) -> None:
        self.asked: list[dict[str, str]] = []
        self._refusal = refusal
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        thread = Thread(target=self._serve, daemon=True)
        thread.start()
        case.addCleanup(thread.join, 30)
        case.addCleanup(self._listener.close)
        case.addCleanup(self._listener.shutdown, socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._talk(connection)
                except (OSError, struct.error):
                    continue

    def _talk(self, connection: socket.socket) -> None:
        length, code = struct.unpack("!II", connection.recv(8, socket.MSG_WAITALL))
        if code == 80877103:  # SSLRequest
            if self._context is None:
                connection.sendall(b"N")
            else:
                connection.sendall(b"S")
                connection = self._context.wrap_socket(connection, server_side=True)
            length, code = struct.unpack("!II", connection.recv(8))
        body = connection.recv(length - 8).decode().split("\0")
        self.asked.append(dict(zip(body[::2], body[1::2], strict=False)))
        text = b"".join(f"{kind}{words}\0".encode() for kind, words in (("S", "FATAL"), ("M", self._refusal))) + b"\0"
        connection.sendall(b"E" + struct.pack("!I", len(text) + 4) + text)
        connection.close()


def root_pem(authority: Authority) -> bytes:
    """The authority's own certificate."""
    (root,) = authority.trust_root._caCerts
    return crypto.dump_certificate(crypto.FILETYPE_PEM, root)


class EncryptedTests(PlainCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        root = self.folder / "root.pem"
        root.write_bytes(root_pem(self.authority))
        self.trusted = str(root)

    def certificate(self, host: str) -> tuple[str, str]:
        pair = self.authority.server(host)
        files = self.folder / f"{host}.pem", self.folder / f"{host}.key"
        files[0].write_bytes(pair.dumpPEM().split(b"-----BEGIN PRIVATE", 1)[0])
        files[1].write_bytes(pair.privateKey.dump(1))
        return str(files[0]), str(files[1])

    def refused(self, server: Impostor, more: str, authorities: str | None) -> str:
        url = f"postgresql://me@localhost:{server.port}/x?hostaddr=127.0.0.1{more}"
        with self.assertRaises(StoreUnavailableError) as caught:
            connect(target(url, authorities=authorities))
        return str(caught.exception)

    def test_a_server_with_our_authoritys_certificate_is_spoken_to(self) -> None:
        server = Impostor(self, "go away", self.certificate("localhost"))
        self.assertIn("go away", self.refused(server, "&sslmode=verify-full", self.trusted))
        self.assertEqual([asked["user"] for asked in server.asked], ["me"])

    def test_one_with_a_certificate_for_another_host_is_told_nothing(self) -> None:
        server = Impostor(self, "go away", self.certificate("example.com"))
        self.assertIn("does not match host name", self.refused(server, "&sslmode=verify-full", self.trusted))
        self.assertEqual(server.asked, [])

    def test_one_with_a_certificate_of_another_authority_is_told_nothing(self) -> None:
        server = Impostor(self, "go away", self.certificate("localhost"))
        other = self.folder / "other.pem"
        other.write_bytes(root_pem(Authority()))
        self.assertIn("SSL error", self.refused(server, "&sslmode=verify-full", str(other)))
        self.assertEqual(server.asked, [])

    def test_the_systems_authorities_do_not_vouch_for_it(self) -> None:
        server = Impostor(self, "go away", self.certificate("localhost"))
        self.assertIn("verify failed", self.refused(server, "&sslmode=verify-full&sslrootcert=system", None))
        self.assertEqual(server.asked, [])

    def test_one_that_does_not_encrypt_is_told_nothing(self) -> None:
        server = Impostor(self, "go away")
        self.assertIn("does not support SSL", self.refused(server, "&sslmode=verify-full", self.trusted))
        self.assertEqual(server.asked, [])

    def test_on_the_loopback_it_need_not(self) -> None:
        server = Impostor(self, "go away")
        self.assertIn("go away", self.refused(server, "", None))
        self.assertEqual([asked["database"] for asked in server.asked], ["x"])


class LoginTests(PlainCase):
    """With a real server that wants a password."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new = Secret("desk", "old"), Secret("desk", "new")
        self.asked = 0

    def url(self) -> str:
        server = Server((*QUICK, f"hba_file={self.rules()}"))
        self.addCleanup(server.stop)
        server.start()
        admin = connect(target(server.url()))
        with admin.cursor() as cursor:
            cursor.execute("CREATE ROLE desk LOGIN PASSWORD 'new'")
        admin.commit()
        admin.close()
        return server.url().replace("tbeast@", "")

    def rules(self) -> str:
        """A file that lets only the embedded user in without a password."""
        folder = Path(tempfile.mkdtemp(prefix="tb-"))
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o755)  # the server may be another user's
        rules = folder / "hba.conf"
        rules.write_text("local all tbeast trust\nlocal all all scram-sha-256\n")
        rules.chmod(0o644)
        return str(rules)

    def ask(self) -> Secret:
        self.asked += 1
        return self.new

    def test_passwords(self) -> None:
        url = self.url()
        # the right one
        connection = connect(target(url, self.new))
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            self.assertEqual(cursor.fetchone(), ("desk",))
        connection.close()
        # a wrong one, and nobody to ask
        with self.assertRaises(StoreUnavailableError) as caught:
            connect(target(url, self.old))
        self.assertIn('password authentication failed for user "desk"', str(caught.exception))
        # one that was rotated: asked for once, by the first connection, for all of them
        place = target(url, self.old, self.ask)
        for _ in range(3):
            connect(place).close()
        self.assertEqual(self.asked, 1)
        # none yet: asked for when the first connection needs it
        place = target(url, None, self.ask)
        self.assertEqual(self.asked, 1)
        connect(place).close()
        self.assertEqual(self.asked, 2)
        # a new one that is wrong as well: one try a connection, no more
        place = target(url, self.new, lambda: self.old)
        connect(place).close()
        place = target(url, self.old, lambda: evolve(self.old, password="older"))
        with self.assertRaises(StoreUnavailableError):
            connect(place)

    def test_a_refusal_in_another_language_is_taken_for_one_of_the_login(self) -> None:
        server = Impostor(self, "Passwort-Authentifizierung fehlgeschlagen")
        place = target(f"127.0.0.1:{server.port}", self.old, self.ask)
        with self.assertRaises(StoreUnavailableError) as caught:
            connect(place)
        self.assertIn("fehlgeschlagen", str(caught.exception))
        self.assertEqual((self.asked, len(server.asked)), (1, 2))

    def test_other_refusals_ask_for_no_new_password(self) -> None:
        for words in (
            "sorry, too many clients already",
            'database "x" does not exist',
            "the database system is starting up",
        ):
            server = Impostor(self, words)
            with self.assertRaises(StoreUnavailableError) as caught:
                connect(target(f"127.0.0.1:{server.port}", self.old, self.ask))
            self.assertIn(words, str(caught.exception))
            self.assertEqual(slots_taken(caught.exception), "too many" in words)
            self.assertEqual(self.asked, 0)

    def test_who_cannot_be_asked(self) -> None:
        def broken() -> Secret:
            raise ConnectionError("the secret is hunter2")

        def away() -> Secret:
            raise StoreUnavailableError("throttled")

        for ask, words in (
            (broken, "the credentials of the database cannot be had: ConnectionError"),
            (away, "throttled"),
        ):
            with self.assertRaises(StoreUnavailableError) as caught:
                connect(target("127.0.0.1:1", None, ask))
            self.assertEqual(str(caught.exception), words)

    def test_a_secret_without_a_host_leads_nowhere(self) -> None:
        with self.assertRaises(StoreUnavailableError) as caught:
            connect(target(None, None, lambda: Secret("me", "x")))
        self.assertIn("neither AURORA_URL nor the secret says on which host", str(caught.exception))

    def test_of_several_that_are_refused_at_once_one_asks(self) -> None:
        login = Login(self.old, self.ask)
        self.assertEqual([login.other_than(self.old) for _ in range(5)], [self.new] * 5)
        self.assertEqual(self.asked, 1)
        self.assertEqual(login.credentials, self.new)
        self.assertIsNone(Login(self.old).other_than(self.old))


class ConnectedTests(PlainCase):
    def shows(self, connection: Connection, name: str) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting(%s)", (name,))
            row = cursor.fetchone()
        assert row is not None
        return str(row[0])

    def test_its_limits(self) -> None:
        connection = fresh_connection(self)
        for name, text in (
            ("statement_timeout", "10s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "1min"),
            ("TimeZone", "UTC"),
            ("client_encoding", "UTF8"),
            ("application_name", "tbeast"),
        ):
            self.assertEqual(self.shows(connection, name), text)

    def test_limits_of_ones_own(self) -> None:
        place = evolve(target(fresh_database(self)), statement_seconds=0.25, lock_seconds=0.0, application="sync")
        connection = connect(place)
        self.addCleanup(connection.close)
        self.assertEqual(self.shows(connection, "statement_timeout"), "250ms")
        self.assertEqual(self.shows(connection, "lock_timeout"), "0")
        self.assertEqual(self.shows(connection, "application_name"), "sync")
        connection.rollback()
        self.assertEqual(self.shows(connection, "statement_timeout"), "250ms")

    def test_it_is_outside_of_any_transaction(self) -> None:
        connection = fresh_connection(self)
        self.assertEqual(connection.info.transaction_status, psycopg2.extensions.TRANSACTION_STATUS_IDLE)

    def test_nobody_there(self) -> None:
        for url, words in (
            ("postgresql://me:hunter2@127.0.0.1:1/x", "Connection refused"),
            ("postgresql://me:hunter2@%2Fno%2Fsuch/x", "No such file or directory"),
            ("postgresql://me:hunter2@nowhere.invalid/x", "could not translate host name"),
        ):
            with self.assertRaises(StoreUnavailableError) as caught:
                connect(target(url))
            self.assertIn(words, str(caught.exception))
            self.assertNotIn("hunter2", str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
            self.assertNotIn("Is the server running", str(caught.exception))

    def test_one_who_listens_and_says_nothing(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        with self.assertRaises(StoreUnavailableError) as caught:
            connect(target(f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/x?connect_timeout=2"))
        self.assertIn("timeout expired", str(caught.exception))


class TranslatedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh_connection(self)

    def meaning(self, statement: str, *values: object) -> StoreError:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement, values)
        except (psycopg2.Error, ValueError) as error:
            return translated(error)
        finally:
            if not self.connection.closed:
                self.connection.rollback()
        raise AssertionError("no error")

    def test_values_that_break_a_rule_are_refused(self) -> None:
        insert = "INSERT INTO rate_limit_template VALUES (%s, %s, NULL, NULL, %s)"
        for code, statement, values in (
            ("23505", insert, ("free", 1, 0)),
            ("23502", insert, ("x", 1, None)),
            ("23514", insert, ("x", -1, 0)),
            ("22003", insert, ("x", 10**30, 0)),
            ("22P02", "SELECT %s::uuid", ("x",)),
            ("22P05", "SELECT convert_to(%s, 'LATIN1')", ("☃",)),
            ("42601", "SELECT FROM WHERE", ()),
            ("P0001", "DO $$ BEGIN RAISE 'a trigger says no'; END $$", ()),
            ("54011", f"CREATE TABLE wide ({', '.join(f'c{place} integer' for place in range(1_700))})", ()),
            ("22021", "SELECT %s", ("\0",)),
            ("22021", "SELECT %s", ("\ud800",)),
        ):
            refused = self.meaning(statement, *values)
            assert isinstance(refused, StoreRefusedError), (code, refused)
            self.assertEqual(refused.code, code)

    def test_what_the_database_cannot_do_now_is_unavailable(self) -> None:
        for words, statement in (
            ("read-only transaction", "SET TRANSACTION READ ONLY; DELETE FROM users"),
            ("statement timeout", "SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)"),
            ("permission denied", "CREATE ROLE reader; SET LOCAL ROLE reader; SELECT * FROM users"),
            ('relation "not_yet_migrated" does not exist', "SELECT * FROM not_yet_migrated"),
            ('column "not_yet_migrated" does not exist', "SELECT not_yet_migrated FROM users"),
            ("function not_yet_migrated() does not exist", "SELECT not_yet_migrated()"),
        ):
            error = self.meaning(statement)
            self.assertIsInstance(error, StoreUnavailableError, words)
            self.assertIn(words, str(error))

    def test_by_their_code(self) -> None:
        for code, kind in (
            ("08006", StoreUnavailableError), ("25006", StoreUnavailableError), ("25P03", StoreUnavailableError),
            ("28P01", StoreUnavailableError), ("40001", StoreUnavailableError), ("40P01", StoreUnavailableError),
            ("53100", StoreUnavailableError), ("53200", StoreUnavailableError), ("53300", StoreUnavailableError),
            ("55P03", StoreUnavailableError), ("57014", StoreUnavailableError), ("57P01", StoreUnavailableError),
            ("57P02", StoreUnavailableError), ("57P03", StoreUnavailableError), ("58030", StoreUnavailableError),
            ("XX001", StoreUnavailableError), ("23503", StoreRefusedError), ("22008", StoreRefusedError),
            ("21000", StoreRefusedError), ("0A000", StoreRefusedError),
        ):  # fmt: skip
            statement = f"DO $$ BEGIN RAISE 'as if' USING ERRCODE = '{code}'; END $$"
            error = self.meaning(statement)
            self.assertIs(type(error), kind, code)
            self.assertEqual(str(error), "as if")

    def test_a_row_is_not_quoted(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("INSERT INTO application_parameters (key, value) VALUES ('tb_secret', 'x')")
        self.connection.commit()
        error = self.meaning("INSERT INTO application_parameters (key, value) VALUES ('tb_secret', 'x')")
        self.assertEqual(str(error), 'duplicate key value violates unique constraint "application_parameters_pkey"')

    def test_a_connection_that_is_gone_is_unavailable(self) -> None:
        error = self.meaning("SELECT pg_terminate_backend(pg_backend_pid())")
        self.assertIsInstance(error, StoreUnavailableError)
        self.assertIn("connection", str(error))
        error = self.meaning("SELECT 1")
        self.assertIsInstance(error, StoreUnavailableError)
        self.assertIn("closed", str(error))

    def test_a_mistake_in_a_call_of_the_driver_is_refused(self) -> None:
        refused = self.meaning("SELECT %s", object())
        self.assertIsInstance(refused, StoreRefusedError)
        self.assertIn("can't adapt type 'object'", str(refused))

    def test_what_cannot_be_told(self) -> None:
        self.assertTrue(untellable(ValueError("A string literal cannot contain NUL (0x00) characters.")))
        self.assertFalse(untellable(ValueError("invalid literal for int()")))
        self.assertFalse(untellable(TypeError("NUL (0x00)")))

    def test_the_code_of_what_never_came_to_be(self) -> None:
        for words, code in (
            ('FATAL:  password authentication failed for user "x"', "28P01"),
            ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', "28000"),
            ('FATAL:  role "x" does not exist', "28000"),
            ('FATAL:  database "x" does not exist', "3D000"),
            ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "53300"),
            ("FATAL:  the database system is shutting down", "57P03"),
            ("FATAL:  the database system is not yet accepting connections", "57P03"),
            ("Connection refused", ""),
        ):
            self.assertEqual(code_of(psycopg2.OperationalError(words)), code, words)
