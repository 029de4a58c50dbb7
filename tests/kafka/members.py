"""Members of groups: each a thread that polls, commits what it saw, and tells what it is assigned."""

import asyncio
import re
import subprocess
import threading

import aiokafka
import confluent_kafka
import kafka
from aiokafka.coordinator.assignors import range as aio_range
from aiokafka.coordinator.assignors import roundrobin as aio_round_robin
from aiokafka.coordinator.assignors.sticky import sticky_assignor as aio_sticky
from kafka.coordinator.assignors import cooperative_sticky, roundrobin
from kafka.coordinator.assignors import range as range_assignor
from kafka.coordinator.assignors.sticky import sticky_assignor


class Member(threading.Thread):
    def __init__(self, bootstrap, group, topic, assignor, instance=None):
        super().__init__(daemon=True)
        self.bootstrap, self.group, self.topic = bootstrap, group, topic
        self.assignor, self.instance = assignor, instance
        self.stopping = threading.Event()
        self.assigned, self.history, self.seen, self.failure = set(), [], [], None

    def run(self):
        try:
            self.take_part()
        except Exception as failure:
            self.failure = failure

    def saw(self, assigned, records):
        """`records`: (partition, offset, value) of each."""
        self.seen += records
        assigned = set(assigned)
        if assigned != self.assigned:
            self.history.append(assigned)
        self.assigned = assigned

    def end(self):
        self.stopping.set()
        self.join(30)
        assert not self.is_alive(), "the member did not end"
        assert self.failure is None, self.failure


class ConfluentMember(Member):
    assignors = ["range", "roundrobin", "cooperative-sticky", "new protocol"]

    def take_part(self):
        config = {"bootstrap.servers": self.bootstrap, "group.id": self.group, "enable.auto.commit": False}
        config |= {"auto.offset.reset": "earliest"}
        if self.assignor == "new protocol":
            config |= {"group.protocol": "consumer"}
        else:
            config |= {"partition.assignment.strategy": self.assignor, "session.timeout.ms": 10_000}
            config |= {"heartbeat.interval.ms": 500}
        if self.instance:
            config["group.instance.id"] = self.instance
        consumer = confluent_kafka.Consumer(config)
        consumer.subscribe([self.topic])
        while not self.stopping.is_set():
            records = [it for it in consumer.consume(200, timeout=0.1) if it.error() is None]
            self.saw({it.partition for it in consumer.assignment()}, [(it.partition(), it.offset(), it.value()) for it in records])
            if records:
                try:
                    consumer.commit(asynchronous=False)
                except confluent_kafka.KafkaException as failure:
                    # In the middle of a rebalance: what was seen comes again, to whoever has the partition then.
                    assert failure.args[0].code() in REBALANCE_ERRORS, failure
        consumer.close()


ERRORS = confluent_kafka.KafkaError
REBALANCE_ERRORS = {
    ERRORS.REBALANCE_IN_PROGRESS,
    ERRORS.ILLEGAL_GENERATION,
    ERRORS.UNKNOWN_MEMBER_ID,
    ERRORS.STALE_MEMBER_EPOCH,
    ERRORS._NO_OFFSET,
}


class PythonMember(Member):
    """What kafka-python and aiokafka call alike."""

    def config(self, strategies):
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "group_id": self.group,
            "group_instance_id": self.instance,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 500,
            "partition_assignment_strategy": [strategies[self.assignor]],
        }

    def saw_polled(self, consumer, polled):
        """Returns whether there is something to commit."""
        records = [(it.partition, it.offset, it.value) for got in polled.values() for it in got]
        self.saw({it.partition for it in consumer.assignment()}, records)
        return records


class KafkaPythonMember(PythonMember):
    assignors = ["range", "roundrobin", "sticky", "cooperative-sticky"]

    def take_part(self):
        strategies = {
            "range": range_assignor.RangePartitionAssignor,
            "roundrobin": roundrobin.RoundRobinPartitionAssignor,
            "sticky": sticky_assignor.StickyPartitionAssignor,
            "cooperative-sticky": cooperative_sticky.CooperativeStickyAssignor,
        }
        consumer = kafka.KafkaConsumer(self.topic, **self.config(strategies))
        while not self.stopping.is_set():
            if self.saw_polled(consumer, consumer.poll(timeout_ms=100)):
                try:
                    consumer.commit()
                except (kafka.errors.CommitFailedError, kafka.errors.RebalanceInProgressError):
                    pass
        consumer.close(autocommit=False)


class AioKafkaMember(PythonMember):
    assignors = ["range", "roundrobin", "sticky"]

    def take_part(self):
        asyncio.run(self.take_part_in_loop())

    async def take_part_in_loop(self):
        strategies = {
            "range": aio_range.RangePartitionAssignor,
            "roundrobin": aio_round_robin.RoundRobinPartitionAssignor,
            "sticky": aio_sticky.StickyPartitionAssignor,
        }
        consumer = aiokafka.AIOKafkaConsumer(self.topic, **self.config(strategies))
        await consumer.start()
        while not self.stopping.is_set():
            if self.saw_polled(consumer, await consumer.getmany(timeout_ms=100)):
                try:
                    await consumer.commit()
                except (aiokafka.errors.CommitFailedError, aiokafka.errors.IllegalStateError):
                    pass
        await consumer.stop()


class KcatMember(Member):
    """Tells on standard error what it is assigned; commits by itself, and when it ends."""

    assignors = ["range", "roundrobin", "cooperative-sticky"]

    def take_part(self):
        config = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 200, "session.timeout.ms": 10_000}
        config |= {"heartbeat.interval.ms": 500, "partition.assignment.strategy": self.assignor}
        if self.instance:
            config["group.instance.id"] = self.instance
        options = [it for name, value in config.items() for it in ("-X", f"{name}={value}")]
        command = ["kcat", "-b", self.bootstrap, *options, "-u", "-f", "%p %o %s\n", "-G", self.group, self.topic]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as kcat:
            helpers = [
                threading.Thread(target=self.hear, args=(kcat.stderr,), daemon=True),
                threading.Thread(target=lambda: (self.stopping.wait(), kcat.terminate()), daemon=True),
            ]
            for it in helpers:
                it.start()
            for line in kcat.stdout:
                partition, offset, value = line.split()
                self.saw(self.assigned, [(int(partition), int(offset), value)])
            for it in helpers:
                it.join()
        assert kcat.returncode == 0, f"kcat: exit code {kcat.returncode}"

    def hear(self, stderr):
        for line in stderr:
            if b"rebalanced" in line:
                partitions = set(map(int, re.findall(rb" \[(\d+)\]", line)))
                is_more = b"assigned: " in line or b"incremental assignment" in line
                self.saw(self.assigned | partitions if is_more else self.assigned - partitions, [])


MEMBERS = {"confluent-kafka": ConfluentMember, "kafka-python": KafkaPythonMember, "aiokafka": AioKafkaMember, "kcat": KcatMember}
