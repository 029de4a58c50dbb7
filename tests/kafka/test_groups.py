"""Groups of each client, with each of its assignors."""

import asyncio
import subprocess

import aiokafka.admin
import confluent_kafka
import confluent_kafka.admin
import kafka.admin
import pytest

from clients import Confluent, Record
from cluster import SOON_S, until
from members import MEMBERS, ConfluentMember

PARTITIONS = 6
ALL = set(range(PARTITIONS))
KINDS = [(name, assignor) for name, kind in MEMBERS.items() for assignor in kind.assignors]


def fill(cluster, topic, count):
    records = [Record(b"%d" % n, partition=n % PARTITIONS) for n in range(count)]
    Confluent(cluster.kafka).produce(topic, records)


def shared(members):
    """Whether the members have all partitions, and none twice."""
    for it in members:
        assert it.failure is None, it.failure
    return sorted(partition for it in members for partition in it.assigned) == sorted(ALL) and all(it.assigned for it in members)


def committed(bootstrap, group, topic):
    """As another client sees it."""
    consumer = Confluent(bootstrap).consumer(**{"group.id": group})
    asked = [confluent_kafka.TopicPartition(topic, it) for it in range(PARTITIONS)]
    found = {it.partition: it.offset for it in consumer.committed(asked, timeout=SOON_S)}
    consumer.close()
    return found


@pytest.mark.parametrize("name, assignor", KINDS, ids=[f"{name}-{assignor}" for name, assignor in KINDS])
def test_members_share_the_partitions_and_take_over_from_those_that_leave(cluster, new_topic, name, assignor):
    topic, group = new_topic(PARTITIONS), f"group-{name}-{assignor}"
    fill(cluster, topic, 300)
    members = [MEMBERS[name](cluster.kafka, group, topic, assignor) for _ in range(2)]
    members[0].start()
    until("the first to have all", lambda: shared(members[:1]))
    members[1].start()
    until("the two to share", lambda: shared(members))
    fill(cluster, topic, 300)
    until("all seen", lambda: len(set(members[0].seen) | set(members[1].seen)) == 600)
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 100))
    members[0].end()
    until("the other to have all", lambda: members[1].assigned == ALL)
    fill(cluster, topic, 60)
    until("the rest seen", lambda: len(set(members[0].seen) | set(members[1].seen)) == 660)
    members[1].end()
    # Where nothing was committed, nothing is skipped; what was is not read again.
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 110))
    last = MEMBERS[name](cluster.kafka, group, topic, assignor)
    last.start()
    until("the last to have all", lambda: last.assigned == ALL)
    fill(cluster, topic, 6)
    until("what came since", lambda: len(last.seen) >= 6)
    assert sorted(last.seen) == [(it, 110, b"%d" % it) for it in range(PARTITIONS)]
    last.end()


STATIC = [*((name, "range") for name in MEMBERS), ("confluent-kafka", "new protocol")]


@pytest.mark.parametrize("name, assignor", STATIC, ids=["-".join(it) for it in STATIC])
def test_a_static_member_that_comes_back_has_its_partitions_and_disturbs_nobody(cluster, new_topic, name, assignor):
    topic, group = new_topic(PARTITIONS), f"static-{name}-{assignor}"
    kind = MEMBERS[name]
    members = [kind(cluster.kafka, group, topic, assignor, f"instance-{n}") for n in range(2)]
    for it in members:
        it.start()
    until("the two to share", lambda: shared(members))
    had, history = set(members[0].assigned), list(members[1].history)
    members[0].end()
    again = kind(cluster.kafka, group, topic, assignor, "instance-0")
    again.start()
    until("the partitions back", lambda: again.assigned == had)
    fill(cluster, topic, 60)
    until("all seen", lambda: len(set(again.seen) | set(members[1].seen)) == 60)
    assert members[1].history == history, "the other was disturbed"
    again.end()
    members[1].end()


# One of the new protocol, as the native one is; and classic ones, of which each rebalance is another.
BOTH_DOORS = [
    ("confluent-kafka", "new protocol"),
    ("confluent-kafka", "cooperative-sticky"),
    ("kafka-python", "range"),
    ("aiokafka", "roundrobin"),
    ("kcat", "range"),
]


@pytest.mark.parametrize("name, assignor", BOTH_DOORS, ids=["-".join(it) for it in BOTH_DOORS])
def test_a_group_has_members_of_both_doors(cluster, new_topic, tmp_path, name, assignor):
    topic, group = new_topic(PARTITIONS), f"group-of-both-doors-{name}-{assignor}"
    fill(cluster, topic, 60)
    kafkas = MEMBERS[name](cluster.kafka, group, topic, assignor)
    kafkas.start()
    until("all to the first", lambda: shared([kafkas]))
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 10))
    printed = tmp_path / "printed"
    command = [cluster.binary, "consume", topic, "--group", group, "--format", "%p@%o", "--bootstrap", cluster.bootstrap]
    with open(printed, "wb") as out, subprocess.Popen(command, stdout=out) as native:
        try:
            until("half to the other", lambda: len(kafkas.assigned) == PARTITIONS // 2)
            fill(cluster, topic, 600)

            def places():
                natives = set(printed.read_text().split())
                return natives, {f"{partition}@{offset}" for partition, offset, _ in kafkas.seen if offset >= 10}

            until("all of the new ones", lambda: sum(map(len, places())) >= 600)
            natives, kafkas_own = places()
            assert len(natives) == len(kafkas_own) == 300 and not natives & kafkas_own
        finally:
            native.terminate()
    until("all back to the first", lambda: kafkas.assigned == ALL)
    kafkas.end()
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 110))


def test_administrators_see_and_change_a_groups_offsets_with_librdkafka(cluster, new_topic):
    topic, group = new_topic(PARTITIONS), "group-admin-librdkafka"
    fill(cluster, topic, 60)
    member = ConfluentMember(cluster.kafka, group, topic, "range")
    member.start()
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 10))
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": cluster.kafka})
    described = admin.describe_consumer_groups([group])[group].result(SOON_S)
    assert described.state == confluent_kafka.ConsumerGroupState.STABLE
    assert described.authorized_operations is None
    described = admin.describe_consumer_groups([group], include_authorized_operations=True)[group].result(SOON_S)
    assert {it.name for it in described.authorized_operations} == {"READ", "DELETE", "DESCRIBE"}
    assert sum(len(it.assignment.topic_partitions) for it in described.members) == PARTITIONS
    with pytest.raises(confluent_kafka.KafkaException) as failure:
        admin.delete_consumer_groups([group])[group].result(SOON_S)
    assert failure.value.args[0].code() == confluent_kafka.KafkaError.NON_EMPTY_GROUP
    member.end()
    assert group in {it.group_id for it in admin.list_consumer_groups().result(SOON_S).valid}
    asked = confluent_kafka.ConsumerGroupTopicPartitions(group)
    listed = admin.list_consumer_group_offsets([asked])[group].result(SOON_S)
    assert {(it.partition, it.offset) for it in listed.topic_partitions} == {(it, 10) for it in ALL}
    moved = [confluent_kafka.TopicPartition(topic, 2, 4)]
    altered = admin.alter_consumer_group_offsets([confluent_kafka.ConsumerGroupTopicPartitions(group, moved)])
    altered[group].result(SOON_S)
    assert committed(cluster.kafka, group, topic)[2] == 4
    admin.delete_consumer_groups([group])[group].result(SOON_S)
    assert group not in {it.group_id for it in admin.list_consumer_groups().result(SOON_S).valid}
    assert set(committed(cluster.kafka, group, topic).values()) == {confluent_kafka.OFFSET_INVALID}


def test_administrators_see_and_change_a_groups_offsets_with_kafka_python(cluster, new_topic):
    topic, group = new_topic(PARTITIONS), "group-admin-python"
    fill(cluster, topic, 60)
    member = MEMBERS["kafka-python"](cluster.kafka, group, topic, "range")
    member.start()
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 10))
    member.end()
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=cluster.kafka.split(","))
    [described] = admin.describe_groups([group]).values()
    assert (described["group_state"], described["members"]) == ("Empty", [])
    [offsets] = admin.list_group_offsets([group]).values()
    assert {(it.partition, found.offset) for it, found in offsets.items()} == {(it, 10) for it in ALL}
    at = kafka.TopicPartition(topic, 3)
    admin.alter_group_offsets(group, {at: kafka.OffsetAndMetadata(7, "moved", -1)})
    assert committed(cluster.kafka, group, topic)[3] == 7
    admin.delete_group_offsets(group, [at])
    assert committed(cluster.kafka, group, topic)[3] == confluent_kafka.OFFSET_INVALID
    admin.delete_groups([group])
    assert set(committed(cluster.kafka, group, topic).values()) == {confluent_kafka.OFFSET_INVALID}
    admin.close()


def test_administrators_see_a_group_with_aiokafka(cluster, new_topic):
    topic, group = new_topic(PARTITIONS), "group-admin-aiokafka"
    fill(cluster, topic, 60)
    member = MEMBERS["aiokafka"](cluster.kafka, group, topic, "range")
    member.start()
    until("all committed", lambda: committed(cluster.kafka, group, topic) == dict.fromkeys(ALL, 10))

    async def ask():
        admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=cluster.kafka.split(","))
        await admin.start()
        try:
            listed = await admin.list_consumer_groups()
            [described] = await admin.describe_consumer_groups([group])
            return listed, described.groups[0], await admin.list_consumer_group_offsets(group)
        finally:
            await admin.close()

    listed, described, offsets = asyncio.run(asyncio.wait_for(ask(), SOON_S))
    assert group in {it[0] for it in listed}
    error, group_id, state = described[:3]
    assert (error, group_id, state) == (0, group, "Stable")
    assert {(it.partition, found.offset) for it, found in offsets.items()} == {(it, 10) for it in ALL}
    member.end()
