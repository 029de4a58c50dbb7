"""Records, as each client sends them and every client reads them."""

import os
import struct
import time

import pytest

from clients import CODEC_NUMBERS, CODECS, Confluent, Record, TooLarge, UnknownTopic
from cluster import until


def batches(log):
    """(attributes, count) of each batch in a partition's log."""
    at, found = 0, []
    while at + 61 <= len(log):
        _, length = struct.unpack_from(">qi", log, at)
        if length <= 0:
            break
        (attributes,) = struct.unpack_from(">h", log, at + 21)
        (count,) = struct.unpack_from(">i", log, at + 57)
        found.append((attributes, count))
        at += 12 + length
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_client_sends_in_any_codec_every_client_reads(cluster, client, clients, codec, new_topic):
    topic = new_topic(2)
    sent = [Record(b"value %d " % n * 20, b"key %d" % n, [("n", b"%d" % n)], partition=n % 2) for n in range(40)]
    # kcat takes one set of headers for a run.
    if client.name == "kcat":
        for it in sent:
            it.headers = [("n", b"all")]
    sent.sort(key=lambda it: it.partition)
    client.produce(topic, sent, codec)
    for reader in clients:
        got = reader.consume(topic, {0: 0, 1: 0}, len(sent))
        for partition in (0, 1):
            expected = [it.content() for it in sent if it.partition == partition]
            assert [it.content() for it in got if it.partition == partition] == expected, reader.name
            assert [it.offset for it in got if it.partition == partition] == list(range(20)), reader.name
    found = batches(cluster.segments(topic, 0))
    assert sum(count for _, count in found) == 20
    # librdkafka sends a batch as it is where the codec would make it no smaller; these it makes smaller.
    assert {attributes & 7 for attributes, _ in found} == {CODEC_NUMBERS[codec]}, "stored as it was sent"


def test_null_and_empty_keys_values_and_headers_with_names_twice_come_back_as_they_were(library, clients, new_topic):
    topic = new_topic()
    sent = [
        Record(None, b"tombstone"),
        Record(b"no key", None),
        Record(b"", b""),
        Record(b"v", b"k", [("twice", b"1"), ("twice", b"2"), ("", b"no name"), ("empty", b"")]),
        Record(bytes(range(256)), bytes(range(255, -1, -1)), [("\u00e4\u20ac\U0001f600", bytes(range(256)))]),
    ]
    if library.name != "kafka-python":
        # It refuses to send such a header; all read it.
        sent.append(Record(b"v", b"k", [("null", None), ("null", b"not")]))
    if library.name == "confluent-kafka":
        # The others refuse to send such a record; all read it.
        sent.append(Record(None, None, [("only", b"headers")]))
    library.produce(topic, sent)
    for reader in clients:
        got = reader.consume(topic, {0: 0}, len(sent))
        assert [it.content() for it in got] == [it.content() for it in sent], reader.name


def test_the_times_of_records_are_the_producers_or_the_leaders(library, clients, new_topic):
    day = 86_400_000
    first = int(time.time() * 1000) - day
    sent = [Record(b"%d" % n, timestamp=first + n * 1000) for n in range(5)]
    by_producer, by_leader = new_topic(), new_topic(message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    for topic in (by_producer, by_leader):
        library.produce(topic, sent)
    after = int(time.time() * 1000)
    for reader in clients:
        got = reader.consume(by_producer, {0: 0}, 5)
        assert [(it.timestamp, it.is_append_time) for it in got] == [(it.timestamp, False) for it in sent], reader.name
        got = reader.consume(by_leader, {0: 0}, 5)
        assert all(it.is_append_time and before <= it.timestamp <= after for it in got), (reader.name, got)


def test_records_of_a_megabyte_and_more(library, clients, new_topic):
    topic = new_topic(max_message_bytes=4 << 20)
    # What compresses, and what does not: on its way it is as large as it is.
    sent = [Record(os.urandom(1 << 20)), Record(b"x" * (1 << 20)), Record(os.urandom(3 << 20)), Record(b"small")]
    library.produce(topic, sent)
    for reader in clients:
        got = reader.consume(topic, {0: 0}, len(sent))
        assert [it.value for it in got] == [it.value for it in sent], reader.name


@pytest.mark.parametrize("batch_bytes", [1, 1_000, 16_384, 900_000])
def test_batches_of_many_sizes_keep_their_order(cluster, client, batch_bytes, new_topic):
    topic = new_topic()
    # One record a batch costs one request each.
    count = 50 if batch_bytes == 1 else 2_000
    sent = [Record(b"%06d" % n + b"." * (n % 300), partition=0) for n in range(count)]
    client.produce(topic, sent, batch_bytes=batch_bytes)
    reader = client
    got = reader.consume(topic, {0: 0}, count)
    assert [it.value for it in got] == [it.value for it in sent]
    assert [it.offset for it in got] == list(range(count))
    assert sum(n for _, n in batches(cluster.segments(topic, 0))) == count


def test_small_fetches_get_all_of_large_batches(client, new_topic):
    """The first batch comes whole however little was asked for (KIP-74)."""
    topic = new_topic(2)
    sent = [Record(b"%05d" % n + b"." * 1000, partition=n % 2) for n in range(600)]
    sent.sort(key=lambda it: it.partition)
    client.produce(topic, sent, batch_bytes=200_000)
    of_librdkafka = {"fetch.message.max.bytes": 1000, "fetch.max.bytes": 1000, "message.max.bytes": 1000}
    limits = {
        "kcat": of_librdkafka,
        "confluent-kafka": of_librdkafka,
        "kafka-python": {"max_partition_fetch_bytes": 1000, "fetch_max_bytes": 1000},
        "aiokafka": {"max_partition_fetch_bytes": 1000, "fetch_max_bytes": 1000},
    }
    got = client.consume(topic, {0: 0, 1: 0}, len(sent), **limits[client.name])
    assert sorted(it.value for it in got) == sorted(it.value for it in sent)


def test_every_level_of_acknowledgement_is_written(client, new_topic):
    topic = new_topic()
    levels = [0, 1, -1] if client.name in ("confluent-kafka", "kcat") else [0, 1, "all"]
    # An idempotent producer must wait for all, and it is kafka-python's default.
    more = {"enable_idempotence": False} if client.name == "kafka-python" else {}
    for acks in levels:
        try:
            client.produce(topic, [Record(b"acks %s" % str(acks).encode())], acks=acks, **more)
        except AttributeError:
            # What aiokafka's producer yields without acknowledgements is no place.
            assert (client.name, acks) == ("aiokafka", 0)
    got = client.consume(topic, {0: 0}, 3)
    assert sorted(it.value for it in got) == sorted(b"acks %s" % str(acks).encode() for acks in levels)


def test_reading_begins_at_any_offset_and_any_time(client, new_topic):
    topic = new_topic()
    # Within the time of retention.
    first = int(time.time() * 1000) - 3_600_000
    sent = [Record(b"%d" % n, timestamp=first + n * 1000) for n in range(100)]
    # kcat can't choose the times of what it sends.
    Confluent(client.bootstrap).produce(topic, sent, batch_bytes=300)
    for offset in (0, 1, 57, 99):
        got = client.consume(topic, {0: offset}, 100 - offset)
        assert [it.offset for it in got] == list(range(offset, 100))
    assert client.ends(topic, 0) == (0, 100)
    for timestamp, offset in [
        (first - 5_000, 0),
        (first, 0),
        (first + 1, 1),
        (first + 42_000, 42),
        (first + 42_001, 43),
        (first + 99_000, 99),
        (first + 99_001, None),
    ]:
        assert client.offset_at(topic, 0, timestamp) == offset


def test_an_offset_that_is_not_there_is_an_error_or_a_reset(cluster, client, new_topic):
    topic = new_topic()
    client.produce(topic, [Record(b"%d" % n) for n in range(10)])
    cluster.command("topic", "delete-records", topic, "--partition", 0, "--before", 4)
    until("the deletion to show", lambda: client.ends(topic, 0) == (4, 10))
    is_librdkafka = client.name in ("confluent-kafka", "kcat")
    name = "auto.offset.reset" if is_librdkafka else "auto_offset_reset"
    got = client.consume(topic, {0: 2}, 6, **{name: "earliest"})
    assert [it.offset for it in got] == [4, 5, 6, 7, 8, 9]
    with pytest.raises(Exception, match="(?i)out.?of.?range|reset") as failure:
        client.consume(topic, {0: 1000}, 1)
    assert not isinstance(failure.value, TimeoutError)


def test_a_message_that_is_too_large_is_refused_and_the_client_goes_on(client, new_topic):
    topic = new_topic(max_message_bytes=100_000)
    large = [Record(os.urandom(75_000).hex().encode())]
    if client.name == "kcat":
        done = client.run("-P", "-t", topic, stdin=large[0].value + b"\n", fails=True)
        assert b"Message size too large" in done.stderr, done
    else:
        with pytest.raises(TooLarge):
            client.produce(topic, large)
    client.produce(topic, [Record(b"goes on")])
    [got] = client.consume(topic, {0: 0}, 1)
    assert (got.offset, got.value) == (0, b"goes on")


def test_one_producer_goes_on_after_a_message_that_is_too_large(cluster, new_topic):
    import confluent_kafka

    topic = new_topic(max_message_bytes=100_000)
    for idempotence in (False, True):
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": cluster.kafka, "enable.idempotence": idempotence, "linger.ms": 0}
        )
        outcomes = []
        for value in (b"before", os.urandom(150_000), b"after"):
            producer.produce(topic, value, on_delivery=lambda error, _: outcomes.append(error and error.code()))
            assert producer.flush(30) == 0
        assert outcomes == [None, confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE, None]
    got = Confluent(cluster.kafka).consume(topic, {0: 0}, 4)
    assert [it.value for it in got] == [b"before", b"after"] * 2


def test_records_that_are_not_allowed_are_told_from_the_others_of_their_batch(cluster, new_topic):
    import confluent_kafka

    topic = new_topic(cleanup_policy="compact")
    for idempotence in (False, True):
        config = {"bootstrap.servers": cluster.kafka, "enable.idempotence": idempotence, "linger.ms": 500, "partitioner": "random"}
        producer = confluent_kafka.Producer(config)
        outcomes = {}
        for number in range(20):
            key = None if number % 5 == 2 else b"key"
            settle = lambda error, _, number=number: outcomes.update({number: error and error.code()})
            producer.produce(topic, b"value", key, on_delivery=settle)
        assert producer.flush(30) == 0
        codes = confluent_kafka.KafkaError
        expected = {it: codes.INVALID_RECORD if it % 5 == 2 else codes._INVALID_DIFFERENT_RECORD for it in range(20)}
        assert outcomes == expected
        producer.produce(topic, b"after", b"key", on_delivery=lambda error, _: outcomes.update(after=error))
        assert producer.flush(30) == 0 and outcomes["after"] is None
    got = Confluent(cluster.kafka).consume(topic, {0: 0}, 2)
    assert [it.value for it in got] == [b"after"] * 2


def test_a_topic_that_is_not_there_is_an_error_and_is_not_made(cluster, client):
    topic = f"nowhere-{client.name}"
    if client.name == "kcat":
        done = client.run("-P", "-t", topic, "-X", "topic.metadata.propagation.max.ms=1000", stdin=b"v\n", fails=True)
        assert b"nknown topic" in done.stderr, done
    else:
        # Each gives a topic half a minute or more to come into being by default.
        more = {
            "confluent-kafka": {"topic.metadata.propagation.max.ms": 1000},
            "kafka-python": {"max_block_ms": 1000},
            "aiokafka": {"request_timeout_ms": 1000},
        }
        with pytest.raises(UnknownTopic):
            client.produce(topic, [Record(b"v")], **more[client.name])
    assert topic not in cluster.command("topic", "list")
