"""Clients of the generation before those that the other tests use, each in a process with its own packages."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Where run.sh puts requirements-older.txt.
PACKAGES = Path(sys.prefix) / "older"


def test_kafka_python_2(cluster):
    command = [sys.executable, HERE / "older_kafka_python.py", cluster.kafka, "older-kafka-python"]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGES)}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
