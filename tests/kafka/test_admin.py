"""Administration by each library's own admin client."""

import asyncio
import time

import aiokafka.admin
import confluent_kafka.admin
import kafka
import kafka.admin
import pytest

from clients import Confluent, Record
from cluster import SOON_S, until


class Refused(Exception):
    """The broker's error code, by number."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class ConfluentAdmin:
    def __init__(self, bootstrap):
        self.admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap})

    def settle(self, futures):
        try:
            return {key: future.result(SOON_S) for key, future in futures.items()}
        except confluent_kafka.KafkaException as failure:
            raise Refused(failure.args[0].code()) from failure

    def create(self, topic, partitions, configs=None, validate_only=False):
        new = confluent_kafka.admin.NewTopic(topic, partitions, 3, config=configs or {})
        self.settle(self.admin.create_topics([new], validate_only=validate_only))

    def delete(self, topic):
        self.settle(self.admin.delete_topics([topic]))

    def topics(self):
        return {name: len(it.partitions) for name, it in self.admin.list_topics(timeout=SOON_S).topics.items()}

    def grow(self, topic, partitions):
        self.settle(self.admin.create_partitions([confluent_kafka.admin.NewPartitions(topic, partitions)]))

    def configs(self, topic):
        resource = confluent_kafka.admin.ConfigResource("topic", topic)
        [found] = self.settle(self.admin.describe_configs([resource])).values()
        return {name: it.value for name, it in found.items()}

    def set_config(self, topic, name, value):
        entry = confluent_kafka.admin.ConfigEntry(
            name, value, incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
        )
        resource = confluent_kafka.admin.ConfigResource("topic", topic, incremental_configs=[entry])
        self.settle(self.admin.incremental_alter_configs([resource]))

    def delete_records(self, topic, partition, before):
        at = confluent_kafka.TopicPartition(topic, partition, before)
        [it] = self.settle(self.admin.delete_records([at])).values()
        return it.low_watermark

    def brokers(self):
        return {it.id for it in self.admin.describe_cluster().result(SOON_S).nodes}


class KafkaPythonAdmin:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def call(self, what):
        admin = kafka.admin.KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))
        try:
            return what(admin)
        except kafka.errors.BrokerResponseError as failure:
            raise Refused(failure.errno) from failure
        finally:
            admin.close()

    def create(self, topic, partitions, configs=None, validate_only=False):
        asked = {topic: {"num_partitions": partitions, "replication_factor": 3, "configs": configs or {}}}
        self.call(lambda admin: admin.create_topics(asked, validate_only=validate_only))

    def delete(self, topic):
        self.call(lambda admin: admin.delete_topics([topic]))

    def topics(self):
        described = self.call(lambda admin: admin.describe_topics())
        return {it["name"]: len(it["partitions"]) for it in described}

    def grow(self, topic, partitions):
        self.call(lambda admin: admin.create_partitions({topic: partitions}))

    def configs(self, topic):
        resource = kafka.admin.ConfigResource("topic", topic)
        found = self.call(lambda admin: admin.describe_configs([resource], config_filter="all"))
        return {name: it["value"] for name, it in found["topic"][topic].items()}

    def set_config(self, topic, name, value):
        resource = kafka.admin.ConfigResource("topic", topic, {name: value})
        answer = self.call(lambda admin: admin.alter_configs([resource], raise_on_unknown=False))
        said = answer["topic"][topic]
        if said != "OK":
            # "[Error 40] ...": it hands out no more than a text.
            raise Refused(int(said.split("]")[0].removeprefix("[Error ")))

    def delete_records(self, topic, partition, before):
        at = kafka.TopicPartition(topic, partition)
        return self.call(lambda admin: admin.delete_records({at: before}))[at]["low_watermark"]

    def brokers(self):
        return {it["broker_id"] for it in self.call(lambda admin: admin.describe_cluster())["brokers"]}


class AioKafkaAdmin:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def call(self, what):
        async def run():
            admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))
            await admin.start()
            try:
                return await what(admin)
            except aiokafka.errors.BrokerResponseError as failure:
                raise Refused(failure.errno) from failure
            finally:
                await admin.close()

        return asyncio.run(asyncio.wait_for(run(), SOON_S))

    def check(self, errors):
        """It hands out the answers as they are."""
        for _, code, *_ in errors:
            if code:
                raise Refused(code)

    def create(self, topic, partitions, configs=None, validate_only=False):
        new = aiokafka.admin.NewTopic(topic, partitions, 3, topic_configs=configs or {})
        answer = self.call(lambda admin: admin.create_topics([new], validate_only=validate_only))
        self.check(answer.topic_errors)

    def delete(self, topic):
        answer = self.call(lambda admin: admin.delete_topics([topic]))
        self.check(answer.topic_error_codes)

    def topics(self):
        described = self.call(lambda admin: admin.describe_topics())
        return {it["topic"]: len(it["partitions"]) for it in described}

    def grow(self, topic, partitions):
        self.call(lambda admin: admin.create_partitions({topic: aiokafka.admin.NewPartitions(partitions)}))

    def resource(self, topic, configs=None):
        return aiokafka.admin.config_resource.ConfigResource(
            aiokafka.admin.config_resource.ConfigResourceType.TOPIC, topic, configs
        )

    def configs(self, topic):
        [answer] = self.call(lambda admin: admin.describe_configs([self.resource(topic)]))
        [(code, _, _, _, found)] = [it[:5] for it in answer.resources]
        if code:
            raise Refused(code)
        return {it[0]: it[1] for it in found}

    def set_config(self, topic, name, value):
        # AlterConfigs, which replaces all: the newer one it does not have.
        [answer] = self.call(lambda admin: admin.alter_configs([self.resource(topic, {name: value})]))
        for code, *_ in answer.resources:
            if code:
                raise Refused(code)

    def delete_records(self, topic, partition, before):
        at = aiokafka.TopicPartition(topic, partition)
        return self.call(lambda admin: admin.delete_records({at: aiokafka.admin.RecordsToDelete(before)}))[at]

    def brokers(self):
        return {it["node_id"] for it in self.call(lambda admin: admin.describe_cluster())["brokers"]}


ADMINS = {"confluent-kafka": ConfluentAdmin, "kafka-python": KafkaPythonAdmin, "aiokafka": AioKafkaAdmin}
TOPIC_EXISTS, UNKNOWN_TOPIC, INVALID_PARTITIONS, INVALID_CONFIG, INVALID_TOPIC = 36, 3, 37, 40, 17


@pytest.fixture
def admin(library):
    return ADMINS[library.name](library.bootstrap)


def refused_with(code, call):
    with pytest.raises(Refused) as failure:
        call()
    assert failure.value.code == code


def test_topics_are_made_listed_grown_and_deleted(cluster, library, admin):
    topic = f"made-by-{library.name}"
    admin.create(topic, 3, validate_only=True)
    assert topic not in cluster.command("topic", "list")
    admin.create(topic, 3, {"cleanup.policy": "compact", "max.message.bytes": "2000000"})
    assert admin.topics()[topic] == 3
    described = cluster.describe(topic)
    configs = {it["name"]: it["value"] for it in described["configs"]}
    assert (configs["cleanup.policy"], configs["max.message.bytes"]) == ("compact", "2000000")
    refused_with(TOPIC_EXISTS, lambda: admin.create(topic, 3))
    refused_with(INVALID_TOPIC, lambda: admin.create("no/name", 3))
    refused_with(INVALID_CONFIG, lambda: admin.create("other", 3, {"cleanup.policy": "never"}))
    # Writing to partitions that were added, by a client that learns of them.
    admin.grow(topic, 5)
    # Whichever broker is asked.
    assert admin.topics()[topic] == 5
    library.produce(topic, [Record(b"in a new one", b"key", partition=4)])
    [got] = library.consume(topic, {4: 0}, 1)
    assert got.value == b"in a new one"
    refused_with(INVALID_PARTITIONS, lambda: admin.grow(topic, 2))
    admin.delete(topic)
    assert topic not in admin.topics()
    refused_with(UNKNOWN_TOPIC, lambda: admin.delete(topic))
    assert admin.brokers() == set(cluster.brokers)


def test_configs_are_shown_and_changed(library, admin, new_topic):
    topic = new_topic()
    assert admin.configs(topic)["retention.ms"] == str(7 * 86_400_000)
    admin.set_config(topic, "retention.ms", "86400000")
    assert admin.configs(topic)["retention.ms"] == "86400000"
    refused_with(INVALID_CONFIG, lambda: admin.set_config(topic, "retention.ms", "soon"))
    refused_with(INVALID_CONFIG, lambda: admin.set_config(topic, "no.such.config", "1"))
    assert admin.configs(topic)["retention.ms"] == "86400000"
    if library.name == "kafka-python":
        # It keeps the error to itself.
        assert admin.configs("not-there") == {}
    else:
        refused_with(UNKNOWN_TOPIC, lambda: admin.configs("not-there"))


def test_records_are_deleted_up_to_an_offset(library, admin, new_topic):
    topic = new_topic()
    library.produce(topic, [Record(b"%d" % n) for n in range(20)])
    assert admin.delete_records(topic, 0, 12) == 12
    assert library.ends(topic, 0) == (12, 20)
    got = library.consume(topic, {0: 12}, 8)
    assert [it.value for it in got] == [b"%d" % n for n in range(12, 20)]
    refused_with(1, lambda: admin.delete_records(topic, 0, 1000))


def test_a_compacted_topic_keeps_the_newest_of_each_key(cluster, clients, new_topic):
    topic = new_topic(cleanup_policy="compact", segment_ms=1000, min_cleanable_dirty_ratio=0.01)
    writer, newest = Confluent(cluster.kafka), {}

    def is_compacted():
        # A segment is rolled by what is written next.
        sent = [Record(b"%d" % time.monotonic_ns(), b"%d" % (n % 10)) for n in range(200)]
        writer.produce(topic, [*sent, Record(b"end", b"end")])
        newest.update({it.key: it.value for it in sent} | {b"end": b"end"})
        return len(read(writer)) < writer.ends(topic, 0)[1] / 2

    def read(client):
        """All there is, as far as the end is now: its last record is never compacted away."""
        end, got = client.ends(topic, 0)[1], []
        while not got or got[-1].offset < end - 1:
            got += client.consume(topic, {0: got[-1].offset + 1 if got else 0}, 1)
        return got

    until("compaction", is_compacted, 60)
    for client in clients:
        got = read(client)
        assert [it.offset for it in got] == sorted({it.offset for it in got})
        assert {it.key: it.value for it in got} == newest, client.name


def test_log_dirs_are_described(cluster, new_topic):
    topic = new_topic(2)
    Confluent(cluster.kafka).produce(topic, [Record(b"x" * 1000, partition=0) for _ in range(100)])

    def sizes():
        """Of each replica of the topic, by broker and partition."""
        answers = KafkaPythonAdmin(cluster.kafka).call(lambda admin: admin.describe_log_dirs({topic: [0, 1]}))
        assert all(folder["error_code"] == 0 and folder["total_bytes"] > 0 for it in answers for folder in it["log_dirs"])
        return {
            (it["broker"], partition["partition_index"]): partition["partition_size"]
            for it in answers
            for folder in it["log_dirs"]
            for of in folder["topics"]
            for partition in of["partitions"]
        }

    # Once the followers have all.
    until("the same size on all brokers", lambda: len({size for (_, it), size in sizes().items() if it == 0}) == 1)
    found = sizes()
    assert set(found) == {(broker, it) for broker in cluster.brokers for it in (0, 1)}
    assert all(size > 100_000 if partition == 0 else size == 0 for (_, partition), size in found.items())


def test_producers_of_a_partition_are_described(cluster, new_topic):
    topic = new_topic()
    at = kafka.TopicPartition(topic, 0)
    producer = kafka.KafkaProducer(bootstrap_servers=cluster.kafka.split(","), transactional_id="described")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"1", partition=0)
    producer.send(topic, b"2", partition=0)
    producer.flush(SOON_S)

    def described():
        [found] = KafkaPythonAdmin(cluster.kafka).call(lambda admin: admin.describe_producers([at]))[at].active_producers
        return found

    open_one = described()
    assert (open_one.last_sequence, open_one.current_transaction_start_offset) == (1, 0)
    producer.commit_transaction()
    producer.close()
    until("the marker", lambda: described().current_transaction_start_offset == -1)
    ended = described()
    assert (ended.producer_id, ended.producer_epoch) == (open_one.producer_id, open_one.producer_epoch)
