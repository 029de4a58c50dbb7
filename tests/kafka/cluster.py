"""A real cluster: controllers and brokers as processes, made by `highwater cluster up` and then run one by one."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import tomllib
import urllib.request
from pathlib import Path

SOON_S = 30


def until(what, check, within_s=SOON_S):
    """Waits until `check()` returns something true, and returns it."""
    end = time.monotonic() + within_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {within_s} s")
        time.sleep(0.05)


class Node:
    """One process of the cluster."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.process = None
        self.read_config()

    def read_config(self):
        self.config = tomllib.loads((self.folder / "highwater.toml").read_text())

    def configure(self, section, **settings):
        """Sets these, of a node that does not run."""
        path = self.folder / "highwater.toml"
        lines = path.read_text().splitlines()
        start = lines.index(f"[{section}]") + 1
        end = next((at for at in range(start, len(lines)) if lines[at].startswith("[")), len(lines))
        kept = [it for it in lines[start:end] if it.split(" = ")[0] not in settings]
        # Texts, numbers and lists of them are the same in JSON and TOML.
        lines[start:end] = [f"{name} = {json.dumps(value)}" for name, value in settings.items()] + kept
        path.write_text("\n".join(lines) + "\n")
        self.read_config()

    @property
    def kafka(self):
        """HOST:PORT of its listener for Kafka clients."""
        return self.config["kafka"]["listeners"][0].split("://")[1]

    @property
    def address(self):
        return self.config["broker"]["listen"]

    def start(self):
        with open(self.folder / "node.log", "ab") as log:
            command = [self.binary, "server", "--end-with-stdin", "--config", self.folder / "highwater.toml"]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """In good order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def is_listening(self):
        host, port = self.kafka.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        except OSError:
            return False

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://{self.config['node']['metrics_listen']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        samples = (re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line) for line in lines)
        found = (it for it in samples if it and it[1] == name and wanted <= set((it[2] or "").split(",")))
        return sum(float(it[3]) for it in found)

    def resident_bytes(self, most=False):
        """Now, or the most since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{'VmHWM' if most else 'VmRSS'}:\s+(\d+) kB", status).group(1)) * 1024

    def forget_peak(self):
        """And returns what it has now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.resident_bytes()


class Cluster:
    def __init__(self, binary, folder, port, brokers=3, settings=()):
        self.binary = str(binary)
        self.folder = folder
        command = [self.binary, "cluster", "up", "--controllers", "1", "--brokers", str(brokers)]
        command += ["--port", str(port), "--data-dir", str(folder)]
        for setting in settings:
            command += ["--set", setting]
        # What `cluster up` prints is what a user has.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
            for line in up.stdout:
                if found := re.search(r"bootstrap\.servers=(\S+)", line):
                    self.kafka = found.group(1)
                    break
                if found := re.search(r"HIGHWATER_BOOTSTRAP=(\S+)", line):
                    self.bootstrap = found.group(1)
            up.send_signal(signal.SIGINT)
            up.stdout.read()
        assert up.returncode == 0, f"cluster up: exit code {up.returncode}"
        self.controller = Node(self.binary, folder / "controller-1")
        self.brokers = {number: Node(self.binary, folder / f"broker-{number}") for number in range(1, brokers + 1)}
        assert self.kafka == ",".join(broker.kafka for broker in self.brokers.values())

    def start(self):
        for node in [self.controller, *self.brokers.values()]:
            node.start()
        until("all brokers in service", lambda: self.in_service() == set(self.brokers))

    def end(self):
        for node in [*self.brokers.values(), self.controller]:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
                # One after another, brokers first: they hand over to those that are left.
                try:
                    node.process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    node.kill()

    def command(self, *arguments, stdin=None, fails=False):
        """The command line tool; what it printed."""
        environment = {**os.environ, "HIGHWATER_BOOTSTRAP": self.bootstrap}
        done = subprocess.run(
            [self.binary, *map(str, arguments)], input=stdin, capture_output=True, env=environment, timeout=60
        )
        assert (done.returncode != 0) == fails, (arguments, done)
        return done.stdout.decode()

    def in_service(self):
        done = subprocess.run(
            [self.binary, "cluster", "describe", "--bootstrap", self.bootstrap, "--timeout", "2s", "--output", "json"],
            capture_output=True,
        )
        if done.returncode != 0:
            return set()
        return {it["id"] for it in json.loads(done.stdout)["brokers"] if it["state"] == "in service"}

    def describe(self, topic):
        return json.loads(self.command("topic", "describe", topic, "--output", "json"))

    def leader(self, topic, partition=0):
        """The broker that leads the partition."""
        return self.describe(topic)["partitions"][partition]["leader"]

    def segments(self, topic, partition):
        """The bytes of the partition's log on the first broker that has it."""
        topic_id = self.describe(topic)["topic_id"]
        for broker in self.brokers.values():
            folder = broker.folder / "data" / f"{topic_id}-{partition}"
            if folder.exists():
                return b"".join(path.read_bytes() for path in sorted(folder.glob("*.log")))
        raise AssertionError(f"no broker has {topic}-{partition}")
