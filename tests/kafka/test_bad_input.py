"""What a stranger may send to the port. Others notice nothing: a producer is at work all the while, and memory is bounded."""

import gzip
import os
import random
import socket
import struct

import cramjam
import lz4.frame
import pytest
import zstandard

from clients import CODEC_NUMBERS, Confluent, Record
from cluster import SOON_S
from loads import LOADS, check_log

MORE_BYTES_MAX = 96 << 20
PRODUCE, FETCH, METADATA, API_VERSIONS = 0, 1, 3, 18


def frame(key, version, body, correlation_id=7):
    """A request with the header of versions that are not flexible."""
    request = struct.pack(">hhih", key, version, correlation_id, 4) + b"evil" + body
    return struct.pack(">i", len(request)) + request


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


class Stranger:
    def __init__(self, address):
        host, port = address.split(":")
        self.io = socket.create_connection((host, int(port)), timeout=SOON_S)

    def send(self, data):
        """Whether it was taken."""
        try:
            self.io.sendall(data)
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def answer(self):
        """The body of the next answer; None: the broker has closed the connection."""
        head = self.read(4)
        return head and self.read(struct.unpack(">i", head)[0])

    def read(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.io.recv(count - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            data += more
        return data

    def close(self):
        self.io.close()


@pytest.fixture
def leader(cluster, new_topic):
    """The broker that strangers plague, with a topic that it leads; another producer is at work."""
    topic = new_topic(6)
    load = LOADS["confluent-kafka"](cluster.kafka, topic)
    load.start()
    load.until_acknowledged(500)
    broker = cluster.brokers[cluster.leader(topic)]
    before = broker.forget_peak()
    try:
        yield broker, topic, load, before
    finally:
        load.stopping.set()
    load.end()
    check_log(Confluent(cluster.kafka), load)
    assert broker.process.poll() is None


def check_memory(broker, before):
    grown = broker.resident_bytes(most=True) - before
    assert grown < MORE_BYTES_MAX, f"the broker had grown by {grown >> 20} MiB at some moment"


def test_lengths_that_are_wrong_close_the_connection(leader):
    broker, _, load, before = leader
    for head in [-1, -(2**31), 0, 1, 7, 2**31 - 1, 1 << 30]:
        stranger = Stranger(broker.kafka)
        stranger.send(struct.pack(">i", head) + b"\0" * 8)
        assert stranger.answer() is None, f"length {head}"
    load.until_acknowledged(200)
    check_memory(broker, before)


def test_requests_that_are_cut_or_no_requests_close_the_connection(leader):
    broker, topic, load, before = leader
    whole = frame(METADATA, 1, struct.pack(">i", 1) + text(topic))
    stranger = Stranger(broker.kafka)
    assert stranger.send(whole) and stranger.answer()
    for body in [
        b"",
        # An array of 2^31 - 1, of minus a thousand, of a million topics.
        struct.pack(">i", 2**31 - 1),
        struct.pack(">i", -1000),
        struct.pack(">i", 1_000_000) + text("t"),
        # Names longer than the request, and of a negative length.
        struct.pack(">ih", 1, 32_000) + b"t",
        struct.pack(">ih", 1, -7),
        b"\x7f" * 100,
    ]:
        stranger = Stranger(broker.kafka)
        stranger.send(frame(METADATA, 1, body))
        assert stranger.answer() is None, body
    # One that ends in the middle.
    stranger = Stranger(broker.kafka)
    stranger.send(whole[:-3])
    stranger.io.shutdown(socket.SHUT_WR)
    assert stranger.answer() is None
    # Other protocols' first words.
    for words in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]:
        stranger = Stranger(broker.kafka)
        stranger.send(words)
        # Some of it reads as a length that is not reached.
        stranger.io.shutdown(socket.SHUT_WR)
        assert stranger.answer() is None, words
    load.until_acknowledged(200)
    check_memory(broker, before)


def test_apis_and_versions_that_are_not_known(leader):
    broker, _, load, _ = leader
    for key, version in [(999, 0), (-1, 0), (METADATA, 99), (METADATA, -1), (PRODUCE, 2), (FETCH, 3), (32_767, 32_767)]:
        stranger = Stranger(broker.kafka)
        stranger.send(frame(key, version, b"\0" * 16))
        assert stranger.answer() is None, (key, version)
    # But a newer ApiVersions is answered so that the client can try again: UNSUPPORTED_VERSION, and the list.
    stranger = Stranger(broker.kafka)
    stranger.send(frame(API_VERSIONS, 99, b"\0" * 16))
    correlation_id, error, count = struct.unpack_from(">ihi", stranger.answer())
    assert (correlation_id, error) == (7, 35) and count >= 9
    stranger.send(frame(API_VERSIONS, 0, b"", 8))
    correlation_id, error, _ = struct.unpack_from(">ihi", stranger.answer())
    assert (correlation_id, error) == (8, 0), "on the same connection"
    load.until_acknowledged(200)


def test_random_bytes_and_broken_requests(leader):
    broker, topic, load, before = leader
    dice = random.Random(20_260_728)
    sound = [
        frame(METADATA, 1, struct.pack(">i", 1) + text(topic)),
        frame(FETCH, 4, struct.pack(">iiiibi", -1, 10, 1, 1 << 20, 0, 1) + text(topic) + struct.pack(">iiqi", 1, 0, 0, 1 << 20)),
        produce(topic, 0, batch(b"\0" * 10)),
        frame(API_VERSIONS, 0, b""),
    ]
    for n in range(300):
        data = bytearray(dice.choice(sound) if n % 3 else dice.randbytes(dice.randrange(200)))
        if n % 3:
            for _ in range(dice.randrange(1, 8)):
                # Neither its length, nor the API: it is not to be a sound produce request with other records.
                at = dice.randrange(6, len(data))
                data[at] = dice.randrange(256)
        stranger = Stranger(broker.kafka)
        stranger.send(bytes(data))
        stranger.io.shutdown(socket.SHUT_WR)
        while stranger.answer() is not None:
            pass
    load.until_acknowledged(200)
    check_memory(broker, before)


CRC32C = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    CRC32C.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def record(value):
    """A record of the format, without key and headers; small enough for one byte of each length."""
    body = b"\0\0\0\x01" + bytes([len(value) * 2]) + value + b"\0"
    return bytes([len(body) * 2]) + body


def batch(records, count=1, attributes=0, magic=2, crc=None, length=None, last=None):
    """A record batch, with whatever is to be wrong with it."""
    last = count - 1 if last is None else last
    summed = struct.pack(">hiqqqhii", attributes, last, 0, 0, -1, -1, -1, count) + records
    crc = crc32c(summed) if crc is None else crc
    length = 9 + len(summed) if length is None else length
    return struct.pack(">qiibI", 0, length, 0, magic, crc) + summed


def produce(topic, partition, records):
    head = struct.pack(">hhii", -1, -1, 10_000, 1) + text(topic) + struct.pack(">iii", 1, partition, len(records))
    return frame(PRODUCE, 3, head + records)


def test_batches_that_make_no_sense_are_refused(cluster, leader, new_topic):
    broker, _, load, before = leader
    topic = new_topic()
    at = cluster.brokers[cluster.leader(topic)]
    one = record(b"sound")
    corrupt, invalid_request, unsupported_codec, invalid = 2, 42, 76, 87
    refused = {
        "a wrong checksum": (batch(one, crc=12345), {corrupt}),
        "more records than are there": (batch(one, count=1000), {invalid, corrupt}),
        "fewer records than are there": (batch(one + one, count=1), {invalid, corrupt}),
        "no records": (batch(b"", count=0), {invalid, corrupt}),
        "a negative count": (batch(one, count=-1), {invalid, corrupt}),
        "a count of 2^31 - 1": (batch(one, count=2**31 - 1), {invalid, corrupt}),
        "offsets that do not fit the count": (batch(one, last=5), {invalid, corrupt}),
        "a length beyond its bytes": (batch(one, length=10_000), {invalid, corrupt}),
        "a negative length": (batch(one, length=-1), {invalid, corrupt}),
        "a length of less than a header": (batch(one, length=10), {invalid, corrupt}),
        "no codec of this number": (batch(one, attributes=6), {invalid, corrupt, unsupported_codec}),
        "a control batch of a client's": (batch(one, attributes=0x20), {invalid}),
        "records that are no records": (batch(b"\xff" * 50), {invalid, corrupt}),
        "an older format": (batch(one, magic=1), {invalid, corrupt, 43}),
        "a newer format": (batch(one, magic=3), {invalid, corrupt, 43}),
        "half a header": (batch(one)[:30], {invalid, corrupt}),
        "gzip that is none": (batch(b"\xff" * 50, attributes=1), {invalid, corrupt}),
        "no bytes": (b"", {invalid, corrupt, invalid_request}),
    }
    stranger = Stranger(at.kafka)
    for what, (records, errors) in refused.items():
        assert stranger.send(produce(topic, 0, records)), what
        answer = stranger.answer()
        assert answer is not None, f"{what}: the connection was closed"
        (error,) = struct.unpack_from(">h", answer, len(answer) - 4 - 8 - 8 - 2)
        assert error in errors, f"{what}: error {error}"
    # The same connection goes on with what is sound.
    assert stranger.send(produce(topic, 0, batch(one)))
    answer = stranger.answer()
    error, offset = struct.unpack_from(">hq", answer, len(answer) - 4 - 8 - 8 - 2)
    assert (error, offset) == (0, 0)
    [got] = Confluent(cluster.kafka).consume(topic, {0: 0}, 1)
    assert got.value == b"sound"
    load.until_acknowledged(200)
    check_memory(broker, before)


def varint(value):
    """Zigzag, as records have their lengths."""
    value, out = value * 2, b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def large_window(data):
    """As the highest levels of zstd do, which are slow: what the whole of it may look back into."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


def zeros(length, offset_delta):
    """A sound record with so many zeros as its value."""
    body = b"\0\0" + varint(offset_delta) + b"\x01" + varint(length) + bytes(length) + b"\0"
    return varint(len(body)) + body


PACKED_BY = {
    "gzip": lambda data: gzip.compress(data, 9),
    "snappy": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "lz4": lz4.frame.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "zstd with a large window": large_window,
}
# What a broker unpacks of one batch at most, by default (limits.decompressed_bytes_max).
UNPACKED_MAX_MIB = 64
# Of snappy as much as gets into a batch, of the others more than the broker unpacks, or almost.
BOMBS = [("gzip", 400), ("gzip", 60), ("snappy", 16), ("lz4", 128), ("zstd", 400), ("zstd", 60), ("zstd with a large window", 60)]


@pytest.mark.parametrize("of_one_record", [True, False], ids=["one record", "many records"])
@pytest.mark.parametrize(("codec", "mebibytes"), BOMBS)
def test_what_unpacks_to_much_takes_little_memory(cluster, leader, new_topic, codec, mebibytes, of_one_record):
    _, _, load, _ = leader
    topic = new_topic()
    broker = cluster.brokers[cluster.leader(topic)]
    # Once it has heard that it leads.
    Confluent(cluster.kafka).produce(topic, [Record(b"sound", partition=0)])
    if of_one_record:
        count, records = 1, zeros(mebibytes << 20, 0)
    else:
        count, records = mebibytes, b"".join(zeros((1 << 20) - 100, it) for it in range(mebibytes))
    packed = PACKED_BY[codec](records)
    request = produce(topic, 0, batch(packed, count=count, attributes=CODEC_NUMBERS[codec.split()[0]]))
    # It is not for its size as it comes that it is refused.
    assert len(request) < 1 << 20, f"{len(request)} bytes"
    too_large = 10 if of_one_record or mebibytes > UNPACKED_MAX_MIB else 0
    before = broker.forget_peak()
    # Several at a time.
    strangers = [Stranger(broker.kafka) for _ in range(8)]
    for it in strangers:
        assert it.send(request)
    for it in strangers:
        answer = it.answer()
        assert answer is not None, "the connection was closed"
        (error,) = struct.unpack_from(">h", answer, len(answer) - 4 - 8 - 8 - 2)
        assert error == too_large, f"error {error}"
        it.close()
    check_memory(broker, before)
    load.until_acknowledged(200)


def test_slow_writers_and_half_open_connections_pin_no_memory(leader):
    broker, topic, load, before = leader
    # Each announces 64 MiB; two send a byte now and then, the others nothing.
    strangers = [Stranger(broker.kafka) for _ in range(200)]
    for it in strangers:
        it.send(struct.pack(">i", 64 << 20) + b"\0\0\0\x03")
    load.until_acknowledged(200)
    for it in strangers[:2] * 10:
        it.send(b"\0")
        load.until_acknowledged(20)
    # Those that never say a word.
    silent = [Stranger(broker.kafka) for _ in range(200)]
    load.until_acknowledged(200)
    check_memory(broker, before)
    for it in strangers + silent:
        it.close()


def test_a_client_that_does_not_read_its_answers_pins_no_memory(cluster, leader, new_topic):
    _, _, load, _ = leader
    topic = new_topic()
    broker = cluster.brokers[cluster.leader(topic)]
    before = broker.forget_peak()
    Confluent(broker.kafka).produce(topic, [Record(os.urandom(500_000), partition=0) for _ in range(20)])
    ask = frame(FETCH, 4, struct.pack(">iiiibi", -1, 100, 1, 50 << 20, 0, 1) + text(topic) + struct.pack(">iiqi", 1, 0, 0, 50 << 20))
    strangers = [Stranger(broker.kafka) for _ in range(10)]
    for it in strangers:
        # As much as it takes, without waiting for it.
        it.io.setblocking(False)
        try:
            for _ in range(1000):
                it.io.send(ask)
        except BlockingIOError:
            pass
    load.until_acknowledged(500)
    check_memory(broker, before)
    for it in strangers:
        it.close()
