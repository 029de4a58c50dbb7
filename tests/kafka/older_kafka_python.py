"""kafka-python 2 at work, as many programs have it: other requests, in other versions, than its successor sends. Run by test_older.py."""

import sys

import kafka
import kafka.admin
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic

bootstrap, topic = sys.argv[1].split(","), sys.argv[2]
PARTITIONS, OF_EACH = 3, 50
CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
ALL = OF_EACH * len(CODECS)
SOON_MS = 30_000

assert kafka.__version__.startswith("2."), kafka.__version__
admin = KafkaAdminClient(bootstrap_servers=bootstrap)
created = admin.create_topics([NewTopic(topic, PARTITIONS, 3)])
assert created.topic_errors[0][1] == 0, created
assert topic in admin.list_topics()

sent = set()
for codec in CODECS:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type=codec)
    futures = []
    for n in range(OF_EACH):
        key, value = b"key %d" % n, b"%s %d" % (str(codec).encode(), n) * 20
        futures.append(producer.send(topic, key=key, value=value, headers=[("codec", str(codec).encode())]))
        sent.add((key, value))
    for future in futures:
        future.get(timeout=SOON_MS / 1000)
    producer.close()

member = KafkaConsumer(
    topic, bootstrap_servers=bootstrap, group_id=topic, auto_offset_reset="earliest", consumer_timeout_ms=SOON_MS
)
seen = [next(member) for _ in range(ALL)]
assert {(it.key, it.value) for it in seen} == sent
assert all(it.headers == [("codec", it.value.split()[0])] for it in seen)
member.commit()
places = [TopicPartition(topic, it) for it in range(PARTITIONS)]
ends = member.end_offsets(places)
assert sum(ends.values()) == ALL
assert {it: member.committed(it) for it in places} == ends
member.close()

reader = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=SOON_MS)
place = max(places, key=ends.get)
reader.assign([place])
assert reader.beginning_offsets([place]) == {place: 0}
assert reader.offsets_for_times({place: 0})[place].offset == 0
reader.seek(place, 5)
assert next(reader).offset == 5
reader.close()

assert (topic, "consumer") in admin.list_consumer_groups()
[group] = admin.describe_consumer_groups([topic])
assert (group.error_code, group.group, group.state) == (0, topic, "Empty"), group
# Which it asks for unasked.
assert set(group.authorized_operations) == {"READ", "DELETE", "DESCRIBE"}, group
assert {it: found.offset for it, found in admin.list_consumer_group_offsets(topic).items()} == ends
assert [it[1].errno for it in admin.delete_consumer_groups([topic])] == [0]

resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "100000"})
assert admin.alter_configs([resource]).resources[0][0] == 0
[described] = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
assert {it[0]: it[1] for it in described.resources[0][4]}["retention.ms"] == "100000"
assert len(admin.describe_cluster()["brokers"]) == 3
grown = admin.create_partitions({topic: NewPartitions(5)})
assert grown.topic_errors[0][1] == 0, grown
[described] = admin.describe_topics([topic])
assert len(described["partitions"]) == 5
deleted = admin.delete_topics([topic])
assert deleted.topic_error_codes[0][1] == 0, deleted
admin.close()
