"""Brokers that die and restart while clients send and read."""

import json
import threading

import confluent_kafka
import confluent_kafka.admin
import kafka.admin
import pytest

from cluster import SOON_S, until
from loads import LOADS, TRANSACTION_LOADS, check_log


@pytest.fixture
def load(client, cluster, new_topic):
    """A producer at work, of each client, and a topic with one partition led by each broker or more."""
    running = LOADS[client.name](cluster.kafka, new_topic(6))
    running.start()
    yield running
    running.stopping.set()


@pytest.fixture(autouse=True)
def all_up(cluster):
    """Leaves no broker down, whatever became of the test."""
    yield
    for broker in cluster.brokers.values():
        if broker.process.poll() is not None:
            broker.start()
    until("all brokers in service", lambda: cluster.in_service() == set(cluster.brokers))


def test_a_killed_leader_loses_nothing_acknowledged_and_leaves_nothing_twice(cluster, client, load):
    load.until_acknowledged(1000)
    leader = cluster.leader(load.topic)
    cluster.brokers[leader].kill()
    load.until_acknowledged(2000)
    assert leader not in cluster.in_service()
    cluster.brokers[leader].start()
    until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
    load.until_acknowledged(1000)
    load.end()
    check_log(client, load)
    until("all replicas in sync", lambda: all_in_sync(cluster, load.topic))


def test_a_rolling_restart_fails_no_request_of_a_client(cluster, client, load):
    reader = Reader(cluster.kafka, load.topic)
    reader.start()
    for broker in cluster.brokers.values():
        load.until_acknowledged(500)
        broker.stop()
        load.until_acknowledged(500)
        broker.start()
        until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
        until("all replicas in sync", lambda: all_in_sync(cluster, load.topic))
    load.end()
    check_log(client, load)
    reader.end(load.sent)


@pytest.mark.parametrize("name", ["confluent-kafka", "kafka-python"])
def test_leadership_goes_back_where_it_is_preferred_when_an_administrator_asks(cluster, new_topic, name):
    topic = new_topic()
    preferred = cluster.describe(topic)["partitions"][0]["replicas"][0]
    assert cluster.leader(topic) == preferred
    cluster.brokers[preferred].stop()
    until("another leader", lambda: cluster.leader(topic) not in (None, preferred))
    cluster.brokers[preferred].start()
    until("all replicas in sync", lambda: all_in_sync(cluster, topic))
    if name == "confluent-kafka":
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.kafka})
        at = confluent_kafka.TopicPartition(topic, 0)
        asked = admin.elect_leaders(confluent_kafka.ElectionType.PREFERRED, [at])
        [outcome] = asked.result(SOON_S).values()
        assert outcome is None, outcome
    else:
        admin = kafka.admin.KafkaAdminClient(bootstrap_servers=cluster.kafka.split(","))
        admin.elect_leaders(0, {topic: [0]})
        admin.close()
    # Within a second, so not by the controller's own turn.
    assert cluster.leader(topic) == preferred


def test_transactions_are_whole_or_not_at_all_when_brokers_are_killed(cluster, new_topic):
    """Each broker in turn: so the leader of some partition of every producer's, and every producer's coordinator."""
    loads = {name: kind(cluster.kafka, new_topic(6), f"killed-{name}") for name, kind in TRANSACTION_LOADS.items()}
    for it in loads.values():
        it.start()

    def end(name):
        load = loads.pop(name)
        load.until_committed(10)
        load.end()
        load.check_log()

    def coordinator(name):
        return json.loads(cluster.command("transaction", "describe", f"killed-{name}", "--output", "json"))["coordinator"]

    for it in loads.values():
        it.until_committed(10)
    # kafka-python 3.0.12 loses the request that ends a transaction where it can't connect to its coordinator, and waits for ever:
    # it is at work for as long as that one lives.
    for number in sorted(cluster.brokers, key=lambda it: it == coordinator("kafka-python")):
        if "kafka-python" in loads and number == coordinator("kafka-python"):
            end("kafka-python")
        broker = cluster.brokers[number]
        broker.kill()
        for it in loads.values():
            it.until_committed(20)
        assert number not in cluster.in_service()
        broker.start()
        until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
        until("all replicas in sync", lambda: all(all_in_sync(cluster, it.topic) for it in loads.values()))
    for name in list(loads):
        end(name)


class Reader(threading.Thread):
    """Reads all partitions of a topic as records come, while brokers come and go; by librdkafka."""

    def __init__(self, bootstrap, topic):
        super().__init__(daemon=True)
        self.consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False}
        )
        self.consumer.assign([confluent_kafka.TopicPartition(topic, it, 0) for it in range(6)])
        self.seen, self.offsets, self.stopping = 0, {}, threading.Event()
        self.failures = []

    def run(self):
        while not self.stopping.is_set():
            for it in self.consumer.consume(500, timeout=0.2):
                if it.error() is not None:
                    # That a broker is away is told, and overcome.
                    if not it.error().retriable() and it.error().code() != confluent_kafka.KafkaError._ALL_BROKERS_DOWN:
                        self.failures.append(it.error())
                    continue
                if it.offset() != self.offsets.get(it.partition(), -1) + 1:
                    self.failures.append((it.partition(), it.offset(), self.offsets.get(it.partition())))
                self.offsets[it.partition()] = it.offset()
                self.seen += 1
        self.consumer.close()

    def end(self, count):
        until(f"{count} records read", lambda: self.seen >= count)
        self.stopping.set()
        self.join(30)
        assert not self.failures, self.failures[:5]
        assert self.seen == count


def all_in_sync(cluster, topic):
    return all(len(it["isr"]) == 3 for it in cluster.describe(topic)["partitions"])
