"""One message from a command."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from pathlib import Path
from tempfile import mkdtemp

from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cache.publishonce import publish_once
from tbeast.errors import CacheUnavailableError, SettingsError
from tbeast.test.adapters.feeds.certificates import Authority
from tbeast.testing.valkey import Server, shared_server


class PublishOnceTests(SynchronousTestCase):
    def listener(self, server: Server) -> socket.socket:
        """A subscriber of the channel."""
        subscriber = socket.create_connection(("127.0.0.1", server.port), 10.0)
        self.addCleanup(subscriber.close)
        if server.password:
            subscriber.sendall(f"AUTH {server.password}\r\n".encode())
            self.assertEqual(b"+OK\r\n", subscriber.recv(100))
        subscriber.sendall(b"SUBSCRIBE news\r\n")
        self.assertIn(b"subscribe", subscriber.recv(1000))
        return subscriber

    def test_heard(self) -> None:
        server = shared_server()
        subscriber = self.listener(server)
        self.assertEqual(1, publish_once(server.url, b"news", b'{"a":"\r\n"}'))
        self.assertIn(b'message\r\n$4\r\nnews\r\n$10\r\n{"a":"\r\n"}\r\n', subscriber.recv(1000))
        self.assertEqual(0, publish_once(f"127.0.0.1:{server.port}", b"olds", b"x"))

    def test_with_a_password(self) -> None:
        server = Server("open sesame/@:").start()
        self.addCleanup(server.stop)
        place = f"127.0.0.1:{server.port}"
        self.assertEqual(0, publish_once(f"redis://:open%20sesame%2F%40%3A@{place}", b"news", b"x"))
        for url in (f"redis://{place}", f"redis://:hunter2@{place}", f"redis://me:hunter2@{place}"):
            error = self.assertRaises(CacheUnavailableError, publish_once, url, b"news", b"x")
            self.assertIn(place, str(error))
            self.assertNotIn("hunter2", str(error))

    def test_a_socket_in_the_file_system(self) -> None:
        # a socket's path may have a hundred characters, and trial's folders are long
        folder = mkdtemp(prefix="tbeast-")
        self.addCleanup(shutil.rmtree, folder)
        path = f"{folder}/valkey"
        server = Server(arguments=("--unixsocket", path)).start()
        self.addCleanup(server.stop)
        self.assertEqual(0, publish_once(f"unix://{path}", b"news", b"x"))
        server.stop()
        self.assertRaises(CacheUnavailableError, publish_once, f"unix://{path}", b"news", b"x")

    def test_nobody_there(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            url = f"127.0.0.1:{bound.getsockname()[1]}"
            error = self.assertRaises(CacheUnavailableError, publish_once, url, b"news", b"x")
        self.assertIn("refused", str(error).lower())

    def test_somebody_else_there(self) -> None:
        """Who hangs up, or says what Valkey does not say."""
        for said in (b"", b"HTTP/1.1 400 Bad Request\r\n", b"-NOAUTH \x1b[2J\r\n", b"+PONG\r\n", b"x" * 10_000):
            with socket.create_server(("127.0.0.1", 0)) as listening:

                def answer(listening: socket.socket = listening, said: bytes = said) -> None:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(said)

                answering = threading.Thread(target=answer)
                answering.start()
                url = f"127.0.0.1:{listening.getsockname()[1]}"
                error = self.assertRaises(CacheUnavailableError, publish_once, url, b"news", b"x")
                answering.join(10.0)
            self.assertTrue(str(error).isprintable(), said)

    def test_a_server_without_tls(self) -> None:
        """A certificate is asked for, and nothing is sent without one."""
        server = shared_server()
        error = self.assertRaises(
            CacheUnavailableError, publish_once, f"rediss://:hunter2@127.0.0.1:{server.port}", b"news", b"x"
        )
        self.assertNotIn("hunter2", str(error))

    def test_tls(self) -> None:
        """With a certificate that the authority vouches for, and for that very host."""
        authority = Authority()
        trusted = Path(self.mktemp()).absolute()
        (certificate,) = authority.trust_root._caCerts
        trusted.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, certificate))
        for host, authorities, heard in (
            ("localhost", str(trusted), 7), ("localhost", None, None), ("elsewhere.example", str(trusted), None),
        ):  # fmt: skip
            served = authority.server(host)
            chain = Path(self.mktemp())
            chain.write_bytes(served.dumpPEM() + served.privateKey.dump(crypto.FILETYPE_PEM))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain)
            with socket.create_server(("127.0.0.1", 0)) as listening:

                def answer(listening: socket.socket = listening, context: ssl.SSLContext = context) -> None:
                    connection, _ = listening.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(1000)
                        secure.sendall(b":7\r\n")

                answering = threading.Thread(target=answer)
                answering.start()
                url = f"rediss://localhost:{listening.getsockname()[1]}"
                try:
                    self.assertEqual(heard, publish_once(url, b"news", b"x", authorities))
                except CacheUnavailableError as error:
                    self.assertIs(None, heard, error)
                    self.assertIn("certificate verify failed", str(error))
                answering.join(10.0)

    def test_no_address(self) -> None:
        self.assertRaises(SettingsError, publish_once, "http://127.0.0.1", b"news", b"x")
