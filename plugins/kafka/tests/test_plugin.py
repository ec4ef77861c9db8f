"""busframe_kafka.plugin"""

import subprocess
import sys

from busframe.registry import find_plugin
from busframe_kafka.plugin import plugin


def test_both_schemes_name_it() -> None:
    """The entry points of the installed distribution lead to the one plugin."""
    assert find_plugin("kafka") is plugin
    assert find_plugin("kafka+ssl") is plugin


def test_settings_need_no_client_library() -> None:
    """Reading a configuration does not load librdkafka."""
    code = "import sys, busframe_kafka.plugin; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
