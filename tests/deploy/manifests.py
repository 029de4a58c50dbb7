"""What must hold in the files that deploy Highwater, beyond their syntax: that what they name exists, that what belongs
together agrees, and that the bounds and guarantees which the documentation speaks of are there.

HIGHWATER names the binary, which is asked for its settings and whether it takes those that a file gives it.
"""

import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ["HIGHWATER"]
KUBERNETES = ROOT / "deploy/kubernetes"
# The oldest that the manifests are for, and the newest that is known.
KUBERNETES_VERSIONS = ["1.28", kubernetes_validate.latest_version()]
NOBODY = "65532"
METRICS_PORT = 9644


def highwater(*args, env=None):
    return subprocess.run([BINARY, *args], env=env or {}, capture_output=True, text=True, timeout=30)


def settings():
    """The variables that the binary knows."""
    printed = highwater("config", "print-default")
    assert printed.returncode == 0, printed.stderr
    return set(re.findall(r"\((HIGHWATER_\w+)\)", re.sub(r"\s*\n# ", " ", printed.stdout)))


SETTINGS = settings()


def shutdown_seconds():
    """How long the server takes for a shutdown at most."""
    source = (ROOT / "crates/cli/src/commands/server.rs").read_text()
    return int(re.search(r"SHUTDOWN_MAX: Duration = Duration::from_secs\((\d+)\)", source).group(1))


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def image_settings():
    """The settings that the image itself makes, the same in both of its ways."""
    lines = re.findall(r"^ENV (.+)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    assert len(lines) == 2 and lines[0] == lines[1], lines
    return dict(item.split("=", 1) for item in lines[0].split())


def port_of(address):
    return int(address.rsplit(":", 1)[1])


class Case(unittest.TestCase):
    def assert_server_takes(self, env, what):
        """The binary knows each variable, and takes them together."""
        ours = {name for name in env if name.startswith("HIGHWATER_")}
        self.assertLessEqual(ours, SETTINGS, f"{what} has settings that there are not")
        with tempfile.NamedTemporaryFile(suffix=".toml") as empty:
            checked = highwater("config", "check", "--config", empty.name, env={**image_settings(), **env})
        self.assertEqual(checked.returncode, 0, f"{what}: {checked.stderr}")


class Image(Case):
    def test_runs_as_nobody_in_both_ways(self):
        text = (ROOT / "deploy/Dockerfile").read_text()
        stages = [stage for stage in re.split(r"^FROM ", text, flags=re.M)[1:] if stage.startswith("scratch")]
        self.assertEqual(len(stages), 2)
        for stage in stages:
            self.assertIn(f"USER {NOBODY}:{NOBODY}\n", stage)
            self.assertIn('ENTRYPOINT ["/highwater"]\n', stage)
            self.assertIn("VOLUME /data\n", stage)

    def test_keeps_its_data_in_the_volume(self):
        for name, value in image_settings().items():
            if name.startswith("HIGHWATER_"):
                self.assertIn(name, SETTINGS)
                self.assertTrue(value.startswith("/data/"), f"{name}={value}")


class Compose(Case):
    file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = file["services"]

    def nodes(self, role):
        return {name: it for name, it in self.services.items() if (it.get("environment") or {}).get("HIGHWATER_NODE_ROLES") == role}

    def test_has_three_of_each_and_what_watches_them(self):
        self.assertEqual((len(self.nodes("controller")), len(self.nodes("broker"))), (3, 3))
        self.assertLessEqual({"cli", "prometheus", "grafana"}, set(self.services))
        self.assertEqual(self.services["cli"]["profiles"], ["cli"])
        for name in ("prometheus", "grafana"):
            self.assertEqual(self.services[name]["profiles"], ["observability"])

    def test_every_container_is_contained_and_bounded(self):
        for name, it in self.services.items():
            with self.subTest(name):
                self.assertIs(it["read_only"], True)
                self.assertEqual(it["cap_drop"], ["ALL"])
                self.assertEqual(it["security_opt"], ["no-new-privileges:true"])
                self.assertNotIn("privileged", it)
                self.assertNotIn(it["user"].split(":")[0], ("", "0", "root"))
                self.assertTrue(it["mem_limit"] and it["cpus"] and it["pids_limit"])
                self.assertTrue(it["logging"]["options"]["max-size"] and it["logging"]["options"]["max-file"])
                for port in it.get("ports", []):
                    self.assertTrue(port.startswith("127.0.0.1:"), f"{port} is open to other machines")

    def test_what_stays_up_says_whether_it_is_well_and_gets_the_time_to_stop(self):
        for name, it in self.services.items():
            if name == "cli":
                continue
            with self.subTest(name):
                self.assertTrue(it["healthcheck"]["test"])
                self.assertEqual(it["restart"], "unless-stopped")
                self.assertIn("stop_grace_period", it)
        for name, it in {**self.nodes("controller"), **self.nodes("broker")}.items():
            self.assertGreater(seconds(it["stop_grace_period"]), shutdown_seconds(), name)
            self.assertEqual(it["user"], f"{NOBODY}:{NOBODY}")

    def test_the_server_takes_each_nodes_settings(self):
        for name, it in {**self.nodes("controller"), **self.nodes("broker")}.items():
            # As Compose does where nothing else is set.
            default = lambda value: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
            self.assert_server_takes({key: default(value) for key, value in it["environment"].items()}, name)

    def test_each_node_is_itself(self):
        for role in ("controller", "broker"):
            for name, it in self.nodes(role).items():
                with self.subTest(name):
                    env, upper = it["environment"], role.upper()
                    port = port_of(env[f"HIGHWATER_{upper}_LISTEN"])
                    self.assertEqual(name, f"{role}-{env[f'HIGHWATER_{upper}_ID']}")
                    self.assertEqual(env[f"HIGHWATER_{upper}_ADVERTISED"], f"{name}:{port}")
                    self.assertEqual(it["healthcheck"]["test"], ["CMD", "/highwater", "health", f"127.0.0.1:{port}"])
                    self.assertEqual(it["volumes"], [f"{name}:/data"])
                    self.assertIn(name, self.file["volumes"])
                    self.assertEqual(port_of(env["HIGHWATER_NODE_METRICS_LISTEN"]), METRICS_PORT)

    def test_nodes_know_the_controllers_and_the_command_line_the_brokers(self):
        controllers = [f"controller-{n}:9093" for n in (1, 2, 3)]
        for it in self.nodes("broker").values():
            self.assertEqual(it["environment"]["HIGHWATER_BROKER_CONTROLLERS"].split(","), controllers)
            # So that brokers are stopped first, and can still hand over their leadership.
            self.assertEqual(sorted(it["depends_on"]), sorted(self.nodes("controller")))
        bootstrap = self.services["cli"]["environment"]["HIGHWATER_BOOTSTRAP"].split(",")
        self.assertEqual(bootstrap, [f"{name}:9092" for name in self.nodes("broker")])
        self.assertIn("env: HIGHWATER_BOOTSTRAP", highwater("topic", "list", "--help").stdout)

    def test_commands_exist(self):
        self.assertEqual(highwater("health", "--help").returncode, 0)
        self.assertEqual(highwater("server", "--help").returncode, 0)
        for it in {**self.nodes("controller"), **self.nodes("broker")}.values():
            self.assertEqual(it["command"], ["server"])


class Observability(Case):
    compose = Compose.services

    def test_prometheus_scrapes_every_node_of_the_composition(self):
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        targets = [
            target for job in config["scrape_configs"] for some in job["static_configs"] for target in some["targets"]
        ]
        nodes = [name for name, it in self.compose.items() if "HIGHWATER_NODE_METRICS_LISTEN" in (it.get("environment") or {})]
        self.assertEqual(sorted(targets), sorted(f"{name}:{METRICS_PORT}" for name in nodes))

    def test_mounted_files_exist_and_images_are_of_a_version(self):
        for name in ("prometheus", "grafana"):
            it = self.compose[name]
            self.assertRegex(it["image"], r":v?\d+\.\d+\.\d+\}$")
            for volume in it["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("./"):
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertTrue(volume.endswith(":ro"), volume)
                else:
                    self.assertIn(source, Compose.file["volumes"])

    def test_grafana_finds_its_source_and_its_dashboard(self):
        mounts = dict(volume.split(":")[:2] for volume in self.compose["grafana"]["volumes"])
        mounts = {inside: outside for outside, inside in mounts.items()}
        provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/highwater.yml").read_text())
        folder = provider["providers"][0]["options"]["path"]
        home = Path(self.compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        self.assertEqual(str(home.parent), folder)
        dashboard = json.loads((ROOT / mounts[folder] / home.name).read_text())
        source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
        source = source["datasources"][0]
        self.assertEqual(source["url"], "http://prometheus:9090")
        queries = [panel for panel in dashboard["panels"] if panel.get("targets")]
        self.assertTrue(queries)
        for panel in queries:
            self.assertEqual(panel["datasource"]["uid"], source["uid"], panel["title"])


class Kubernetes(Case):
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    objects = [
        it for name in kustomization["resources"] for it in yaml.safe_load_all((KUBERNETES / name).read_text())
    ]

    def of_kind(self, kind):
        return {it["metadata"]["name"]: it for it in self.objects if it["kind"] == kind}

    def sets(self):
        return self.of_kind("StatefulSet").items()

    @staticmethod
    def pod(it):
        return it["spec"]["template"]["spec"]

    def container(self, it):
        (only,) = self.pod(it)["containers"]
        return only

    def environment(self, it, ordinal, namespace="somewhere"):
        """As the kubelet would make it for one pod."""
        fields = {
            "metadata.name": f"{it['metadata']['name']}-{ordinal}",
            "metadata.namespace": namespace,
            "metadata.labels['apps.kubernetes.io/pod-index']": str(ordinal),
        }
        env = {}
        for entry in self.container(it)["env"]:
            if "value" in entry:
                # A variable that is not defined above is left as it stands.
                env[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda m: env.get(m[1], m[0]), entry["value"])
            else:
                env[entry["name"]] = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        return env

    def pods(self, it):
        start = it["spec"]["ordinals"]["start"]
        return range(start, start + it["spec"]["replicas"])

    def test_every_file_is_named_and_every_object_fits_its_schema(self):
        files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
        self.assertEqual(files, set(self.kustomization["resources"]))
        for it in self.objects:
            for version in KUBERNETES_VERSIONS:
                with self.subTest(f"{it['kind']} {it['metadata']['name']}", version=version):
                    kubernetes_validate.validate(it, version, strict=True)

    def test_any_namespace_will_do(self):
        for it in self.objects:
            self.assertNotIn("namespace", it["metadata"])

    def test_there_are_three_of_each(self):
        self.assertEqual({name: it["spec"]["replicas"] for name, it in self.sets()}, {"highwater-controller": 3, "highwater-broker": 3})

    def test_labels_meet_selectors_and_each_set_has_its_service_and_budget(self):
        for name, it in self.sets():
            with self.subTest(name):
                spec, labels = it["spec"], it["spec"]["template"]["metadata"]["labels"]
                self.assertEqual(spec["selector"]["matchLabels"], labels)
                service = self.of_kind("Service")[spec["serviceName"]]
                self.assertEqual(service["spec"]["clusterIP"], "None")
                # Else the nodes do not find each other at the first start.
                self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
                self.assertEqual(service["spec"]["selector"], labels)
                (budget,) = [
                    budget["spec"] for budget in self.of_kind("PodDisruptionBudget").values()
                    if budget["spec"]["selector"]["matchLabels"] == labels
                ]
                self.assertEqual(budget["maxUnavailable"], 1)
                for spread in self.pod(it)["topologySpreadConstraints"]:
                    self.assertEqual(spread["labelSelector"]["matchLabels"], labels)
                hard = [s["topologyKey"] for s in self.pod(it)["topologySpreadConstraints"] if s["whenUnsatisfiable"] == "DoNotSchedule"]
                self.assertEqual(hard, ["kubernetes.io/hostname"])

    def test_clients_have_a_service_of_brokers_that_are_ready(self):
        service = self.of_kind("Service")["highwater"]["spec"]
        self.assertEqual(service["selector"], self.of_kind("StatefulSet")["highwater-broker"]["spec"]["template"]["metadata"]["labels"])
        self.assertNotIn("publishNotReadyAddresses", service)
        self.assertNotEqual(service.get("clusterIP"), "None")

    def test_ports_agree(self):
        for name, it in self.sets():
            with self.subTest(name):
                upper = name.removeprefix("highwater-").upper()
                env, container = self.environment(it, 1), self.container(it)
                ports = {port["name"]: port["containerPort"] for port in container["ports"]}
                listen = port_of(env[f"HIGHWATER_{upper}_LISTEN"])
                kafka = {"kafka": port_of(env["HIGHWATER_KAFKA_LISTENERS"])} if upper == "BROKER" else {}
                self.assertEqual(ports, {"grpc": listen, "metrics": port_of(env["HIGHWATER_NODE_METRICS_LISTEN"])} | kafka)
                self.assertEqual(container["readinessProbe"]["grpc"]["port"], listen)
                for probe in ("startupProbe", "livenessProbe"):
                    self.assertEqual(container[probe]["httpGet"], {"path": "/healthz", "port": "metrics"})
                annotations = it["spec"]["template"]["metadata"]["annotations"]
                self.assertEqual(annotations["prometheus.io/port"], str(ports["metrics"]))
                self.assertEqual(annotations["prometheus.io/scrape"], "true")
                for service in self.of_kind("Service").values():
                    if service["spec"]["selector"] == it["spec"]["template"]["metadata"]["labels"]:
                        for port in service["spec"]["ports"]:
                            self.assertEqual(port["port"], ports[port["targetPort"]])

    def test_the_server_takes_each_pods_settings_and_each_is_itself(self):
        for name, it in self.sets():
            upper, service = name.removeprefix("highwater-").upper(), it["spec"]["serviceName"]
            for ordinal in self.pods(it):
                with self.subTest(name, ordinal=ordinal):
                    env = self.environment(it, ordinal)
                    self.assertNotIn("$(", "".join(env.values()))
                    self.assert_server_takes(env, f"{name}-{ordinal}")
                    self.assertEqual(env["HIGHWATER_NODE_ROLES"], upper.lower())
                    self.assertEqual(env[f"HIGHWATER_{upper}_ID"], str(ordinal))
                    self.assertEqual(
                        env[f"HIGHWATER_{upper}_ADVERTISED"].rsplit(":", 1)[0], f"{name}-{ordinal}.{service}.somewhere.svc"
                    )

    def test_everybody_knows_the_same_controllers(self):
        sets = self.of_kind("StatefulSet")
        controllers = sets["highwater-controller"]
        at = {n: self.environment(controllers, n)["HIGHWATER_CONTROLLER_ADVERTISED"] for n in self.pods(controllers)}
        voters = [f"{n}@{address}" for n, address in at.items()]
        for n in at:
            self.assertEqual(self.environment(controllers, n)["HIGHWATER_CONTROLLER_VOTERS"].split(","), voters)
        brokers = self.environment(sets["highwater-broker"], 1)
        self.assertEqual(brokers["HIGHWATER_BROKER_CONTROLLERS"].split(","), list(at.values()))

    def test_pods_may_run_under_the_restricted_standard(self):
        for name, it in self.sets():
            with self.subTest(name):
                pod, container = self.pod(it), self.container(it)
                security = pod["securityContext"]
                self.assertIs(security["runAsNonRoot"], True)
                for key in ("runAsUser", "runAsGroup", "fsGroup"):
                    self.assertEqual(str(security[key]), NOBODY)
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertEqual(
                    container["securityContext"],
                    {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                )
                self.assertIs(pod["automountServiceAccountToken"], False)
                # Variables of services would look like settings.
                self.assertIs(pod["enableServiceLinks"], False)
                for key in ("hostNetwork", "hostPID", "hostIPC"):
                    self.assertNotIn(key, pod)

    def test_pods_are_bounded_keep_their_data_and_get_the_time_to_stop(self):
        for name, it in self.sets():
            with self.subTest(name):
                spec, container = it["spec"], self.container(it)
                # As everywhere else, and as the names of the controllers say.
                self.assertEqual(spec["ordinals"], {"start": 1})
                self.assertGreater(self.pod(it)["terminationGracePeriodSeconds"], shutdown_seconds())
                self.assertTrue(container["resources"]["limits"]["memory"])
                self.assertLessEqual({"cpu", "memory"}, set(container["resources"]["requests"]))
                (claim,) = spec["volumeClaimTemplates"]
                self.assertEqual(container["volumeMounts"], [{"name": claim["metadata"]["name"], "mountPath": "/data"}])
                self.assertEqual(set(spec["persistentVolumeClaimRetentionPolicy"].values()), {"Retain"})
                # The quorum needs two to become ready.
                self.assertEqual(spec["podManagementPolicy"], "Parallel")
                self.assertEqual(container["args"], ["server"])

    def test_the_image_is_of_this_version(self):
        version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        (image,) = self.kustomization["images"]
        self.assertEqual(str(image["newTag"]), version)
        for _, it in self.sets():
            self.assertEqual(self.container(it)["image"], image["name"])


class Systemd(Case):
    unit = (ROOT / "deploy/systemd/highwater.service").read_text()

    def value(self, key):
        return re.findall(rf"^{key}=(.*)$", self.unit, re.M)[-1]

    def test_the_time_to_stop_is_longer_than_a_shutdown(self):
        self.assertGreater(int(self.value("TimeoutStopSec")), shutdown_seconds())

    def test_it_runs_what_there_is_as_a_user_that_is_made(self):
        command = self.value("ExecStart").split()
        self.assertEqual(command[:3], ["/usr/bin/highwater", "server", "--config"])
        self.assertIn("--config", highwater("server", "--help").stdout)
        user = self.value("User")
        self.assertNotEqual(user, "root")
        self.assertIn(f"\nu {user} ", (ROOT / "deploy/systemd/highwater.sysusers").read_text())

    def test_the_example_keeps_its_data_where_the_unit_may_write(self):
        config = (ROOT / "deploy/systemd/highwater.toml").read_text()
        folder = "/var/lib/" + self.value("StateDirectory") + "/"
        paths = re.findall(r'"(/[^"]+)"', config)
        self.assertEqual(len(paths), 2)
        for path in paths:
            self.assertTrue(path.startswith(folder), path)

    def test_a_wrong_configuration_ends_with_the_code_that_is_not_retried(self):
        with tempfile.NamedTemporaryFile(suffix=".toml") as wrong:
            wrong.write(b"[broker]\nid = true\n")
            wrong.flush()
            ended = highwater("server", "--config", wrong.name)
        self.assertEqual(str(ended.returncode), self.value("RestartPreventExitStatus"), ended.stderr)


if __name__ == "__main__":
    unittest.main()
