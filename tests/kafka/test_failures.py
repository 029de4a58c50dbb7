"""Brokers that die and restart while clients send and read."""

import asyncio
import json
import threading

import aiokafka
import confluent_kafka
import confluent_kafka.admin
import kafka
import kafka.admin
import pytest

from cluster import SOON_S, until

KEYS = 20


class Load(threading.Thread):
    """One idempotent producer that sends records, numbered for each key, until it is told to stop."""

    def __init__(self, bootstrap, topic):
        super().__init__(daemon=True)
        self.bootstrap, self.topic = bootstrap, topic
        self.stopping = threading.Event()
        self.sent, self.failures = 0, []
        # (key, number) -> (partition, offset)
        self.acknowledged = {}

    def run(self):
        try:
            self.send_all()
        except Exception as failure:
            self.failures.append(failure)

    def next(self):
        number = self.sent
        self.sent += 1
        return b"%d" % (number % KEYS), b"%d" % (number // KEYS)

    def waiting(self):
        return self.sent - len(self.acknowledged) - len(self.failures)

    def until_acknowledged(self, more):
        """Waits until so many more are acknowledged, from now on."""
        count = len(self.acknowledged) + more

        def check():
            assert not self.failures, self.failures[:3]
            return len(self.acknowledged) >= count

        until(f"{more} more records acknowledged", check, 60)

    def end(self):
        self.stopping.set()
        self.join(90)
        assert not self.is_alive(), "the producer did not end"
        assert not self.failures, self.failures[:3]
        assert len(self.acknowledged) == self.sent


class ConfluentLoad(Load):
    def send_all(self):
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 2, "delivery.timeout.ms": 60_000}
        )
        while not self.stopping.is_set():
            if self.waiting() < 500:
                key, value = self.next()

                def settle(error, message, place=(key, value)):
                    if error is not None:
                        self.failures.append(error)
                    else:
                        self.acknowledged[place] = (message.partition(), message.offset())

                producer.produce(self.topic, value, key, on_delivery=settle)
            producer.poll(0 if self.waiting() < 500 else 0.01)
        assert producer.flush(60) == 0


class KafkaPythonLoad(Load):
    def send_all(self):
        producer = kafka.KafkaProducer(
            bootstrap_servers=self.bootstrap.split(","), enable_idempotence=True, linger_ms=2, delivery_timeout_ms=60_000
        )
        open_ones = threading.Semaphore(500)

        def settled(place):
            def settle(it):
                self.acknowledged[place] = (it.partition, it.offset)
                open_ones.release()

            return settle

        def failed(error):
            self.failures.append(error)
            open_ones.release()

        while not self.stopping.is_set():
            if open_ones.acquire(timeout=0.1):
                key, value = self.next()
                future = producer.send(self.topic, value, key)
                future.add_callback(settled((key, value)))
                future.add_errback(failed)
        producer.flush(60)
        producer.close(10)


class AioKafkaLoad(Load):
    def send_all(self):
        asyncio.run(self.send_in_loop())

    async def send_in_loop(self):
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap.split(","), enable_idempotence=True, linger_ms=2, request_timeout_ms=60_000
        )
        await producer.start()
        open_ones = asyncio.Semaphore(500)

        def settled(place):
            def settle(future):
                open_ones.release()
                if future.exception() is not None:
                    self.failures.append(future.exception())
                else:
                    self.acknowledged[place] = (future.result().partition, future.result().offset)

            return settle

        while not self.stopping.is_set():
            await open_ones.acquire()
            key, value = self.next()
            future = await producer.send(self.topic, value, key)
            future.add_done_callback(settled((key, value)))
        await producer.stop()


LOADS = {"confluent-kafka": ConfluentLoad, "kafka-python": KafkaPythonLoad, "aiokafka": AioKafkaLoad}


@pytest.fixture
def load(library, cluster, new_topic):
    """A producer at work, of each library, and a topic with one partition led by each broker or more."""
    running = LOADS[library.name](cluster.kafka, new_topic(6))
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


def check_log(library, load):
    """Nothing acknowledged is missing, nothing is there twice, and each key's records are in order."""
    ends = {it: library.ends(load.topic, it)[1] for it in range(6)}
    got = library.consume(load.topic, {it: 0 for it, end in ends.items() if end}, sum(ends.values()))
    assert len(got) == load.sent, "each record once"
    assert {(it.key, it.value): (it.partition, it.offset) for it in got} == load.acknowledged
    by_key = {}
    for it in sorted(got, key=lambda it: it.offset):
        by_key.setdefault(it.key, []).append(int(it.value))
    for key, values in by_key.items():
        assert values == list(range(len(values))), f"key {key} is out of order"


def test_a_killed_leader_loses_nothing_acknowledged_and_leaves_nothing_twice(cluster, library, load):
    load.until_acknowledged(1000)
    leader = cluster.leader(load.topic)
    cluster.brokers[leader].kill()
    load.until_acknowledged(2000)
    assert leader not in cluster.in_service()
    cluster.brokers[leader].start()
    until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
    load.until_acknowledged(1000)
    load.end()
    check_log(library, load)
    until("all replicas in sync", lambda: all_in_sync(cluster, load.topic))


def test_a_rolling_restart_fails_no_request_of_a_client(cluster, library, load):
    reader = Reader(library, load.topic)
    reader.start()
    for broker in cluster.brokers.values():
        load.until_acknowledged(500)
        broker.stop()
        load.until_acknowledged(500)
        broker.start()
        until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
        until("all replicas in sync", lambda: all_in_sync(cluster, load.topic))
    load.end()
    check_log(library, load)
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


class Transactions(threading.Thread):
    """A transactional producer by librdkafka that writes a record to each partition in each transaction, and aborts each third."""

    def __init__(self, bootstrap, topic, name):
        super().__init__(daemon=True)
        self.topic, self.stopping = topic, threading.Event()
        config = {"bootstrap.servers": bootstrap, "transactional.id": name, "linger.ms": 1}
        self.producer = confluent_kafka.Producer({**config, "transaction.timeout.ms": 60_000})
        self.committed, self.aborted, self.failure = [], [], None

    def run(self):
        try:
            self.settle(self.producer.init_transactions)
            number = 0
            while not self.stopping.is_set():
                self.write(number)
                number += 1
        except Exception as failure:
            self.failure = failure

    def write(self, number):
        self.producer.begin_transaction()
        try:
            for partition in range(6):
                self.producer.produce(self.topic, b"%d" % number, partition=partition)
            if number % 3 < 2:
                self.settle(self.producer.commit_transaction)
                return self.committed.append(number)
        except confluent_kafka.KafkaException as failure:
            if not failure.args[0].txn_requires_abort():
                raise
        self.settle(self.producer.abort_transaction)
        self.aborted.append(number)

    def settle(self, step):
        """A step that was not done in time is asked for again, as librdkafka says: it is the same one."""
        while True:
            try:
                return step(10)
            except confluent_kafka.KafkaException as failure:
                if not failure.args[0].retriable():
                    raise

    def until_committed(self, more):
        count = len(self.committed) + more

        def check():
            assert self.failure is None, self.failure
            return len(self.committed) >= count

        until(f"{more} more transactions", check, 60)

    def end(self):
        self.stopping.set()
        self.join(90)
        assert not self.is_alive(), "the producer did not end"
        assert self.failure is None, self.failure


def all_committed(bootstrap, topic):
    """What readers of committed records see up to the end, by partition."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, it, 0) for it in range(6)])
    values, at_end = {it: [] for it in range(6)}, set()
    while len(at_end) < 6:
        for it in consumer.consume(1000, timeout=1):
            if it.error() is None:
                values[it.partition()].append(int(it.value()))
            else:
                assert it.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, it.error()
                at_end.add(it.partition())
    consumer.close()
    return values


@pytest.mark.parametrize("who", ["leader", "coordinator"])
def test_transactions_are_whole_or_not_at_all_when_brokers_are_killed(cluster, new_topic, who):
    topic, name = new_topic(6), f"killed-{who}"
    load = Transactions(cluster.kafka, topic, name)
    load.start()
    load.until_committed(50)
    if who == "leader":
        dead = cluster.leader(topic)
    else:
        dead = json.loads(cluster.command("transaction", "describe", name, "--output", "json"))["coordinator"]
    cluster.brokers[dead].kill()
    load.until_committed(100)
    assert dead not in cluster.in_service()
    cluster.brokers[dead].start()
    until("the broker back in service", lambda: cluster.in_service() == set(cluster.brokers))
    load.until_committed(50)
    load.end()
    assert load.aborted
    # In order, each once, none that was aborted; and none of them waits for an end.
    assert all_committed(cluster.kafka, topic) == dict.fromkeys(range(6), load.committed)


class Reader(threading.Thread):
    """Reads all partitions of a topic as records come, while brokers come and go; by librdkafka."""

    def __init__(self, library, topic):
        super().__init__(daemon=True)
        self.consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": library.bootstrap, "group.id": "unused", "enable.auto.commit": False}
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
