"""A thin client in another language: everything by the .proto files alone, against a real cluster.

Starts `highwater cluster up`, makes stubs from /proto in a temporary folder, and holds docs/thin-clients.md to its word.
Usage: python thin_client.py path/to/highwater  (with what requirements.txt lists installed)
"""

import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
STATES_WITHIN_S = 20
# Of Kafka's own UtilsTest: key, murmur2.
KNOWN_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"abc": 479470107,
}


def generate_stubs(folder):
    files = sorted(str(path) for path in (PROTO / "highwater/v1").glob("*.proto"))
    code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files])
    assert code == 0, "protoc failed"
    sys.path.insert(0, folder)


class Cluster:
    """Three brokers as processes, until the end of the block."""

    def __init__(self, binary):
        command = [binary, "cluster", "up", "--controllers", "1", "--brokers", "3", "--port", "19192"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.brokers = []

    def __enter__(self):
        for line in self.process.stdout:
            if found := re.search(r"HIGHWATER_BOOTSTRAP=(\S+)", line):
                self.brokers = found.group(1).split(",")
                # Nobody else reads what it says.
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return self
        raise AssertionError(f"the cluster did not start: exit code {self.process.wait()}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def fails_with(call, grpc_code, error_code):
    try:
        call()
    except grpc.RpcError as failure:
        from highwater.v1 import common_pb2

        details = dict(failure.trailing_metadata()).get("grpc-status-details-bin", b"")
        error = common_pb2.Error.FromString(details)
        assert failure.code() == grpc_code, failure
        assert common_pb2.ErrorCode.Name(error.code) == error_code, error
        return error
    raise AssertionError(f"no {error_code}")


def create_topic(channel, name, partitions):
    from highwater.v1 import admin_pb2, admin_pb2_grpc

    admin = admin_pb2_grpc.AdminStub(channel)
    admin.CreateTopic(admin_pb2.CreateTopicRequest(name=name, partitions=partitions, replication_factor=3), timeout=20)


def check_by_reflection(address):
    """Publishes and reads with no stubs and no .proto: what the broker says of itself is enough."""
    channel = grpc.insecure_channel(address)
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "highwater.v1.Records" in database.get_services(), database.get_services()
    pool = descriptor_pool.DescriptorPool(database)
    methods = pool.FindServiceByName("highwater.v1.Records").methods_by_name
    assert {"Publish", "PublishStream", "Read"} <= set(methods), list(methods)

    def message(name):
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"highwater.v1.{name}"))

    request = message("PublishRequest")(topic="plain")
    request.records.add(value=b"by reflection")
    call = channel.unary_unary(
        "/highwater.v1.Records/Publish",
        request_serializer=lambda it: it.SerializeToString(),
        response_deserializer=message("PublishResponse").FromString,
    )
    answer = call(request, timeout=20)
    assert answer.results[0].HasField("offset"), answer
    health = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service="highwater.v1.Records"), timeout=20
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health


def check_publish(stubs):
    from highwater.v1 import data_pb2, records_pb2

    keys = [*KNOWN_HASHES, None]
    records = [records_pb2.PublishRecord(key=key, value=b"v") for key in keys]
    # Through every broker, whoever leads: the same partition for the same key.
    for stub in stubs:
        for acks in (data_pb2.ACKS_UNSPECIFIED, data_pb2.ACKS_ALL, data_pb2.ACKS_LEADER):
            answer = stub.Publish(records_pb2.PublishRequest(topic="keyed", records=records, acks=acks), timeout=20)
            assert len(answer.results) == len(records)
            for key, result in zip(keys, answer.results):
                assert not result.HasField("error") and result.HasField("offset"), result
                if key is not None:
                    assert result.partition == (KNOWN_HASHES[key] & 0x7FFFFFFF) % 6, (key, result)
    unacknowledged = stubs[0].Publish(
        records_pb2.PublishRequest(topic="keyed", records=records[:1], acks=data_pb2.ACKS_NONE), timeout=20
    )
    assert not unacknowledged.results[0].HasField("offset"), unacknowledged

    def publish(**of):
        return lambda: stubs[0].Publish(records_pb2.PublishRequest(**of), timeout=20)

    error = fails_with(publish(topic="absent", records=records), grpc.StatusCode.NOT_FOUND, "ERROR_CODE_UNKNOWN_TOPIC")
    assert not error.retriable and not error.outcome_unknown, error
    fails_with(publish(topic="keyed"), grpc.StatusCode.INVALID_ARGUMENT, "ERROR_CODE_INVALID_REQUEST")
    bad = [records_pb2.PublishRecord(value=b"v", partition=6)]
    fails_with(publish(topic="keyed", records=bad), grpc.StatusCode.NOT_FOUND, "ERROR_CODE_UNKNOWN_PARTITION")


def check_publish_stream(stub):
    from highwater.v1 import common_pb2, records_pb2

    def requests():
        for number in range(200):
            topic = "absent" if number == 100 else "streamed"
            record = records_pb2.PublishRecord(key=b"one", value=str(number).encode())
            yield records_pb2.PublishRequest(topic=topic, records=[record], correlation_id=1000 + number)

    answers = list(stub.PublishStream(requests(), timeout=30))
    assert [answer.correlation_id for answer in answers] == list(range(1000, 1200))
    failed = [answer for answer in answers if answer.HasField("error")]
    assert [answer.correlation_id for answer in failed] == [1100], failed
    assert failed[0].error.code == common_pb2.ERROR_CODE_UNKNOWN_TOPIC, failed
    offsets = [answer.results[0].offset for answer in answers if not answer.HasField("error")]
    # One partition, in the order sent.
    assert offsets == sorted(set(offsets)), offsets
    read = [record for answer in stub.Read(records_pb2.ReadRequest(topic="streamed"), timeout=20) for record in answer.records]
    assert [int(record.value) for record in read] == [number for number in range(200) if number != 100]


def check_publisher(stubs):
    from highwater.v1 import data_pb2, records_pb2

    def request(sequence, **of):
        record = records_pb2.PublishRecord(key=b"one", value=str(sequence).encode())
        return records_pb2.PublishRequest(
            topic="numbered", records=[record] * 3, publisher_id="checkout-7", sequence=sequence, **of
        )

    # Each again through every broker: answered as the first time, and stored once.
    for sequence in range(1, 6):
        first, *again = [stub.Publish(request(sequence), timeout=30).results for stub in stubs]
        assert all(result.HasField("offset") for result in first), first
        assert all(results == first for results in again), (first, again)
    old = stubs[0].Publish(request(2), timeout=30).results
    assert not any(result.HasField("offset") or result.HasField("error") for result in old), old
    gap = fails_with(
        lambda: stubs[1].Publish(request(9), timeout=30),
        grpc.StatusCode.FAILED_PRECONDITION,
        "ERROR_CODE_OUT_OF_ORDER_SEQUENCE",
    )
    assert "the next one is 6" in gap.message and not gap.retriable and not gap.outcome_unknown, gap
    fails_with(
        lambda: stubs[1].Publish(request(6, acks=data_pb2.ACKS_LEADER), timeout=30),
        grpc.StatusCode.INVALID_ARGUMENT,
        "ERROR_CODE_INVALID_REQUEST",
    )
    answers = list(stubs[2].PublishStream((request(sequence) for sequence in (5, 6, 7)), timeout=30))
    assert not any(answer.HasField("error") for answer in answers), answers
    committed = records_pb2.ReadRequest(topic="numbered", isolation_level=data_pb2.ISOLATION_LEVEL_READ_COMMITTED)
    read, deadline = [], time.monotonic() + 20
    # What is committed is seen a moment after the answer.
    while len(read) < 21 and time.monotonic() < deadline:
        read = [record for answer in stubs[0].Read(committed, timeout=20) for record in answer.records]
    assert [int(record.value) for record in read] == [sequence for sequence in range(1, 8) for _ in range(3)], read


def check_read(stubs):
    from highwater.v1 import records_pb2

    stub = stubs[0]

    def read(through=stub, **of):
        answers = through.Read(records_pb2.ReadRequest(topic="read", **of), timeout=20)
        return [record for answer in answers for record in answer.records]

    header = records_pb2.RecordHeader
    sent = [
        records_pb2.PublishRecord(partition=0, key=b"", value=b"", timestamp_ms=1_000),
        records_pb2.PublishRecord(partition=0, timestamp_ms=2_000),
        records_pb2.PublishRecord(
            partition=0, value=b"x", timestamp_ms=3_000, headers=[header(name="a", value=b"1"), header(name="a")]
        ),
    ]
    first = stub.Publish(records_pb2.PublishRequest(topic="read", records=sent), timeout=20).results[0].offset
    start = records_pb2.ReadStart
    partition = records_pb2.PartitionStart
    for through in stubs:
        found = read(through, partitions=[partition(partition=0, start=start(offset=first))])
        assert [record.timestamp_ms for record in found] == [1_000, 2_000, 3_000], found
        empty, null, headed = found
        assert empty.HasField("key") and empty.key == b"" and empty.HasField("value") and empty.value == b""
        assert not null.HasField("key") and not null.HasField("value")
        assert [(it.name, it.HasField("value")) for it in headed.headers] == [("a", True), ("a", False)]
    assert len(read(records_max=2)) == 2
    assert read(start=start(latest=True)) == []
    late = read(partitions=[partition(partition=0)], start=start(timestamp_ms=2_500))
    assert late and late[0].offset >= first, late

    beyond = partition(partition=0, start=start(offset=1_000_000))
    error = fails_with(
        lambda: read(partitions=[beyond]), grpc.StatusCode.OUT_OF_RANGE, "ERROR_CODE_OFFSET_OUT_OF_RANGE"
    )
    assert error.valid_offsets.end == first + 3, error
    fails_with(
        lambda: list(stub.Read(records_pb2.ReadRequest(topic="absent"), timeout=20)),
        grpc.StatusCode.NOT_FOUND,
        "ERROR_CODE_UNKNOWN_TOPIC",
    )

    # Follows: what is published after the call arrives.
    request = records_pb2.ReadRequest(topic="read", start=start(latest=True), follow=True)
    following = stub.Read(request, timeout=20)
    following.initial_metadata()
    stubs[1].Publish(records_pb2.PublishRequest(topic="read", records=[records_pb2.PublishRecord(value=b"new")]), timeout=20)
    assert next(following).records[0].value == b"new"
    following.cancel()


class Member:
    """One stream as one member of a group. A thread takes its answers."""

    def __init__(self, stub, credit):
        from highwater.v1 import records_pb2

        self.requests = queue.Queue()
        self.answers = queue.Queue()
        self.owned = set()
        self.ask(
            join=records_pb2.SubscribeJoin(
                group_id="readers", topics=["grouped"], credit=credit, release_wait_ms=5_000
            )
        )
        self.call = stub.Subscribe(iter(self.requests.get, None))
        threading.Thread(target=self.take, daemon=True).start()

    def ask(self, **request):
        from highwater.v1 import records_pb2

        self.requests.put(records_pb2.SubscribeRequest(**request))

    def take(self):
        try:
            for answer in self.call:
                self.answers.put(answer)
            self.answers.put(None)
        except grpc.RpcError as failure:
            self.answers.put(failure)

    def next(self):
        """The next answer; changes of the assignment are taken in, and released."""
        from highwater.v1 import records_pb2

        answer = self.answers.get(timeout=STATES_WITHIN_S)
        if isinstance(answer, grpc.RpcError):
            raise answer
        if answer is not None and answer.WhichOneof("response") == "change":
            partitions = {(it.topic, it.partition) for it in answer.change.partitions}
            if answer.change.kind == records_pb2.ASSIGNMENT_CHANGE_KIND_ASSIGNED:
                self.owned |= partitions
            else:
                self.owned -= partitions
            if answer.change.awaits_release:
                self.ask(release=records_pb2.SubscribeRelease(change_id=answer.change.change_id))
        return answer

    def records(self, enough):
        """Records until `enough(them)`, and the last delivery's number."""
        found, last = [], 0
        while not enough(found):
            answer = self.next()
            if answer.HasField("delivery"):
                found += answer.delivery.records
                last = answer.delivery.delivery_id
        return found, last

    def commit(self, up_to_delivery):
        from highwater.v1 import records_pb2

        self.ask(commit=records_pb2.SubscribeCommit(commit_id=1, up_to_delivery=up_to_delivery))
        while not (answer := self.next()).HasField("commit"):
            pass
        assert not answer.commit.HasField("error"), answer


def check_subscribe(stubs):
    """Two streams share a group; one is cut, and the other takes over from what was committed."""
    from highwater.v1 import records_pb2

    records = [
        records_pb2.PublishRecord(partition=partition, value=f"{partition}-{number}".encode())
        for partition in range(4)
        for number in range(10)
    ]
    stubs[0].Publish(records_pb2.PublishRequest(topic="grouped", records=records), timeout=20)
    one = Member(stubs[0], credit=15)
    found, last = one.records(lambda found: len(found) == 15)
    one.commit(last)
    two = Member(stubs[1], credit=1000)
    while len(two.owned) < 2:
        two.next()
    while len(one.owned) > 2:
        one.next()
    assert not one.owned & two.owned and len(one.owned | two.owned) == 4, (one.owned, two.owned)

    one.ask(credit=records_pb2.SubscribeCredit(records=5))
    uncommitted, _ = one.records(lambda found: len(found) >= 1)
    one.call.cancel()
    # Everything that `one` did not commit, and nothing that it did.
    done = {record.value for record in found}
    rest = {record.value for record in records} - done
    taken_over, last = two.records(lambda found: rest <= {record.value for record in found})
    values = [record.value for record in taken_over]
    assert set(values) == rest and len(values) == len(rest), values
    assert {record.value for record in uncommitted} <= rest
    two.commit(last)
    two.requests.put(None)
    while two.next() is not None:
        pass
    # Nothing is left for the next one.
    three = Member(stubs[2], credit=1000)
    while len(three.owned) < 4:
        three.next()
    stubs[0].Publish(
        records_pb2.PublishRequest(topic="grouped", records=[records_pb2.PublishRecord(value=b"last")]), timeout=20
    )
    assert [record.value for record in three.records(lambda found: found)[0]] == [b"last"]
    three.call.cancel()


def main():
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        generate_stubs(folder)
        from highwater.v1 import records_pb2_grpc

        with Cluster(sys.argv[1]) as cluster:
            channels = [grpc.insecure_channel(address) for address in cluster.brokers]
            stubs = [records_pb2_grpc.RecordsStub(channel) for channel in channels]
            for topic, partitions in (("plain", 1), ("keyed", 6), ("streamed", 3), ("numbered", 1), ("read", 1), ("grouped", 4)):
                create_topic(channels[0], topic, partitions)
            for name, check in (
                ("by reflection and health", lambda: check_by_reflection(cluster.brokers[0])),
                ("publish", lambda: check_publish(stubs)),
                ("publish stream", lambda: check_publish_stream(stubs[1])),
                ("publisher", lambda: check_publisher(stubs)),
                ("read", lambda: check_read(stubs)),
                ("subscribe", lambda: check_subscribe(stubs)),
            ):
                check()
                print(f"{time.monotonic() - started:5.1f} s: {name}: passed", flush=True)


if __name__ == "__main__":
    main()
