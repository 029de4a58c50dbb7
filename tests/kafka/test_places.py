"""Where clients are: the racks they read from (KIP-392), and the listeners they come in by."""

import queue
import re
import subprocess
import tempfile
import threading

import confluent_kafka
import kafka
import pytest

from clients import CLIENTS, Confluent, KafkaPython, Record, flatten, take
from cluster import SOON_S, Cluster, until
from conftest import PORT
from jvm import JARS, Java

OUTER = 20


@pytest.fixture(scope="module")
def placed(binary, tmp_path_factory):
    """Each broker in a rack of its own, with two listeners, each of which clients know by another host."""
    running = Cluster(binary, tmp_path_factory.mktemp("placed"), PORT + 60)
    for number, broker in running.brokers.items():
        inner = int(broker.kafka.split(":")[1])
        broker.configure("broker", rack=f"rack-{number}")
        broker.configure("node", metrics_listen=f"127.0.0.1:{inner + 2 * OUTER}")
        broker.configure(
            "kafka",
            listeners=[f"INTERNAL://127.0.0.1:{inner}", f"EXTERNAL://127.0.0.1:{inner + OUTER}"],
            advertised_listeners=[f"INTERNAL://127.0.0.1:{inner}", f"EXTERNAL://localhost:{inner + OUTER}"],
        )
    try:
        running.start()
        yield running
    finally:
        running.end()


def make(cluster, topic, partitions=1):
    cluster.command("topic", "create", topic, "-p", partitions, "-r", 3)
    until("all replicas in sync", lambda: all(len(it["isr"]) == 3 for it in cluster.describe(topic)["partitions"]))
    return topic


class ConfluentReader:
    def __init__(self, bootstrap, topic, rack):
        config = {"client.rack": rack, "fetch.wait.max.ms": 100}
        self.consumer = Confluent(bootstrap).consumer(**config)
        self.consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])

    def read(self, count):
        def poll():
            records = self.consumer.consume(1000, timeout=0.5)
            # That a broker is away is told, and overcome.
            return [it.value() for it in records if it.error() is None]

        return take(count, poll)

    def close(self):
        self.consumer.close()


class KafkaPythonReader:
    def __init__(self, bootstrap, topic, rack):
        self.consumer = KafkaPython(bootstrap).consumer(client_rack=rack, fetch_max_wait_ms=100, metadata_max_age_ms=1000)
        self.consumer.assign([kafka.TopicPartition(topic, 0)])
        self.consumer.seek(kafka.TopicPartition(topic, 0), 0)

    def read(self, count):
        return take(count, lambda: [it.value for it in flatten(self.consumer.poll(timeout_ms=500))])

    def close(self):
        self.consumer.close()


class ProcessReader:
    """A program that prints what comes."""

    def __init__(self, bootstrap, topic, rack):
        self.process = subprocess.Popen(self.command(bootstrap, topic, rack), stdout=subprocess.PIPE)
        self.lines = queue.SimpleQueue()
        threading.Thread(target=lambda: [self.lines.put(it[:-1]) for it in self.process.stdout], daemon=True).start()

    def read(self, count):
        return [self.lines.get(timeout=SOON_S) for _ in range(count)]

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=SOON_S)


class KcatReader(ProcessReader):
    def command(self, bootstrap, topic, rack):
        options = ["-X", f"client.rack={rack}", "-X", "fetch.wait.max.ms=100"]
        return ["kcat", "-C", "-b", bootstrap, *options, "-t", topic, "-p", "0", "-o", "0", "-u", "-q"]


class JavaReader(ProcessReader):
    def command(self, bootstrap, topic, rack):
        self.classes = tempfile.TemporaryDirectory()
        return Java(self.classes.name).command(bootstrap, "--follow", topic, rack)

    def close(self):
        super().close()
        self.classes.cleanup()


READERS = {"confluent-kafka": ConfluentReader, "kafka-python": KafkaPythonReader, "kcat": KcatReader}
if JARS:
    READERS["java"] = JavaReader


def kcat_waits_for_its_replica():
    """
    librdkafka before 2.1 stays with a replica that is gone, for its lease of five minutes, and says so with `-d topic`: "leader 1
    unchanged, not migrating away from preferred replica 2". It fetches from nobody meanwhile, and the metadata that it asks for,
    without the dead broker, changes nothing.
    """
    told = subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=True).stdout
    major, minor = re.search(r"librdkafka (\d+)\.(\d+)", told).groups()
    return (int(major), int(minor)) < (2, 1)


def given_out(cluster, topic):
    """How many records each broker gave to consumers."""
    return {number: it.metric("highwater_topic_records_out_total", topic=topic) for number, it in cluster.brokers.items()}


@pytest.mark.parametrize("name", READERS)
def test_consumers_read_from_the_replica_in_their_rack(placed, name):
    topic = make(placed, f"racks-{name}")
    leader = placed.leader(topic)
    near = next(it for it in placed.brokers if it != leader)
    reader = READERS[name](placed.kafka, topic, f"rack-{near}")
    sent = [Record(b"%d" % n, partition=0) for n in range(100)]
    Confluent(placed.kafka).produce(topic, sent)
    assert reader.read(100) == [it.value for it in sent]
    # Perhaps begun at the leader, which says who is nearer; from then on by that one alone.
    before = given_out(placed, topic)
    more = [Record(b"%d" % n, partition=0) for n in range(100, 200)]
    Confluent(placed.kafka).produce(topic, more)
    assert reader.read(100) == [it.value for it in more]
    after = given_out(placed, topic)
    assert {it: after[it] - before[it] for it in after} == {it: 100.0 if it == near else 0.0 for it in after}
    reader.close()


def test_consumers_go_back_to_the_leader_when_the_replica_in_their_rack_dies(placed):
    topic = make(placed, "racks-and-death")
    leader = placed.leader(topic)
    near = next(it for it in placed.brokers if it != leader)
    readers = {name: kind(placed.kafka, topic, f"rack-{near}") for name, kind in READERS.items()}
    waiting = {"kcat"} if kcat_waits_for_its_replica() else set()
    sent = [Record(b"%d" % n, partition=0) for n in range(200)]
    Confluent(placed.kafka).produce(topic, sent[:100])
    for name, reader in readers.items():
        assert reader.read(100) == [it.value for it in sent[:100]], name
    placed.brokers[near].kill()
    try:
        Confluent(placed.kafka).produce(topic, sent[100:])
        for name in readers.keys() - waiting:
            assert readers[name].read(100) == [it.value for it in sent[100:]], name
    finally:
        placed.brokers[near].start()
        until("the broker back in service", lambda: placed.in_service() == set(placed.brokers))
    for name in waiting:
        assert readers[name].read(100) == [it.value for it in sent[100:]], name
    for reader in readers.values():
        reader.close()


def test_a_rack_that_no_replica_is_in_reads_from_the_leader(placed):
    topic = make(placed, "racks-nowhere")
    leader = placed.leader(topic)
    Confluent(placed.kafka).produce(topic, [Record(b"%d" % n, partition=0) for n in range(10)])
    reader = ConfluentReader(placed.kafka, topic, "rack-nowhere")
    assert len(reader.read(10)) == 10
    assert given_out(placed, topic) == {it: 10.0 if it == leader else 0.0 for it in placed.brokers}
    reader.close()


@pytest.mark.parametrize("name", CLIENTS)
def test_each_listener_tells_of_its_own_addresses(placed, name):
    topic = make(placed, f"listeners-{name}", 6)
    inner = {number: it.kafka for number, it in placed.brokers.items()}
    outer = {number: f"localhost:{int(it.split(':')[1]) + OUTER}" for number, it in inner.items()}
    for bootstrap, advertised in (inner[1], inner), (outer[2], outer):
        told = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "g"}).list_topics(timeout=SOON_S).brokers
        assert {number: f"{it.host}:{it.port}" for number, it in told.items()} == advertised
    # All partitions, so by each broker's address of the listener.
    sent = [Record(b"%d" % n, partition=n // 10) for n in range(60)]
    CLIENTS[name](outer[3]).produce(topic, sent)
    for bootstrap in inner[2], outer[1]:
        got = CLIENTS[name](bootstrap).consume(topic, {it: 0 for it in range(6)}, 60)
        assert sorted(int(it.value) for it in got) == list(range(60))
