"""The Java client, where its packages are (jvm.py)."""

import re
import subprocess

import pytest

from cluster import SOON_S, until
from jvm import JARS, SOURCE, Java

CHECKS = re.findall(r'CHECKS\.put\("([\w-]+)"', SOURCE.read_text())

pytestmark = pytest.mark.skipif(not JARS, reason="HIGHWATER_KAFKA_CLIENTS_JARS is not set")


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    return Java(tmp_path_factory.mktemp("classes"))


@pytest.mark.parametrize("check", CHECKS)
def test_java_client(cluster, java, check):
    command = java.command(cluster.kafka, "java", check)
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_java_client_while_every_broker_in_turn_is_killed(cluster, java):
    command = java.command(cluster.kafka, "java-killed", "load")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:

        def rounds(count):
            """So many more."""
            seen = []
            for line in load.stdout:
                seen.append(line)
                count -= line.startswith("round ")
                if count == 0:
                    return
            raise AssertionError("".join(seen[-60:]))

        rounds(20)
        for broker in cluster.brokers.values():
            broker.kill()
            rounds(20)
            broker.start()
            until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
            rounds(20)
        load.stdin.close()
        rest = load.stdout.read()
        assert load.wait(timeout=4 * SOON_S) == 0, rest[-3000:]
