"""Producers at work, by each client, and what must be in the log when they are done."""

import asyncio
import collections
import subprocess
import threading

import aiokafka
import confluent_kafka
import kafka

from cluster import until

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
        return b"%d" % (number % KEYS), b"%010d" % (number // KEYS)

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


class KcatLoad(Load):
    """It tells only at its end that all was acknowledged: where its records are, another client reads."""

    def send_all(self):
        options = ["-X", "enable.idempotence=true", "-X", "linger.ms=2", "-X", "delivery.timeout.ms=60000"]
        command = ["kcat", "-P", "-b", self.bootstrap, "-t", self.topic, "-K", ":", *options]
        reader = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "unused", "enable.auto.commit": False}
        )
        reader.assign([confluent_kafka.TopicPartition(self.topic, it, 0) for it in range(6)])

        def read():
            for it in reader.consume(500, timeout=0.02):
                # That a broker is away is told, and overcome.
                if it.error() is None:
                    self.acknowledged[it.key(), it.value()] = (it.partition(), it.offset())

        with subprocess.Popen(command, stdin=subprocess.PIPE) as kcat:
            while not self.stopping.is_set():
                while self.waiting() < 500:
                    # It reads a kilobyte at a time: what waits must be more.
                    key, value = self.next()
                    kcat.stdin.write(b"%s:%s\n" % (key, value))
                kcat.stdin.flush()
                read()
            kcat.stdin.close()
            while kcat.poll() is None or (kcat.returncode == 0 and self.waiting()):
                read()
        reader.close()
        if kcat.returncode != 0:
            self.failures.append(f"kcat: exit code {kcat.returncode}")


LOADS = {"confluent-kafka": ConfluentLoad, "kafka-python": KafkaPythonLoad, "aiokafka": AioKafkaLoad, "kcat": KcatLoad}


def check_log(client, load):
    """Nothing acknowledged is missing, nothing is there twice, and each key's records are in order."""
    ends = {it: client.ends(load.topic, it)[1] for it in range(6)}
    got = client.consume(load.topic, {it: 0 for it, end in ends.items() if end}, sum(ends.values()))
    assert len(got) == load.sent, "each record once"
    assert {(it.key, it.value): (it.partition, it.offset) for it in got} == load.acknowledged
    by_key = {}
    for it in sorted(got, key=lambda it: it.offset):
        by_key.setdefault(it.key, []).append(int(it.value))
    for key, values in by_key.items():
        assert values == list(range(len(values))), f"key {key} is out of order"


class Transactions(threading.Thread):
    """A transactional producer that writes one number to each partition in each transaction, and aborts each third."""

    def __init__(self, bootstrap, topic, name):
        super().__init__(daemon=True)
        self.bootstrap, self.topic, self.name_of_its_own = bootstrap, topic, name
        self.stopping = threading.Event()
        self.committed, self.aborted, self.failure = [], [], None

    def run(self):
        try:
            self.write_all()
        except Exception as failure:
            self.failure = failure

    def until_committed(self, more):
        count = len(self.committed) + more

        def check():
            assert self.failure is None, (type(self).__name__, self.failure)
            return len(self.committed) >= count

        until(f"{more} more transactions of {type(self).__name__}", check, 60)

    def end(self):
        self.stopping.set()
        self.join(90)
        assert not self.is_alive(), "the producer did not end"
        assert self.failure is None, self.failure

    def check_log(self):
        """In order, each once, none that was aborted; and none of them waits for an end."""
        assert self.aborted
        assert all_committed(self.bootstrap, self.topic) == dict.fromkeys(range(6), self.committed)


class ConfluentTransactionLoad(Transactions):
    def write_all(self):
        config = {"bootstrap.servers": self.bootstrap, "transactional.id": self.name_of_its_own, "linger.ms": 1}
        producer = confluent_kafka.Producer({**config, "transaction.timeout.ms": 60_000})
        self.settle(producer.init_transactions)
        number = 0
        while not self.stopping.is_set():
            self.write(producer, number)
            number += 1

    def write(self, producer, number):
        producer.begin_transaction()
        try:
            for partition in range(6):
                producer.produce(self.topic, b"%d" % number, partition=partition)
            if number % 3 < 2:
                self.settle(producer.commit_transaction)
                return self.committed.append(number)
        except confluent_kafka.KafkaException as failure:
            if not failure.args[0].txn_requires_abort():
                raise
        self.settle(producer.abort_transaction)
        self.aborted.append(number)

    def settle(self, step):
        """A step that was not done in time is asked for again, as librdkafka says: it is the same one."""
        while True:
            try:
                return step(10)
            except confluent_kafka.KafkaException as failure:
                if not failure.args[0].retriable():
                    raise


class KafkaPythonTransactionLoad(Transactions):
    def write_all(self):
        producer = kafka.KafkaProducer(
            bootstrap_servers=self.bootstrap.split(","),
            transactional_id=self.name_of_its_own,
            transaction_timeout_ms=60_000,
            max_block_ms=60_000,
        )
        producer.init_transactions()
        number = 0
        while not self.stopping.is_set():
            producer.begin_transaction()
            try:
                for partition in range(6):
                    producer.send(self.topic, b"%d" % number, partition=partition)
                if number % 3 < 2:
                    producer.commit_transaction()
                    self.committed.append(number)
                else:
                    raise Unwanted
            except (Unwanted, kafka.errors.KafkaError):
                producer.abort_transaction()
                self.aborted.append(number)
            number += 1
        producer.close(timeout=10)


class AioKafkaTransactionLoad(Transactions):
    def write_all(self):
        asyncio.run(self.write_in_loop())

    async def write_in_loop(self):
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap.split(","),
            transactional_id=self.name_of_its_own,
            transaction_timeout_ms=60_000,
            request_timeout_ms=60_000,
        )
        await producer.start()
        number = 0
        while not self.stopping.is_set():
            await producer.begin_transaction()
            try:
                for partition in range(6):
                    await producer.send(self.topic, b"%d" % number, partition=partition)
                if number % 3 < 2:
                    await producer.commit_transaction()
                    self.committed.append(number)
                else:
                    raise Unwanted
            except (Unwanted, aiokafka.errors.KafkaError):
                await producer.abort_transaction()
                self.aborted.append(number)
            number += 1
        await producer.stop()


class Unwanted(Exception):
    """A transaction that its producer aborts by itself."""


class KcatTransactionLoad(Transactions):
    """Each transaction is a run of it: it commits what it was given when that ends, and aborts when it is told to end."""

    def write_all(self):
        command = ["kcat", "-P", "-b", self.bootstrap, "-t", self.topic, "-X", f"transactional.id={self.name_of_its_own}"]
        # How long it tries to begin and to end a transaction.
        command += ["-X", "transaction.timeout.ms=60000", "-m", "60"]
        self.doubtful, number = set(), 0
        while not self.stopping.is_set():
            with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as kcat:
                kcat.stdin.write(b"%d\n" % number * SPREAD)
                if number % 3 < 2:
                    kcat.communicate()
                    # Otherwise nobody knows; the next one of the name has an end made of it.
                    (self.committed.append if kcat.returncode == 0 else self.doubtful.add)(number)
                else:
                    kcat.stdin.flush()
                    kcat.terminate()
                    kcat.communicate()
                    self.aborted.append(number)
            number += 1

    def check_log(self):
        assert self.aborted
        found = collections.Counter()
        for values in all_committed(self.bootstrap, self.topic).values():
            assert values == sorted(values)
            found.update(values)
        assert all(count == SPREAD for count in found.values()), found
        assert set(self.committed) <= set(found) <= set(self.committed) | self.doubtful


# Records of one transaction of kcat's, which it spreads over the partitions.
SPREAD = 30
TRANSACTION_LOADS = {
    "confluent-kafka": ConfluentTransactionLoad,
    "kafka-python": KafkaPythonTransactionLoad,
    "aiokafka": AioKafkaTransactionLoad,
    "kcat": KcatTransactionLoad,
}


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
