"""Tests of L{tbeast.adapters.cloud.secrets}: against moto's server, and against a client that fails as it is told."""

from __future__ import annotations

import json
import socket
from functools import partial
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, NoRegionError
from twisted.trial.unittest import SynchronousTestCase

from tbeast.adapters.cloud.secrets import Credentials, SecretError, fetch, read
from tbeast.adapters.store.postgres import target
from tbeast.errors import StoreUnavailableError
from tbeast.test.adapters.cloud.awsserver import REGION, AwsServer, log_in

PASSWORD = "correct horse battery"
RDS = {
    "engine": "postgres",
    "host": "db.cluster-abc.us-east-2.rds.amazonaws.com",
    "username": "beast",
    "password": PASSWORD,
    "dbname": "CPMP_Backend_Aurora",
    "port": 5432,
}


class ReadTests(SynchronousTestCase):
    def test_as_rds_writes_it(self) -> None:
        self.assertEqual(
            read("db", json.dumps(RDS)),
            Credentials("beast", PASSWORD, "CPMP_Backend_Aurora", "db.cluster-abc.us-east-2.rds.amazonaws.com", 5432),
        )
        self.assertEqual(read("db", json.dumps(RDS).encode()), read("db", json.dumps(RDS)))

    def test_as_rds_writes_it_when_it_rotates_the_password_itself(self) -> None:
        self.assertEqual(
            read("db", json.dumps({"username": "beast", "password": PASSWORD})), Credentials("beast", PASSWORD)
        )

    def test_the_url_gives_what_is_missing(self) -> None:
        url = "postgresql://us%40er:p%2Fw@db.example:6432/prices"
        self.assertEqual(read("db", "{}", url), Credentials("us@er", "p/w"))
        self.assertEqual(read("db", '{"password":"new"}', url), Credentials("us@er", "new"))
        self.assertEqual(read("db", json.dumps(RDS), url).password, PASSWORD)
        for other in (None, "db.example", "db.example:5432", "postgresql://db.example/prices"):
            self.assertRaises(SecretError, read, "db", "{}", other)

    def test_ports(self) -> None:
        for port, expected in ((1, 1), ("5433", 5433), (65535, 65535), (None, None), ("", None)):
            self.assertEqual(read("db", json.dumps({**RDS, "port": port})).port, expected)
        for no_port in (-1, 65536, "65536", "99999999999", "five", 5432.5, True, [5432], "\uff15\uff14"):
            self.assertRaises(SecretError, read, "db", json.dumps({**RDS, "port": no_port}))

    def test_what_is_no_login(self) -> None:
        for text in ("", "beast:hunter2", "[]", '"hunter2"', "null", "{", "[" * 99_999, b"\xff\xfe\xff"):
            error = self.assertRaises(SecretError, read, "db", text)
            self.assertNotIn("hunter2", str(error))
        for name, value in (("password", 7), ("username", ["x"]), ("password", ""), ("host", 1), ("dbname", {})):
            error = self.assertRaises(SecretError, read, "db", json.dumps({**RDS, name: value}))
            self.assertIn("secret db: ", str(error))
            self.assertNotIn(PASSWORD, str(error))

    def test_the_password_is_not_shown(self) -> None:
        self.assertNotIn(PASSWORD, repr(read("db", json.dumps(RDS))))


class FakeClient:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def get_secret_value(self, SecretId: str) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "so it is"}}, "GetSecretValue")


class FetchTests(SynchronousTestCase):
    def ask(self, answer: Any, name: str = "db", region: str | None = None) -> Credentials:
        self.regions: list[str | None] = []

        def make(region: str | None) -> FakeClient:
            self.regions.append(region)
            return FakeClient(answer)

        return fetch(name, region, None, make)

    def test_text_or_bytes(self) -> None:
        text = json.dumps(RDS)
        self.assertEqual(self.ask({"SecretString": text}), self.ask({"SecretBinary": text.encode()}))
        self.assertRaises(SecretError, self.ask, {})

    def test_the_region_of_an_arn_goes_first(self) -> None:
        answer = {"SecretString": json.dumps(RDS)}
        arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf"
        for name, region, expected in (
            ("db", "us-east-2", "us-east-2"), ("db", None, None), (arn, "us-east-2", "eu-west-1"),
            (arn, None, "eu-west-1"), ("prod/a:b:c:d", "us-east-2", "us-east-2"),
        ):  # fmt: skip
            self.ask(answer, name, region)
            self.assertEqual(self.regions, [expected])

    def test_what_waiting_may_mend(self) -> None:
        for error in (
            client_error("ThrottlingException"), client_error("InternalServiceError"),
            client_error("ExpiredTokenException"), ConnectTimeoutError(endpoint_url="https://x"), NoCredentialsError(),
            OSError(5, "input/output error"),
        ):  # fmt: skip
            self.assertRaises(StoreUnavailableError, self.ask, error)

    def test_what_waiting_does_not_mend(self) -> None:
        for error in (
            client_error("ResourceNotFoundException"), client_error("AccessDeniedException"),
            client_error("InvalidRequestException"), client_error("DecryptionFailure"), NoRegionError(),
        ):  # fmt: skip
            told = str(self.assertRaises(SecretError, self.ask, error))
            self.assertIn("secret db: ", told)
        self.assertIn("so it is", str(self.assertRaises(SecretError, self.ask, client_error("AccessDeniedException"))))


class RealSecretTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = AwsServer()
        self.addCleanup(self.server.stop)
        log_in(self, AWS_ENDPOINT_URL_SECRETS_MANAGER=self.server.url)
        self.manager = self.server.client("secretsmanager")

    def test_a_secret_and_its_rotation(self) -> None:
        arn = self.manager.create_secret(Name="prod/db", SecretString=json.dumps(RDS))["ARN"]
        self.assertEqual(fetch("prod/db", REGION), read("db", json.dumps(RDS)))
        self.manager.put_secret_value(SecretId="prod/db", SecretString=json.dumps({**RDS, "password": "new"}))
        self.assertEqual(fetch("prod/db", REGION).password, "new")
        self.assertEqual(fetch(arn, None).password, "new")

    def test_secrets_that_are_not_there(self) -> None:
        error = self.assertRaises(SecretError, fetch, "prod/nothing", REGION)
        self.assertIn("ResourceNotFoundException", str(error))
        self.manager.create_secret(Name="prod/gone", SecretString=json.dumps(RDS))
        self.manager.delete_secret(SecretId="prod/gone")
        self.assertRaises(SecretError, fetch, "prod/gone", REGION)

    def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        log_in(self, AWS_ENDPOINT_URL_SECRETS_MANAGER=f"http://127.0.0.1:{port}")
        self.assertRaises(StoreUnavailableError, fetch, "prod/db", REGION)

    def test_it_is_what_a_connection_asks_for(self) -> None:
        self.manager.create_secret(Name="prod/db", SecretString=json.dumps(RDS))
        where = target("db.example", refresh=partial(fetch, "prod/db", REGION))
        assert where.login is not None
        where.login.other_than(None)
        given = where.arguments()
        self.assertEqual(
            (given["host"], given["port"], given["user"], given["password"], given["dbname"]),
            ("db.example", "5432", "beast", PASSWORD, "CPMP_Backend_Aurora"),
        )

    def test_no_region(self) -> None:
        self.assertRaises(SecretError, fetch, "prod/db", None)
