"""One log behind both doors: what the native door takes, Kafka's clients read, and the other way round."""

import json
import socket
import threading
import time

import pytest

from clients import CLIENTS, Record
from cluster import SOON_S, Cluster
from test_transactions import PRODUCERS

KEYS = [b"21", b"foobar", b"a-little-bit-long-string", b"abc", b"k1", b"k2", b"\xc3\xa4", b"0", b"orders-4711"]


def test_what_the_native_door_takes_kafkas_clients_read(cluster, clients, new_topic):
    topic = new_topic(5)
    lines = b"".join(b"%s=value of %s\n" % (key, key) for key in KEYS)
    arguments = ["produce", topic, "--key-separator", "=", "--header", "door=native", "--header", "door=again", "--report"]
    reported = cluster.command(*arguments, "--compression", "zstd", stdin=lines)
    places = [tuple(map(int, line.split("\t"))) for line in reported.splitlines()]
    native = read_natively(cluster, topic)
    starts = {it: 0 for it, _ in places}
    for reader in clients:
        got = {it.key: it for it in reader.consume(topic, starts, len(KEYS))}
        for key, place in zip(KEYS, places):
            it = got[key]
            assert (it.partition, it.offset) == place, reader.name
            assert it.value == b"value of " + key
            assert it.headers == [("door", b"native"), ("door", b"again")], reader.name
            assert it.timestamp == native[place]["timestamp_ms"]


def test_what_kafkas_clients_send_the_native_door_reads(cluster, library, new_topic):
    topic = new_topic(5)
    headers = [("door", b"kafka"), ("door", b"again"), ("n", b"1")]
    # Not so old that retention takes them.
    time_ms = int(time.time() * 1000) - 60_000
    sent = [Record(b"value of " + key, key, headers, time_ms + n) for n, key in enumerate(KEYS)]
    sent += [Record(None, b"tombstone"), Record(b"no key")]
    places = library.produce(topic, sent, "lz4")
    native = read_natively(cluster, topic)
    assert len(native) == len(sent)
    for it, place in zip(sent, places):
        got = native[place]
        assert (text(it.key), text(it.value)) == (got["key"], got["value"])
        assert [(name, text(value)) for name, value in it.headers] == [(h["name"], h["value"]) for h in got["headers"]]
        assert it.timestamp is None or got["timestamp_ms"] == it.timestamp


def test_a_key_has_the_same_partition_by_every_client(cluster, clients, new_topic):
    topic = new_topic(7)
    lines = b"".join(b"%s=native\n" % key for key in KEYS)
    reported = cluster.command("produce", topic, "--key-separator", "=", "--report", stdin=lines)
    expected = {key: int(line.split("\t")[0]) for key, line in zip(KEYS, reported.splitlines())}
    for it in clients:
        it.produce(topic, [Record(it.name.encode(), key) for key in KEYS])
    native = read_natively(cluster, topic)
    assert len(native) == len(KEYS) * (len(clients) + 1)
    for (partition, _), it in native.items():
        assert partition == expected[it["key"].encode()], it


def test_the_native_door_reads_kafkas_transactions(cluster, library, new_topic):
    topic = new_topic()
    producer = PRODUCERS[library.name](library.bootstrap, f"read-natively-{library.name}")
    for value, ends in (b"1", producer.abort), (b"2", producer.commit), (b"3", producer.abort), (b"4", producer.commit):
        producer.begin()
        producer.send(topic, 0, value)
        ends()
    producer.close()
    assert [it["value"] for it in read_natively(cluster, topic, "--committed").values()] == ["2", "4"]
    assert [it["value"] for it in read_natively(cluster, topic).values()] == ["1", "2", "3", "4"]


def test_idle_connections_are_closed_after_as_long_as_is_configured(binary, tmp_path):
    from conftest import PORT

    running = Cluster(binary, tmp_path / "idle", PORT + 55, 1, ["kafka.idle_ms=1500"])
    try:
        running.start()
        host, port = running.kafka.split(":")
        with socket.create_connection((host, int(port)), timeout=SOON_S) as busy:
            with socket.create_connection((host, int(port)), timeout=SOON_S) as idle:
                ask_versions(idle)
                end = threading.Event()
                # Nothing else comes: the broker ends it.
                threading.Thread(target=lambda: (idle.recv(1), end.set()), daemon=True).start()
                while not end.is_set():
                    ask_versions(busy)
            ask_versions(busy)
    finally:
        running.end()


def ask_versions(connection):
    connection.sendall(bytes.fromhex("0000000a 0012 0000 00000001 ffff".replace(" ", "")))
    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    assert len(connection.recv(length, socket.MSG_WAITALL)) == length > 0


@pytest.mark.parametrize("name", CLIENTS)
def test_a_topic_is_made_by_asking_for_it_where_that_is_configured(binary, tmp_path, name):
    from conftest import PORT

    settings = ["kafka.auto_create_topics=true", "controller.default_replication_factor=1"]
    running = Cluster(binary, tmp_path / "one", PORT + 50, 1, settings)
    try:
        running.start()
        client = CLIENTS[name](running.kafka)
        client.produce("made-by-asking", [Record(b"v", partition=0)])
        [got] = client.consume("made-by-asking", {0: 0}, 1)
        assert got.value == b"v"
    finally:
        running.end()


def read_natively(cluster, topic, *options):
    """By partition and offset."""
    lines = cluster.command("consume", topic, "--until-end", "--format", "json", *options).splitlines()
    return {(it["partition"], it["offset"]): it for it in map(json.loads, lines)}


def text(value):
    return None if value is None else value.decode()
