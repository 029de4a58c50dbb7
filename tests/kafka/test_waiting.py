"""Consumers that wait for records, many at a time: what they cost while nothing comes, and that what comes wakes them."""

import resource
import struct
from pathlib import Path

from clients import Confluent, Record
from cluster import until
from test_bad_input import FETCH, Stranger, frame, text

CONSUMERS = 500
# Of a connection and its request, on both sides of which a broker has buffers.
MORE_BYTES_EACH_MAX = 64 << 10


def fetch(topic, wait_ms):
    head = struct.pack(">iiiibi", -1, wait_ms, 1, 1 << 20, 0, 1)
    return frame(FETCH, 4, head + text(topic) + struct.pack(">iiqi", 1, 0, 0, 1 << 20))


def processor_seconds(broker):
    """That its threads have had."""
    fields = Path(f"/proc/{broker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_long_polls_cost_nothing_while_they_wait_and_end_with_the_first_record(cluster, new_topic):
    wanted = CONSUMERS + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    topic, other = new_topic(), new_topic()
    broker = cluster.brokers[cluster.leader(topic)]
    bell = Stranger(cluster.brokers[cluster.leader(other)].kafka)

    def while_polls_end(count):
        """What the broker takes while so many polls of a tenth of a second end with nothing."""
        before = processor_seconds(broker)
        for _ in range(count):
            bell.send(fetch(other, 100))
            assert bell.answer()
        return processor_seconds(broker) - before

    def begun():
        return broker.metric("highwater_kafka_requests_total", api="Fetch")

    alone = while_polls_end(30)
    memory, requests = broker.forget_peak(), begun()
    waiting = [Stranger(broker.kafka) for _ in range(CONSUMERS)]
    for it in waiting:
        it.send(fetch(topic, 600_000))
    until("all of them waiting", lambda: begun() >= requests + CONSUMERS)
    with_them = while_polls_end(30)
    print(f"processor seconds in 3 s: {alone:.2f} without, {with_them:.2f} with {CONSUMERS} that wait")
    # If each looked again only ten times a second, it would be more than a second.
    assert with_them < alone + 0.3
    each = (broker.resident_bytes(most=True) - memory) / CONSUMERS
    print(f"{each / 1024:.1f} KiB of memory each")
    assert each < MORE_BYTES_EACH_MAX
    Confluent(cluster.kafka).produce(topic, [Record(b"wakes all", partition=0)])
    for it in waiting:
        assert b"wakes all" in it.answer()
        it.close()
