import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.*;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.*;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.header.internals.*;

/**
 * The Java client at work. Usage: JavaClient BOOTSTRAP PREFIX [CHECK ...] for one check after the other, by name, with topics that begin
 * with PREFIX; or JavaClient BOOTSTRAP --follow TOPIC RACK for the values of a partition, each as it comes, until it is ended.
 */
public class JavaClient {
    static final int PARTITIONS = 6;
    static final long SOON_MS = 30_000;
    static String bootstrap, prefix;

    interface Check { void run() throws Exception; }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();
    static {
        CHECKS.put("records", JavaClient::records);
        CHECKS.put("sizes", JavaClient::sizes);
        CHECKS.put("seeking", JavaClient::seeking);
        CHECKS.put("groups", JavaClient::groups);
        CHECKS.put("new-group-protocol", JavaClient::newGroupProtocol);
        CHECKS.put("static-members", JavaClient::staticMembers);
        CHECKS.put("transactions", JavaClient::transactions);
        CHECKS.put("fencing", JavaClient::fencing);
        CHECKS.put("topics", JavaClient::topics);
        CHECKS.put("configs", JavaClient::configs);
        CHECKS.put("cluster", JavaClient::cluster);
        CHECKS.put("group-administration", JavaClient::groupAdministration);
        CHECKS.put("errors", JavaClient::errors);
        CHECKS.put("load", JavaClient::load);
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        prefix = args[1];
        if (prefix.equals("--follow")) {
            follow(args[2], args[3]);
            return;
        }
        Collection<String> wanted = args.length > 2 ? Arrays.asList(args).subList(2, args.length) : CHECKS.keySet();
        int failed = 0;
        for (String name : wanted) {
            long began = System.nanoTime();
            try {
                CHECKS.get(name).run();
                System.out.printf("ok     %s (%d ms)%n", name, (System.nanoTime() - began) / 1_000_000);
            } catch (Throwable failure) {
                failed++;
                System.out.printf("FAILED %s%n", name);
                failure.printStackTrace(System.out);
            }
            System.out.flush();
        }
        System.exit(failed == 0 ? 0 : 1);
    }

    // What the checks share.

    static void that(boolean holds, Object otherwise) {
        if (!holds) throw new AssertionError(String.valueOf(otherwise));
    }

    static void same(Object found, Object expected) {
        that(Objects.equals(found, expected), "found " + found + ", not " + expected);
    }

    static void until(String what, Callable<Boolean> holds) throws Exception {
        long end = System.currentTimeMillis() + SOON_MS;
        while (!holds.call()) {
            that(System.currentTimeMillis() < end, what + ": not within " + SOON_MS + " ms");
            Thread.sleep(20);
        }
    }

    /** The exception that a call ends with. */
    static Throwable failure(Callable<?> call) {
        try {
            Object result = call.call();
            throw new AssertionError("it succeeded: " + result);
        } catch (ExecutionException failed) {
            return failed.getCause();
        } catch (Exception failed) {
            return failed;
        }
    }

    static Properties with(Object... settings) {
        Properties all = new Properties();
        all.put("bootstrap.servers", bootstrap);
        for (int at = 0; at < settings.length; at += 2) all.put(settings[at], settings[at + 1].toString());
        return all;
    }

    static final String BYTES = "org.apache.kafka.common.serialization.ByteArray";

    static KafkaProducer<byte[], byte[]> producer(Object... settings) {
        Properties all = with("key.serializer", BYTES + "Serializer", "value.serializer", BYTES + "Serializer");
        all.putAll(with(settings));
        return new KafkaProducer<>(all);
    }

    static KafkaConsumer<byte[], byte[]> consumer(Object... settings) {
        Properties all = with("key.deserializer", BYTES + "Deserializer", "value.deserializer", BYTES + "Deserializer");
        all.putAll(with("auto.offset.reset", "earliest", "enable.auto.commit", "false"));
        all.putAll(with(settings));
        return new KafkaConsumer<>(all);
    }

    static Admin admin() { return Admin.create(with()); }

    static byte[] bytes(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    static String text(byte[] bytes) { return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8); }

    static String topic(String name, int partitions, Map<String, String> configs) throws Exception {
        String topic = prefix + "-" + name;
        try (Admin admin = admin()) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 3).configs(configs))).all().get();
        }
        return topic;
    }

    static List<TopicPartition> all(String topic, int partitions) {
        return IntStream.range(0, partitions).mapToObj(it -> new TopicPartition(topic, it)).collect(Collectors.toList());
    }

    static List<ConsumerRecord<byte[], byte[]>> take(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> taken = new ArrayList<>();
        long end = System.currentTimeMillis() + SOON_MS;
        while (taken.size() < count && System.currentTimeMillis() < end)
            consumer.poll(Duration.ofMillis(100)).forEach(taken::add);
        that(taken.size() >= count, "only " + taken.size() + " of " + count + " records came");
        return taken;
    }

    static List<String> values(String topic, int partitions, int count, Object... settings) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(settings)) {
            consumer.assign(all(topic, partitions));
            consumer.seekToBeginning(consumer.assignment());
            return take(consumer, count).stream().map(it -> text(it.value())).collect(Collectors.toList());
        }
    }

    static void fill(String topic, int partitions, int ofEach) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = 0; n < ofEach; n++)
                for (int to = 0; to < partitions; to++)
                    sent.add(producer.send(new ProducerRecord<>(topic, to, null, bytes(to + "/" + n))));
            for (Future<RecordMetadata> one : sent) one.get();
        }
    }

    /** Prints what comes to the first partition. */
    static void follow(String topic, String rack) {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("client.rack", rack, "fetch.max.wait.ms", 100)) {
            consumer.assign(all(topic, 1));
            while (true) {
                consumer.poll(Duration.ofMillis(100)).forEach(it -> System.out.println(text(it.value())));
                System.out.flush();
            }
        }
    }

    // The checks.

    static void records() throws Exception {
        String topic = topic("records", 1, Map.of());
        for (String codec : List.of("none", "gzip", "lz4")) {
            for (String acks : List.of("all", "1", "0")) {
                try (KafkaProducer<byte[], byte[]> producer = producer("compression.type", codec, "acks", acks,
                        "enable.idempotence", acks.equals("all"), "linger.ms", 5)) {
                    for (int n = 0; n < 100; n++) {
                        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, 1_000_000L + n,
                            n % 3 == 0 ? null : bytes("k" + n), n % 5 == 0 ? null : bytes(codec + n));
                        record.headers().add("h", bytes("1")).add("h", null);
                        producer.send(record);
                    }
                    producer.flush();
                }
            }
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            consumer.assign(all(topic, 1));
            List<ConsumerRecord<byte[], byte[]>> taken = take(consumer, 900);
            for (int at = 0; at < 900; at++) {
                ConsumerRecord<byte[], byte[]> it = taken.get(at);
                int n = at % 100;
                same(it.offset(), (long) at);
                same(it.timestamp(), 1_000_000L + n);
                same(text(it.key()), n % 3 == 0 ? null : "k" + n);
                if (n % 5 == 0) same(it.value(), null); else that(text(it.value()).endsWith("" + n), text(it.value()));
                same(it.headers().toArray().length, 2);
                same(it.headers().lastHeader("h").value(), null);
                that(it.leaderEpoch().isPresent(), "no leader epoch");
            }
        }
    }

    static void sizes() throws Exception {
        String topic = topic("sizes", 1, Map.of());
        Random random = new Random(1);
        List<byte[]> sent = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer = producer("max.request.size", 8 << 20, "batch.size", 200_000, "linger.ms", 20)) {
            for (int size : new int[] {0, 1, 100, 10_000, 500_000, 1_000_000}) {
                byte[] value = new byte[size];
                random.nextBytes(value);
                sent.add(value);
                producer.send(new ProducerRecord<>(topic, value)).get();
            }
            Throwable failure = failure(() -> producer.send(new ProducerRecord<>(topic, new byte[4 << 20])).get());
            that(failure instanceof RecordTooLargeException, failure);
            producer.send(new ProducerRecord<>(topic, bytes("after"))).get();
        }
        sent.add(bytes("after"));
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("max.partition.fetch.bytes", 1000, "fetch.max.bytes", 1000)) {
            consumer.assign(all(topic, 1));
            List<ConsumerRecord<byte[], byte[]>> taken = take(consumer, sent.size());
            for (int at = 0; at < sent.size(); at++) that(Arrays.equals(taken.get(at).value(), sent.get(at)), "record " + at);
        }
    }

    static void seeking() throws Exception {
        String topic = topic("seeking", 2, Map.of());
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (int n = 0; n < 100; n++) producer.send(new ProducerRecord<>(topic, 0, 1_000L + n, null, bytes("" + n))).get();
        }
        TopicPartition full = new TopicPartition(topic, 0), empty = new TopicPartition(topic, 1);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            same(consumer.beginningOffsets(List.of(full, empty)), Map.of(full, 0L, empty, 0L));
            same(consumer.endOffsets(List.of(full, empty)), Map.of(full, 100L, empty, 0L));
            Map<TopicPartition, OffsetAndTimestamp> found = consumer.offsetsForTimes(Map.of(full, 1_050L, empty, 0L));
            same(found.get(full).offset(), 50L);
            same(found.get(full).timestamp(), 1_050L);
            same(found.get(empty), null);
            consumer.assign(List.of(full));
            consumer.seek(full, 70);
            same(text(take(consumer, 1).get(0).value()), "70");
            // Beyond the end: reset, as it is set.
            consumer.seek(full, 5_000);
            same(text(take(consumer, 1).get(0).value()), "0");
            same(consumer.position(full) > 0, true);
            same(consumer.currentLag(full).isPresent(), true);
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("auto.offset.reset", "none")) {
            consumer.assign(List.of(full));
            consumer.seek(full, 5_000);
            Throwable failure = failure(() -> take(consumer, 1));
            that(failure instanceof org.apache.kafka.clients.consumer.OffsetOutOfRangeException, failure);
        }
    }

    /** A member with a thread of its own. */
    static class Member implements AutoCloseable {
        final KafkaConsumer<byte[], byte[]> consumer;
        final Set<TopicPartition> owned = ConcurrentHashMap.newKeySet();
        final Queue<ConsumerRecord<byte[], byte[]>> seen = new ConcurrentLinkedQueue<>();
        volatile boolean ends, leaves = true;
        volatile Throwable failure;
        volatile int rebalances;
        final Thread thread;

        Member(String group, Object subscription, Object... settings) {
            Properties all = with(settings);
            all.put("group.id", group);
            List<Object> flat = new ArrayList<>();
            all.forEach((name, value) -> { flat.add(name); flat.add(value); });
            consumer = consumer(flat.toArray());
            ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
                public void onPartitionsAssigned(Collection<TopicPartition> given) { owned.addAll(given); rebalances++; }
                public void onPartitionsRevoked(Collection<TopicPartition> taken) { owned.removeAll(taken); }
                public void onPartitionsLost(Collection<TopicPartition> taken) { owned.removeAll(taken); }
            };
            if (subscription instanceof java.util.regex.Pattern) consumer.subscribe((java.util.regex.Pattern) subscription, listener);
            else consumer.subscribe(List.of((String) subscription), listener);
            thread = new Thread(() -> {
                try {
                    while (!ends) {
                        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(50));
                        records.forEach(seen::add);
                        if (!records.isEmpty()) {
                            try {
                                consumer.commitSync();
                            } catch (CommitFailedException | RebalanceInProgressException late) {
                                // Another has them now, from what was committed before.
                            }
                        }
                    }
                } catch (Throwable failed) {
                    failure = failed;
                } finally {
                    consumer.close(Duration.ofSeconds(10));
                }
            });
            thread.start();
        }

        public void close() throws Exception {
            ends = true;
            thread.join(SOON_MS);
            that(failure == null, failure);
        }
    }

    static boolean shared(List<Member> members, int partitions) {
        members.forEach(it -> that(it.failure == null, it.failure));
        int owned = members.stream().mapToInt(it -> it.owned.size()).sum();
        long apart = members.stream().flatMap(it -> it.owned.stream()).distinct().count();
        int least = members.stream().mapToInt(it -> it.owned.size()).min().orElse(0);
        return owned == partitions && apart == partitions && least == partitions / members.size();
    }

    static void shares(String group, String topic, Object... settings) throws Exception {
        fill(topic, PARTITIONS, 10);
        List<Member> members = new ArrayList<>();
        try {
            for (int count = 1; count <= 3; count++) {
                members.add(new Member(group, topic, settings));
                until(group + " shared by " + count, () -> shared(members, PARTITIONS));
            }
            fill(topic, PARTITIONS, 10);
            until("all read", () -> members.stream().mapToInt(it -> it.seen.size()).sum() >= 20 * PARTITIONS);
            members.remove(0).close();
            until(group + " shared by those that stayed", () -> shared(members, PARTITIONS));
        } finally {
            for (Member it : members) it.close();
        }
        try (Admin admin = admin()) {
            Map<TopicPartition, OffsetAndMetadata> found =
                admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            same(found.values().stream().map(OffsetAndMetadata::offset).collect(Collectors.toSet()), Set.of(20L));
            same(found.size(), PARTITIONS);
        }
    }

    static void groups() throws Exception {
        String packaged = "org.apache.kafka.clients.consumer.";
        for (String assignor : List.of("RangeAssignor", "RoundRobinAssignor", "StickyAssignor", "CooperativeStickyAssignor")) {
            String topic = topic("groups-" + assignor, PARTITIONS, Map.of());
            shares(prefix + "-" + assignor, topic, "partition.assignment.strategy", packaged + assignor);
        }
    }

    static void newGroupProtocol() throws Exception {
        for (String assignor : List.of("uniform", "range")) {
            String topic = topic("new-" + assignor, PARTITIONS, Map.of());
            shares(prefix + "-new-" + assignor, topic, "group.protocol", "consumer", "group.remote.assignor", assignor);
        }
        // Moved from the one protocol to the other while it runs.
        String topic = topic("moved", PARTITIONS, Map.of());
        String group = prefix + "-moved";
        Member older = new Member(group, topic, "partition.assignment.strategy",
            "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
        until("one has all", () -> shared(List.of(older), PARTITIONS));
        Member newer = new Member(group, topic, "group.protocol", "consumer");
        until("both have some", () -> shared(List.of(older, newer), PARTITIONS));
        older.close();
        until("the newer has all", () -> shared(List.of(newer), PARTITIONS));
        newer.close();
    }

    static void staticMembers() throws Exception {
        String topic = topic("static", PARTITIONS, Map.of());
        String group = prefix + "-static";
        for (String protocol : List.of("classic", "consumer")) {
            String name = group + "-" + protocol;
            Object[] settings = protocol.equals("classic")
                ? new Object[] {"session.timeout.ms", 45_000} : new Object[] {"group.protocol", "consumer"};
            Function<String, Member> start = id -> {
                List<Object> all = new ArrayList<>(List.of("group.instance.id", id));
                all.addAll(Arrays.asList(settings));
                return new Member(name, topic, all.toArray());
            };
            Member one = start.apply("one"), two = start.apply("two");
            until("shared", () -> shared(List.of(one, two), PARTITIONS));
            Set<TopicPartition> had = Set.copyOf(one.owned);
            int rebalances = two.rebalances;
            one.close();
            Member again = start.apply("one");
            until("it has back what it had", () -> again.owned.equals(had));
            same(two.rebalances, rebalances);
            same(two.owned.size(), PARTITIONS - had.size());
            again.close();
            two.close();
        }
    }

    static void transactions() throws Exception {
        String in = topic("tx-in", 1, Map.of()), out = topic("tx-out", 2, Map.of());
        String group = prefix + "-tx";
        fill(in, 1, 20);
        try (KafkaProducer<byte[], byte[]> producer = producer("transactional.id", prefix + "-tx");
                KafkaConsumer<byte[], byte[]> consumer = consumer("group.id", group, "isolation.level", "read_committed")) {
            producer.initTransactions();
            consumer.subscribe(List.of(in));
            List<ConsumerRecord<byte[], byte[]>> taken = take(consumer, 20);
            for (boolean commits : new boolean[] {false, true}) {
                producer.beginTransaction();
                for (ConsumerRecord<byte[], byte[]> it : taken)
                    producer.send(new ProducerRecord<>(out, (int) (it.offset() % 2), null, bytes(commits + " " + it.offset())));
                // What was not sent yet, the client drops when it aborts.
                producer.flush();
                producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition(in, 0), new OffsetAndMetadata(20)), consumer.groupMetadata());
                if (commits) producer.commitTransaction(); else producer.abortTransaction();
                OffsetAndMetadata found = consumer.committed(Set.of(new TopicPartition(in, 0))).get(new TopicPartition(in, 0));
                same(found == null ? -1 : found.offset(), commits ? 20L : -1);
            }
            // One that stays open holds readers of what is committed, and no others.
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(out, 0, null, bytes("open"))).get();
            List<String> committed = values(out, 2, 20, "isolation.level", "read_committed");
            same(committed.size(), 20);
            that(committed.stream().allMatch(it -> it.startsWith("true")), committed);
            same(values(out, 2, 41).size(), 41);
            try (Admin admin = admin()) {
                TransactionDescription described =
                    admin.describeTransactions(List.of(prefix + "-tx")).description(prefix + "-tx").get();
                same(described.state(), TransactionState.ONGOING);
                same(described.topicPartitions(), Set.of(new TopicPartition(out, 0)));
                that(admin.listTransactions().all().get().stream().anyMatch(it -> it.transactionalId().equals(prefix + "-tx")), "listed");
                DescribeProducersResult.PartitionProducerState producers =
                    admin.describeProducers(List.of(new TopicPartition(out, 0))).partitionResult(new TopicPartition(out, 0)).get();
                that(producers.activeProducers().stream().anyMatch(it -> it.currentTransactionStartOffset().isPresent()), producers);
            }
            producer.abortTransaction();
        }
    }

    static void fencing() throws Exception {
        String topic = topic("fencing", 1, Map.of());
        String id = prefix + "-fencing";
        try (KafkaProducer<byte[], byte[]> zombie = producer("transactional.id", id);
                KafkaProducer<byte[], byte[]> next = producer("transactional.id", id)) {
            zombie.initTransactions();
            zombie.beginTransaction();
            zombie.send(new ProducerRecord<>(topic, bytes("zombie"))).get();
            next.initTransactions();
            Throwable failure = failure(() -> {
                zombie.send(new ProducerRecord<>(topic, bytes("zombie again"))).get();
                zombie.commitTransaction();
                return null;
            });
            that(failure instanceof ProducerFencedException || failure instanceof InvalidProducerEpochException, failure);
            next.beginTransaction();
            next.send(new ProducerRecord<>(topic, bytes("next")));
            next.commitTransaction();
        }
        same(values(topic, 1, 1, "isolation.level", "read_committed"), List.of("next"));
        try (Admin admin = admin()) {
            admin.fenceProducers(List.of(id)).all().get();
        }
    }

    static void topics() throws Exception {
        String name = prefix + "-topics";
        try (Admin admin = admin()) {
            NewTopic asked = new NewTopic(name, 3, (short) 3).configs(Map.of("cleanup.policy", "compact"));
            admin.createTopics(List.of(asked), new CreateTopicsOptions().validateOnly(true)).all().get();
            that(!admin.listTopics().names().get().contains(name), "it was to be validated only");
            CreateTopicsResult created = admin.createTopics(List.of(asked));
            Uuid id = created.topicId(name).get();
            that(!id.equals(Uuid.ZERO_UUID), "no id");
            same(created.numPartitions(name).get(), 3);
            same(created.replicationFactor(name).get(), 3);
            same(created.config(name).get().get("cleanup.policy").value(), "compact");
            Throwable twice = failure(() -> admin.createTopics(List.of(asked)).all().get());
            that(twice instanceof TopicExistsException, twice);
            that(admin.listTopics(new ListTopicsOptions().listInternal(true)).listings().get().stream()
                .anyMatch(it -> it.name().equals("__consumer_offsets") == it.isInternal()), "internal topics");
            until("it is known", () -> {
                try {
                    return admin.describeTopics(List.of(name)).allTopicNames().get().get(name).partitions().size() == 3;
                } catch (ExecutionException unknown) {
                    return false;
                }
            });
            TopicDescription described = admin.describeTopics(TopicCollection.ofTopicIds(List.of(id)),
                new DescribeTopicsOptions().includeAuthorizedOperations(true)).allTopicIds().get().get(id);
            same(described.name(), name);
            same(described.partitions().get(0).replicas().size(), 3);
            that(described.authorizedOperations().size() > 5, described);
            admin.createPartitions(Map.of(name, NewPartitions.increaseTo(5))).all().get();
            until("it has grown", () -> admin.describeTopics(List.of(name)).allTopicNames().get().get(name).partitions().size() == 5);
            TopicPartition place = new TopicPartition(name, 0);
            try (KafkaProducer<byte[], byte[]> producer = producer()) {
                for (int n = 0; n < 10; n++) producer.send(new ProducerRecord<>(name, 0, bytes("k" + n), bytes("v"))).get();
            }
            ListOffsetsResult listed = admin.listOffsets(Map.of(place, OffsetSpec.latest()));
            same(listed.partitionResult(place).get().offset(), 10L);
            same(admin.listOffsets(Map.of(place, OffsetSpec.earliest())).partitionResult(place).get().offset(), 0L);
            same(admin.listOffsets(Map.of(place, OffsetSpec.maxTimestamp())).partitionResult(place).get().offset() >= 0, true);
            admin.electLeaders(ElectionType.PREFERRED, null).partitions().get();
            Map<Integer, Map<String, LogDirDescription>> dirs = admin.describeLogDirs(List.of(1, 2, 3)).allDescriptions().get();
            that(dirs.values().stream().allMatch(it -> it.values().stream()
                .anyMatch(dir -> dir.replicaInfos().containsKey(place))), dirs);
            admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get();
            until("it is gone", () -> !admin.listTopics().names().get().contains(name));
            String trimmed = topic("trimmed", 1, Map.of());
            fill(trimmed, 1, 20);
            TopicPartition first = new TopicPartition(trimmed, 0);
            DeletedRecords left = admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(15))).lowWatermarks().get(first).get();
            same(left.lowWatermark(), 15L);
            same(values(trimmed, 1, 5), List.of("0/15", "0/16", "0/17", "0/18", "0/19"));
        }
    }

    static void configs() throws Exception {
        String topic = topic("configs", 1, Map.of("retention.ms", "1000000"));
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        try (Admin admin = admin()) {
            ConfigEntry found = admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms");
            same(found.value(), "1000000");
            same(found.source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
            AlterConfigOp set = new AlterConfigOp(new ConfigEntry("retention.ms", "2000000"), AlterConfigOp.OpType.SET);
            AlterConfigOp delete = new AlterConfigOp(new ConfigEntry("retention.ms", null), AlterConfigOp.OpType.DELETE);
            for (AlterConfigOp op : List.of(set, delete)) {
                admin.incrementalAlterConfigs(Map.of(resource, List.of(op))).all().get();
                String expected = op == set ? "2000000" : "604800000";
                until("set", () -> admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value().equals(expected));
            }
            Throwable failure = failure(() -> admin.incrementalAlterConfigs(Map.of(resource, List.of(
                new AlterConfigOp(new ConfigEntry("no.such.config", "1"), AlterConfigOp.OpType.SET)))).all().get());
            that(failure instanceof InvalidConfigurationException, failure);
            ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
            that(!admin.describeConfigs(List.of(broker)).all().get().get(broker).entries().isEmpty(), "a broker's configs");
        }
    }

    static void cluster() throws Exception {
        try (Admin admin = admin()) {
            DescribeClusterResult found = admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
            same(found.nodes().get().size(), 3);
            that(found.controller().get() != null && !found.clusterId().get().isEmpty(), "who they are");
            that(found.authorizedOperations().get().size() > 3, "what may be done");
            Map<String, FinalizedVersionRange> features = admin.describeFeatures().featureMetadata().get().finalizedFeatures();
            that(features.containsKey("transaction.version") && features.containsKey("group.version"), features);
        }
    }

    static void groupAdministration() throws Exception {
        String topic = topic("group-admin", PARTITIONS, Map.of());
        String group = prefix + "-group-admin";
        fill(topic, PARTITIONS, 10);
        try (Admin admin = admin()) {
            for (String protocol : List.of("classic", "consumer")) {
                String name = group + "-" + protocol;
                try (Member member = new Member(name, topic, "group.protocol", protocol)) {
                    until("all read", () -> member.seen.size() == 10 * PARTITIONS);
                    ConsumerGroupDescription described = admin.describeConsumerGroups(List.of(name),
                        new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true)).all().get().get(name);
                    same(described.state(), ConsumerGroupState.STABLE);
                    same(described.members().iterator().next().assignment().topicPartitions().size(), PARTITIONS);
                    that(!described.authorizedOperations().isEmpty(), described);
                    Throwable failure = failure(() -> admin.deleteConsumerGroups(List.of(name)).all().get());
                    that(failure instanceof GroupNotEmptyException, failure);
                }
                that(admin.listConsumerGroups().all().get().stream().anyMatch(it -> it.groupId().equals(name)), "listed");
                TopicPartition place = new TopicPartition(topic, 2);
                admin.alterConsumerGroupOffsets(name, Map.of(place, new OffsetAndMetadata(4, "moved"))).all().get();
                same(admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get().get(place).offset(), 4L);
                admin.deleteConsumerGroupOffsets(name, Set.of(place)).all().get();
                same(admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get().get(place), null);
                admin.deleteConsumerGroups(List.of(name)).all().get();
                until("it is gone", () -> admin.listConsumerGroups().all().get().stream().noneMatch(it -> it.groupId().equals(name)));
            }
        }
    }

    static void errors() throws Exception {
        try (Admin admin = admin()) {
            Throwable unknown = failure(() -> admin.describeTopics(List.of(prefix + "-nowhere")).allTopicNames().get());
            that(unknown instanceof UnknownTopicOrPartitionException, unknown);
            Throwable name = failure(() -> admin.createTopics(List.of(new NewTopic("a b", 1, (short) 1))).all().get());
            that(name instanceof InvalidTopicException, name);
            Throwable replicas = failure(() -> admin.createTopics(List.of(new NewTopic(prefix + "-many", 1, (short) 9))).all().get());
            that(replicas instanceof InvalidReplicationFactorException, replicas);
            Throwable gone = failure(() -> admin.deleteConsumerGroups(List.of(prefix + "-nobody")).all().get());
            that(gone instanceof GroupIdNotFoundException, gone);
        }
        try (KafkaProducer<byte[], byte[]> producer = producer("max.block.ms", 2_000)) {
            Throwable failure = failure(() -> producer.send(new ProducerRecord<>(prefix + "-nowhere", bytes("x"))).get());
            that(failure instanceof org.apache.kafka.common.errors.TimeoutException, failure);
        }
        try (KafkaConsumer<byte[], byte[]> consumer = consumer("allow.auto.create.topics", "false")) {
            same(consumer.partitionsFor(prefix + "-nowhere", Duration.ofSeconds(3)), List.of());
        } catch (org.apache.kafka.common.errors.TimeoutException | UnknownTopicOrPartitionException said) {
            // Either is how the client tells.
        }
    }

    /**
     * Idempotent and transactional writers at work until standard input ends, while somebody kills brokers. What was acknowledged is
     * there, once, in order.
     */
    static void load() throws Exception {
        String plain = topic("load", 3, Map.of()), ledger = topic("load-ledger", 3, Map.of());
        java.util.concurrent.atomic.AtomicBoolean ends = new java.util.concurrent.atomic.AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException broken) {
                // It has ended.
            }
            ends.set(true);
        });
        input.setDaemon(true);
        input.start();
        List<List<String>> acknowledged = List.of(new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
        Set<String> committed = new HashSet<>(), aborted = new HashSet<>();
        try (KafkaProducer<byte[], byte[]> writer = producer("delivery.timeout.ms", 120_000, "linger.ms", 2);
                KafkaProducer<byte[], byte[]> transactor = producer("transactional.id", prefix + "-load", "delivery.timeout.ms", 120_000,
                    "max.block.ms", 120_000)) {
            transactor.initTransactions();
            for (int round = 0; round < 50 || !ends.get(); round++) {
                List<Future<RecordMetadata>> sent = new ArrayList<>();
                for (int n = 0; n < 60; n++) sent.add(writer.send(new ProducerRecord<>(plain, n % 3, null, bytes(round + "/" + n))));
                transactor.beginTransaction();
                for (int n = 0; n < 3; n++) transactor.send(new ProducerRecord<>(ledger, n, null, bytes("t" + round)));
                boolean commits = round % 4 != 0;
                if (commits) transactor.commitTransaction(); else transactor.abortTransaction();
                (commits ? committed : aborted).add("t" + round);
                for (int n = 0; n < 60; n++) {
                    sent.get(n).get();
                    acknowledged.get(n % 3).add(round + "/" + n);
                }
                System.out.printf("round %d%n", round);
                System.out.flush();
            }
        }
        for (int at = 0; at < 3; at++) {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
                consumer.assign(List.of(new TopicPartition(plain, at)));
                List<String> found = take(consumer, acknowledged.get(at).size()).stream().map(it -> text(it.value())).collect(Collectors.toList());
                same(found, acknowledged.get(at));
            }
        }
        List<String> found = values(ledger, 3, committed.size() * 3, "isolation.level", "read_committed");
        same(found.size(), committed.size() * 3);
        same(new HashSet<>(found), committed);
        System.out.printf("%d records and %d transactions%n", acknowledged.stream().mapToInt(List::size).sum(), committed.size());
    }
}
