"""The Java client's program. Its packages are not among those that the tests bring along: HIGHWATER_KAFKA_CLIENTS_JARS has the class path of
kafka-clients and slf4j, where they are to be tested. Needs a JDK."""

import os
import subprocess
from pathlib import Path

JARS = os.environ.get("HIGHWATER_KAFKA_CLIENTS_JARS")
SOURCE = Path(__file__).parent / "java" / "JavaClient.java"


class Java:
    def __init__(self, folder):
        """Compiled into the folder."""
        self.class_path = f"{JARS}:{folder}"
        subprocess.run(["javac", "-cp", JARS, "-d", folder, SOURCE], check=True)

    def command(self, *arguments):
        return ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", self.class_path, "JavaClient", *arguments]
