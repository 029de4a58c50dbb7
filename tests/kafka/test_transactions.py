"""Transactions of each client: whole or not at all, and no zombies."""

import asyncio
import json
import subprocess
import time

import aiokafka
import confluent_kafka
import kafka
import pytest

from clients import CLIENTS, Confluent, Kcat, Record
from cluster import SOON_S, until


class ConfluentTransactions:
    """A transactional producer; each step waits until it is done."""

    fenced = confluent_kafka.KafkaException

    def __init__(self, bootstrap, name):
        self.bootstrap = bootstrap
        config = {"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 0}
        self.producer = confluent_kafka.Producer({**config, "transaction.timeout.ms": 30_000})
        self.producer.init_transactions(SOON_S)

    def begin(self):
        self.producer.begin_transaction()

    def send(self, topic, partition, value):
        failures = []
        self.producer.produce(topic, value, partition=partition, on_delivery=lambda error, _: failures.append(error))
        self.producer.flush(SOON_S)
        if failures != [None]:
            raise confluent_kafka.KafkaException(failures[0])

    def send_offsets(self, group, topic, offsets):
        # The metadata of a consumer that is no member.
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        at = [confluent_kafka.TopicPartition(topic, it, offset) for it, offset in offsets.items()]
        self.producer.send_offsets_to_transaction(at, consumer.consumer_group_metadata(), SOON_S)
        consumer.close()

    def commit(self):
        self.producer.commit_transaction(SOON_S)

    def abort(self):
        self.producer.abort_transaction(SOON_S)

    def close(self):
        pass


class KafkaPythonTransactions:
    fenced = kafka.errors.KafkaError

    def __init__(self, bootstrap, name):
        self.producer = kafka.KafkaProducer(
            bootstrap_servers=bootstrap.split(","), transactional_id=name, transaction_timeout_ms=30_000, max_block_ms=SOON_S * 1000
        )
        self.producer.init_transactions()

    def begin(self):
        self.producer.begin_transaction()

    def send(self, topic, partition, value):
        self.producer.send(topic, value, partition=partition).get(SOON_S)

    def send_offsets(self, group, topic, offsets):
        at = {kafka.TopicPartition(topic, it): kafka.OffsetAndMetadata(offset, "", -1) for it, offset in offsets.items()}
        self.producer.send_offsets_to_transaction(at, group)

    def commit(self):
        self.producer.commit_transaction()

    def abort(self):
        self.producer.abort_transaction()

    def close(self):
        self.producer.close(timeout=5)


class AioKafkaTransactions:
    fenced = aiokafka.errors.KafkaError

    def __init__(self, bootstrap, name):
        self.loop = asyncio.new_event_loop()

        async def start():
            producer = aiokafka.AIOKafkaProducer(
                bootstrap_servers=bootstrap.split(","), transactional_id=name, transaction_timeout_ms=30_000
            )
            await producer.start()
            return producer

        self.producer = self.wait(start())

    def wait(self, what):
        return self.loop.run_until_complete(asyncio.wait_for(what, SOON_S))

    def begin(self):
        self.wait(self.producer.begin_transaction())

    def send(self, topic, partition, value):
        self.wait(self.producer.send_and_wait(topic, value, partition=partition))

    def send_offsets(self, group, topic, offsets):
        at = {aiokafka.TopicPartition(topic, it): offset for it, offset in offsets.items()}
        self.wait(self.producer.send_offsets_to_transaction(at, group))

    def commit(self):
        self.wait(self.producer.commit_transaction())

    def abort(self):
        self.wait(self.producer.abort_transaction())

    def close(self):
        try:
            self.wait(self.producer.stop())
        except aiokafka.errors.KafkaError:
            # A fenced one can't even end well.
            pass
        self.loop.close()


PRODUCERS = {
    "confluent-kafka": ConfluentTransactions,
    "kafka-python": KafkaPythonTransactions,
    "aiokafka": AioKafkaTransactions,
}


@pytest.fixture
def transactions(library):
    """Makes transactional producers of the library."""
    made = []

    def make(name):
        producer = PRODUCERS[library.name](library.bootstrap, f"{name}-{library.name}")
        made.append(producer)
        return producer

    yield make
    for producer in made:
        producer.close()


def test_transactions_are_seen_whole_or_not_at_all(cluster, clients, transactions, new_topic):
    topic = new_topic(2)
    producer = transactions("whole")
    for n in range(6):
        producer.begin()
        for partition in (0, 1):
            producer.send(topic, partition, b"%d" % n)
        (producer.abort if n % 3 == 1 else producer.commit)()
    for reader in clients:
        got = reader.consume(topic, {0: 0, 1: 0}, 12)
        assert sorted(int(it.value) for it in got) == sorted([*range(6)] * 2), reader.name
        got = reader.consume(topic, {0: 0, 1: 0}, 8, committed_only=True)
        assert sorted(int(it.value) for it in got) == sorted([0, 2, 3, 5] * 2), reader.name
    lines = cluster.command("consume", topic, "--committed", "--until-end", "--format", "json").splitlines()
    assert sorted(int(json.loads(line)["value"]) for line in lines) == sorted([0, 2, 3, 5] * 2)


def test_what_is_not_decided_is_not_seen_by_those_who_read_what_is_committed(library, transactions, new_topic):
    topic = new_topic()
    producer, other = transactions("open"), transactions("other")
    producer.begin()
    producer.send(topic, 0, b"open")
    other.begin()
    other.send(topic, 0, b"behind it")
    other.commit()
    assert [it.value for it in library.consume(topic, {0: 0}, 2)][:2] == [b"open", b"behind it"]
    consumer = Confluent(library.bootstrap).consumer(**{"isolation.level": "read_committed"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    # The end, as it sees it: before the first open transaction.
    assert consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0), timeout=SOON_S)[1] == 0
    producer.commit()
    seen = []
    until("both", lambda: seen.extend(it.value() for it in consumer.consume(10, 0.2)) or len(seen) == 2)
    assert seen == [b"open", b"behind it"]
    consumer.close()


def test_a_new_producer_of_the_same_name_fences_the_old_one_and_aborts_what_it_left_open(library, transactions, new_topic):
    topic = new_topic()
    old = transactions("fenced")
    old.begin()
    old.send(topic, 0, b"of the old one")
    new = transactions("fenced")
    new.begin()
    new.send(topic, 0, b"of the new one")
    with pytest.raises(old.fenced) as failure:
        old.send(topic, 0, b"of a zombie")
        old.commit()
    assert any(word in repr(failure.value).lower() for word in ("fenced", "epoch")), failure.value
    new.commit()
    got = library.consume(topic, {0: 0}, 1, committed_only=True)
    assert [it.value for it in got] == [b"of the new one"]


def test_offsets_move_with_the_transaction_they_are_part_of(library, transactions, new_topic):
    topic, group = new_topic(2), f"group-of-{library.name}"
    source = new_topic(2)
    library.produce(source, [Record(b"%d" % n, partition=n % 2) for n in range(20)])

    def committed():
        consumer = Confluent(library.bootstrap).consumer(**{"group.id": group})
        asked = [confluent_kafka.TopicPartition(source, it) for it in (0, 1)]
        found = [it.offset for it in consumer.committed(asked, timeout=SOON_S)]
        consumer.close()
        return found

    producer = transactions("offsets")
    producer.begin()
    producer.send(topic, 0, b"result")
    producer.send_offsets(group, source, {0: 3, 1: 4})
    producer.abort()
    assert committed() == [confluent_kafka.OFFSET_INVALID] * 2
    producer.begin()
    producer.send(topic, 1, b"result")
    producer.send_offsets(group, source, {0: 5, 1: 6})
    producer.commit()
    until("the offsets", lambda: committed() == [5, 6])


def test_kcat_sends_in_a_transaction_and_is_fenced_by_the_next_of_its_name(cluster, new_topic):
    topic = new_topic()
    Kcat(cluster.kafka).run("-P", "-t", topic, "-X", "transactional.id=kcat", stdin=b"1\n2\n3\n")
    for reader in CLIENTS.values():
        got = reader(cluster.kafka).consume(topic, {0: 0}, 3, committed_only=True)
        assert [it.value for it in got] == [b"1", b"2", b"3"]
    # One that is at it, with more than kcat reads at a time; and another one before it ends.
    command = ["kcat", "-P", "-b", cluster.kafka, "-t", topic, "-X", "transactional.id=kcat", "-X", "linger.ms=0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as old:
        old.stdin.write(b"of the old one\n" * 200)
        old.stdin.flush()
        Confluent(cluster.kafka).consume(topic, {0: 4}, 100)
        Kcat(cluster.kafka).run("-P", "-t", topic, "-X", "transactional.id=kcat", stdin=b"4\n")
        _, said = old.communicate(timeout=SOON_S)
        assert old.returncode != 0 and b"fenced" in said.lower(), said
    for reader in CLIENTS.values():
        got = reader(cluster.kafka).consume(topic, {0: 0}, 4, committed_only=True)
        assert [it.value for it in got] == [b"1", b"2", b"3", b"4"]


def test_administrators_see_transactions(cluster, new_topic):
    topic = new_topic()
    producer = KafkaPythonTransactions(cluster.kafka, "seen")
    producer.begin()
    producer.send(topic, 0, b"v")
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=cluster.kafka.split(","))
    listed = [it for of_broker in admin.list_transactions().values() for it in of_broker]
    [found] = [it for it in listed if it.transactional_id == "seen"]
    assert found.state == kafka.admin.TransactionState.ONGOING
    [described] = admin.describe_transactions(["seen"]).values()
    assert kafka.TopicPartition(topic, 0) in described.topic_partitions
    producer.abort()
    admin.close()
    producer.close()


def test_librdkafka_may_abort_right_behind_a_commit(cluster, new_topic):
    """While the commit's markers are written: what it adds to the next transaction then must not be told to come again, for it does not."""
    topic = new_topic(6)
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.kafka, "transactional.id": topic, "linger.ms": 0})
    producer.init_transactions(SOON_S)
    for number in range(300):
        for ends, value in (producer.commit_transaction, b"whole"), (producer.abort_transaction, b"gone"):
            producer.begin_transaction()
            for partition in range(6):
                producer.produce(topic, value, partition=partition)
            if value == b"gone":
                # From before the request that adds the partitions to after its answer.
                time.sleep(number % 30 / 2_000)
            ends(SOON_S)
    got = Confluent(cluster.kafka).consume(topic, {it: 0 for it in range(6)}, 1800, committed_only=True)
    assert {it.value for it in got} == {b"whole"}
