"""Something that speaks like AWS, on this machine: moto's server, and the credentials it is content with."""

from __future__ import annotations

import os
from logging import WARNING, getLogger
from typing import Any
from urllib.request import Request, urlopen

import boto3
from moto.server import ThreadedMotoServer
from moto.sqs.models import Queue
from twisted.trial.unittest import SynchronousTestCase

REGION = "us-east-1"
LOGIN = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}


# moto goes through a set that another of its threads is adding to
Queue.pending_message_groups = property(
    lambda queue: {message.group_id for message in queue.pending_messages.copy() if message.group_id is not None}
)


class AwsServer:
    """One server, with queues and secrets in its memory.

    @ivar url: its root.
    """

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        getLogger("werkzeug").setLevel(WARNING)  # it has a line for every question
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        # what is in its memory outlives the server
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST"), timeout=20).close()

    def stop(self) -> None:
        """End it."""
        self._server.stop()

    def client(self, service: str) -> Any:
        """A client of ours, for looking at what is there."""
        if service not in self._clients:
            session = boto3.session.Session(LOGIN["AWS_ACCESS_KEY_ID"], LOGIN["AWS_SECRET_ACCESS_KEY"])
            self._clients[service] = session.client(service, region_name=REGION, endpoint_url=self.url)
        return self._clients[service]

    def queue(self, name: str, **attributes: str) -> str:
        """Make a queue; give its URL."""
        url: str = self.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url


def log_in(case: SynchronousTestCase, **more: str) -> None:
    """Have the environment hold the credentials for as long as C{case} runs, and nothing else of AWS."""
    before = {name: text for name, text in os.environ.items() if name.startswith("AWS_") or name == "NO_PROXY"}

    def restore() -> None:
        for name in [name for name in os.environ if name.startswith("AWS_") or name == "NO_PROXY"]:
            del os.environ[name]
        os.environ.update(before)

    case.addCleanup(restore)
    for name in before:
        del os.environ[name]
    os.environ.update({**LOGIN, **more})
