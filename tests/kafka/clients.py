"""The Kafka clients behind one face, so that a test says once what must hold with each."""

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass, field

import aiokafka
import confluent_kafka
import kafka

from cluster import SOON_S

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
# The number of each in a batch's attributes.
CODEC_NUMBERS = {name: number for number, name in enumerate(CODECS)}
BIG = 32 << 20


@dataclass
class Record:
    """A record to send, and one that came back."""

    value: bytes | None
    key: bytes | None = None
    headers: list = field(default_factory=list)
    timestamp: int | None = None
    partition: int | None = None
    offset: int | None = None
    is_append_time: bool | None = None

    def content(self):
        return self.key, self.value, self.headers


class TooLarge(Exception):
    """The broker or the client refused a record for its size."""


class UnknownTopic(Exception):
    """There is no such topic."""


class Confluent:
    """librdkafka, by confluent-kafka."""

    name = "confluent-kafka"

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.config = {"bootstrap.servers": bootstrap, "topic.metadata.refresh.interval.ms": 1000}

    def produce(self, topic, records, codec="none", batch_bytes=None, **config):
        config = {"compression.type": codec, "linger.ms": 20, "message.max.bytes": BIG, **config}
        config = {"partitioner": "murmur2_random", "message.timeout.ms": SOON_S * 1000, **config}
        if batch_bytes:
            config["batch.size"] = batch_bytes
        producer = confluent_kafka.Producer({**self.config, **config})
        placed = [None] * len(records)

        def delivered(at):
            def settle(error, message):
                placed[at] = error or (message.partition(), message.offset())

            return settle

        for at, it in enumerate(records):
            more = {"partition": it.partition} if it.partition is not None else {}
            more |= {"timestamp": it.timestamp} if it.timestamp is not None else {}
            producer.produce(topic, it.value, it.key, headers=it.headers, on_delivery=delivered(at), **more)
            producer.poll(0)
        assert producer.flush(SOON_S) == 0, "not all were settled"
        for it in placed:
            if isinstance(it, confluent_kafka.KafkaError):
                failure = {
                    confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE: TooLarge,
                    confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART: UnknownTopic,
                    confluent_kafka.KafkaError._UNKNOWN_TOPIC: UnknownTopic,
                }.get(it.code(), AssertionError)
                raise failure(it.str())
        return placed

    def consumer(self, **config):
        config = {"group.id": "unused", "enable.auto.commit": False, "fetch.message.max.bytes": BIG, **config}
        return confluent_kafka.Consumer({**self.config, "auto.offset.reset": "error", **config})

    def consume(self, topic, starts, count, committed_only=False, **config):
        level = "read_committed" if committed_only else "read_uncommitted"
        consumer = self.consumer(**{"isolation.level": level, **config})
        consumer.assign([confluent_kafka.TopicPartition(topic, it, offset) for it, offset in starts.items()])
        try:
            return take(count, lambda: [self.record(it) for it in consumer.consume(1000, timeout=0.5)])
        finally:
            consumer.close()

    def record(self, message):
        assert message.error() is None, message.error()
        kind, timestamp = message.timestamp()
        return Record(
            message.value(),
            message.key(),
            list(message.headers() or []),
            timestamp,
            message.partition(),
            message.offset(),
            kind == confluent_kafka.TIMESTAMP_LOG_APPEND_TIME,
        )

    def offset_at(self, topic, partition, timestamp):
        """The first offset with this time or a later one; None if there is none."""
        consumer = self.consumer()
        [found] = consumer.offsets_for_times([confluent_kafka.TopicPartition(topic, partition, timestamp)], timeout=20)
        consumer.close()
        assert found.error is None, found.error
        return None if found.offset == confluent_kafka.OFFSET_END else found.offset

    def ends(self, topic, partition):
        consumer = self.consumer()
        ends = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), timeout=20)
        consumer.close()
        return ends


class PythonClient:
    """What kafka-python and aiokafka call alike."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.config = {"bootstrap_servers": bootstrap.split(",")}

    def producer_config(self, codec, batch_bytes, config):
        config = {"compression_type": None if codec == "none" else codec, "acks": "all", "linger_ms": 20, **config}
        return {"max_request_size": BIG, **self.config, **config} | ({self.batch_size: batch_bytes} if batch_bytes else {})


class KafkaPython(PythonClient):
    name = "kafka-python"
    batch_size = "batch_size"

    def produce(self, topic, records, codec="none", batch_bytes=None, **config):
        config = {"max_block_ms": 5000, "delivery_timeout_ms": 40_000, **config}
        producer = kafka.KafkaProducer(**self.producer_config(codec, batch_bytes, config))
        try:
            sent = [
                producer.send(topic, it.value, it.key, it.headers, it.partition, it.timestamp) for it in records
            ]
            producer.flush(timeout=SOON_S)
            return [(it.partition, it.offset) for it in (future.get(SOON_S) for future in sent)]
        except (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError) as error:
            raise TooLarge(str(error)) from error
        except (kafka.errors.UnknownTopicOrPartitionError, kafka.errors.KafkaTimeoutError) as error:
            # While it waits for the topic's metadata: that there is none is not told apart.
            raise UnknownTopic(str(error)) from error
        finally:
            producer.close(timeout=5)

    def consumer(self, *topics, **config):
        config = {"enable_auto_commit": False, "max_partition_fetch_bytes": BIG, **config}
        return kafka.KafkaConsumer(*topics, **{**self.config, "auto_offset_reset": "none", **config})

    def consume(self, topic, starts, count, committed_only=False, **config):
        level = "read_committed" if committed_only else "read_uncommitted"
        consumer = self.consumer(**{"isolation_level": level, **config})
        try:
            consumer.assign([kafka.TopicPartition(topic, it) for it in starts])
            for it, offset in starts.items():
                consumer.seek(kafka.TopicPartition(topic, it), offset)
            return take(count, lambda: flatten(consumer.poll(timeout_ms=500)))
        finally:
            consumer.close()

    def offset_at(self, topic, partition, timestamp):
        consumer = self.consumer()
        at = kafka.TopicPartition(topic, partition)
        found = consumer.offsets_for_times({at: timestamp})[at]
        consumer.close()
        return None if found is None else found.offset

    def ends(self, topic, partition):
        consumer = self.consumer()
        at = kafka.TopicPartition(topic, partition)
        ends = consumer.beginning_offsets([at])[at], consumer.end_offsets([at])[at]
        consumer.close()
        return ends


class AioKafka(PythonClient):
    name = "aiokafka"
    batch_size = "max_batch_size"

    def produce(self, topic, records, codec="none", batch_bytes=None, **config):
        async def run():
            producer = aiokafka.AIOKafkaProducer(**self.producer_config(codec, batch_bytes, config))
            await producer.start()
            try:
                sent = [
                    await producer.send(topic, it.value, it.key, it.partition, it.timestamp, it.headers)
                    for it in records
                ]
                return [(it.partition, it.offset) for it in await asyncio.gather(*sent)]
            finally:
                await producer.stop()

        try:
            return asyncio.run(asyncio.wait_for(run(), SOON_S))
        except (aiokafka.errors.MessageSizeTooLargeError, aiokafka.errors.RecordTooLargeError) as error:
            raise TooLarge(str(error)) from error
        except aiokafka.errors.UnknownTopicOrPartitionError as error:
            raise UnknownTopic(str(error)) from error

    def consumer(self, *topics, **config):
        config = {"enable_auto_commit": False, "max_partition_fetch_bytes": BIG, **config}
        return aiokafka.AIOKafkaConsumer(*topics, **{**self.config, "auto_offset_reset": "none", **config})

    def with_consumer(self, what, **config):
        async def run():
            consumer = self.consumer(**config)
            await consumer.start()
            try:
                return await what(consumer)
            finally:
                await consumer.stop()

        return asyncio.run(asyncio.wait_for(run(), SOON_S))

    def consume(self, topic, starts, count, committed_only=False, **config):
        async def read(consumer):
            consumer.assign([aiokafka.TopicPartition(topic, it) for it in starts])
            for it, offset in starts.items():
                consumer.seek(aiokafka.TopicPartition(topic, it), offset)
            records = []
            while len(records) < count:
                records += flatten(await consumer.getmany(timeout_ms=500))
            return records

        level = "read_committed" if committed_only else "read_uncommitted"
        return self.with_consumer(read, **{"isolation_level": level, **config})

    def offset_at(self, topic, partition, timestamp):
        at = aiokafka.TopicPartition(topic, partition)
        found = self.with_consumer(lambda consumer: consumer.offsets_for_times({at: timestamp}))[at]
        return None if found is None else found.offset

    def ends(self, topic, partition):
        at = aiokafka.TopicPartition(topic, partition)

        async def ask(consumer):
            return (await consumer.beginning_offsets([at]))[at], (await consumer.end_offsets([at]))[at]

        return self.with_consumer(ask)


class Kcat:
    """The command line tool: text keys and values, headers with a value, the producer's own time."""

    name = "kcat"

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def run(self, *arguments, stdin=b"", fails=False):
        command = ["kcat", "-b", self.bootstrap, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=SOON_S)
        assert (done.returncode != 0) == fails, (command, done)
        return done

    def produce(self, topic, records, codec="none", batch_bytes=None, **config):
        """kcat takes headers once for all: records with the same ones go in one run. It does not say where they went."""
        config = {"linger.ms": 20, "partitioner": "murmur2_random", "message.max.bytes": BIG, **config}
        config |= {"batch.size": batch_bytes} if batch_bytes else {}
        options = [it for name, value in config.items() for it in ("-X", f"{name}={value}")]
        runs = []
        for it in records:
            kind = (it.headers, it.partition)
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append((it.key or b"") + b"\x01" + (it.value or b"") + b"\x02")
        for (headers, partition), lines in runs:
            headers = [it for name, value in headers for it in ("-H", f"{name}={value.decode()}")]
            at = [] if partition is None else ["-p", partition]
            # -Z: what is empty is null.
            form = ["-P", "-t", topic, "-K", "\x01", "-D", "\x02", "-Z", "-z", codec]
            self.run(*form, *headers, *at, *options, stdin=b"".join(lines))

    def consume(self, topic, starts, count, committed_only=False, **config):
        level = "read_committed" if committed_only else "read_uncommitted"
        config = {"isolation.level": level, "check.crcs": "true", "fetch.message.max.bytes": BIG, "auto.offset.reset": "error", **config}
        options = [it for name, value in config.items() for it in ("-X", f"{name}={value}")]
        records = []
        for partition, offset in starts.items():
            form = ["-C", "-q", "-e", "-J", "-t", topic, "-p", partition, "-o", offset]
            for line in self.run(*form, *options).stdout.splitlines():
                # Bytes that are no text are in its JSON as they are.
                records.append(self.record(json.loads(line.decode(errors="surrogateescape"), strict=False)))
        assert len(records) >= count, f"{len(records)} of {count} came"
        return records

    def record(self, it):
        def encoded(text):
            return None if text is None else text.encode(errors="surrogateescape")

        flat = it.get("headers") or []
        headers = [(name, encoded(value)) for name, value in zip(flat[::2], flat[1::2])]
        kind = it["tstype"] == "logappend"
        return Record(encoded(it["payload"]), encoded(it["key"]), headers, it["ts"], it["partition"], it["offset"], kind)

    def offset_at(self, topic, partition, timestamp):
        offset = self.ask(topic, partition, timestamp)
        return None if offset < 0 else offset

    def ends(self, topic, partition):
        return self.ask(topic, partition, -2), self.ask(topic, partition, -1)

    def ask(self, topic, partition, place):
        [line] = self.run("-Q", "-t", f"{topic}:{partition}:{place}").stdout.decode().splitlines()
        return int(line.rsplit("offset", 1)[1])


CLIENTS = {it.name: it for it in (Confluent, KafkaPython, AioKafka, Kcat)}
LIBRARIES = {it.name: it for it in (Confluent, KafkaPython, AioKafka)}


def flatten(polled):
    """Of kafka-python and aiokafka, which hand out records by partition."""
    return [
        Record(
            it.value,
            it.key,
            list(it.headers),
            it.timestamp,
            it.partition,
            it.offset,
            it.timestamp_type == 1,
        )
        for records in polled.values()
        for it in records
    ]


def take(count, poll, within_s=SOON_S):
    """Polls until `count` records have come."""
    records, end = [], time.monotonic() + within_s
    while len(records) < count:
        assert time.monotonic() < end, f"{len(records)} of {count} records came within {within_s} s"
        records += poll()
    return records
