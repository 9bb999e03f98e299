"""The login of the database, from AWS Secrets Manager.

The rules. The secret is JSON with the names that RDS gives: C{username}, C{password}, and perhaps C{host}, C{port},
C{dbname}. A user or password that it lacks is taken from the database's URL. For the rest the URL goes first, which is
the business of whoever connects; so is keeping what was read, and asking again when a login was refused, since
passwords are rotated.

What waiting may mend (away, throttled, no credentials yet) is L{StoreUnavailableError}; what it will not mend (no such
secret, no leave to read it, not JSON) is L{SecretError}. No message holds any of the secret.

All of this blocks, each call for a limited time, and is done in the threads that connect to the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from tbeast.adapters.cloud.words import words_of
from tbeast.errors import StoreError, StoreUnavailableError

CONNECT_SECONDS: Final = 2
READ_SECONDS: Final = 5
TRIES: Final = 3

_FOR_GOOD: Final = (
    "ResourceNotFoundException", "AccessDeniedException", "InvalidRequestException", "InvalidParameterException",
    "ValidationException", "DecryptionFailure",
)  # fmt: skip


class SecretError(StoreError):
    """The secret is not there, not ours to read, or not what it must be; the message says which."""


@frozen
class Credentials:
    """What the secret says of the database; C{None}: it does not say.

    @ivar database: the database's name.
    """

    user: str
    password: str = field(repr=False)
    database: str | None = None
    host: str | None = None
    port: int | None = None


def secrets_client(region: str | None) -> Any:
    """A client of boto3, with credentials from where AWS's own tools find them.

    @param region: C{None}: as AWS's own settings say.
    """
    # imported here: it takes a third of a second and 30 MB, which a daemon without a secret need not pay
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
    )
    return boto3.session.Session().client("secretsmanager", region_name=region, config=config)


def fetch(
    name: str,
    region: str | None,
    url: str | None = None,
    make_client: Callable[[str | None], Any] = secrets_client,
) -> Credentials:
    """Ask for the secret's current version.

    @param name: its name or ARN; an ARN's region goes before C{region}.
    @param url: the database's URL or host, as set; gives the user and password that the secret lacks.
    @raise StoreUnavailableError: when there is no answer now.
    @raise SecretError: when there is none to be had, or no use in it.
    """
    arn = name.split(":")
    if arn[0] == "arn" and len(arn) > 3 and arn[3]:
        region = arn[3]
    try:
        answer = make_client(region).get_secret_value(SecretId=name)
    except Exception as error:  # botocore lets the errors of several other libraries through
        told = getattr(error, "response", None)
        code = told.get("Error", {}).get("Code") if isinstance(told, Mapping) else type(error).__name__
        for_good = code in _FOR_GOOD or code == "NoRegionError"
        raise (SecretError if for_good else StoreUnavailableError)(f"secret {name}: {words_of(error)}") from None
    return read(name, answer.get("SecretString") or answer.get("SecretBinary") or "", url)


def read(name: str, text: str | bytes, url: str | None = None) -> Credentials:
    """Read what the secret holds.

    @param name: what it is called in an error.
    @param url: see L{fetch}.
    @raise SecretError: when there is no use in it.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise SecretError(f"secret {name}: it is no JSON object with username and password")
    login = urlsplit(url) if url is not None and "://" in url else None
    user = _text(name, said, "username") or (unquote(login.username or "") if login else "")
    password = _text(name, said, "password") or (unquote(login.password or "") if login else "")
    for field_name, value in (("username", user), ("password", password)):
        if not value:
            raise SecretError(f"secret {name}: it has no {field_name}, and the URL of the database has none either")
    port = said.get("port") or None
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port[:6])
    if port is not None and not (type(port) is int and 0 < port < 65536):
        raise SecretError(f"secret {name}: its port is no port")
    return Credentials(user, password, _text(name, said, "dbname"), _text(name, said, "host"), port)


def _text(name: str, said: Mapping[str, Any], field_name: str) -> str | None:
    value = said.get(field_name)
    if value is not None and not isinstance(value, str):
        raise SecretError(f"secret {name}: its {field_name} is no text")
    return value or None
