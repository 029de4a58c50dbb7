"""What the tests share: one cluster of three brokers, and a topic for each test."""

import itertools
import re
from pathlib import Path

import pytest

from clients import CLIENTS, LIBRARIES
from cluster import Cluster

PORT = 24092


def pytest_addoption(parser):
    parser.addoption("--binary", required=True, help="the highwater to test")


@pytest.fixture(scope="session")
def binary(request):
    return Path(request.config.getoption("--binary")).resolve()


@pytest.fixture(scope="session")
def cluster(binary, tmp_path_factory):
    running = Cluster(binary, tmp_path_factory.mktemp("cluster"), PORT)
    for broker in running.brokers.values():
        broker.configure("node", metrics_listen=f"127.0.0.1:{int(broker.kafka.split(':')[1]) + 40}")
    try:
        running.start()
        yield running
    finally:
        running.end()


numbers = itertools.count()


@pytest.fixture
def new_topic(cluster, request):
    """Makes topics by the native door, which none of the tested clients is."""

    def make(partitions=1, **configs):
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", request.node.name) + f"-{next(numbers)}"
        options = [it for key, value in configs.items() for it in ("--config", f"{key.replace('_', '.')}={value}")]
        cluster.command("topic", "create", name, "-p", partitions, "-r", 3, *options)
        return name

    return make


@pytest.fixture(params=CLIENTS)
def client(request, cluster):
    """Each client in turn, kcat too."""
    return CLIENTS[request.param](cluster.kafka)


@pytest.fixture(params=LIBRARIES)
def library(request, cluster):
    """Each client that is a library."""
    return LIBRARIES[request.param](cluster.kafka)


@pytest.fixture
def clients(cluster):
    """All of them at once."""
    return [it(cluster.kafka) for it in CLIENTS.values()]
