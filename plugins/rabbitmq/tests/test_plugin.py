"""busframe_rabbitmq.plugin"""

import subprocess
import sys


def test_importing_the_plugin_does_not_import_the_client_library() -> None:
    """Settings can be validated and schemes listed without pika."""
    code = (
        "import sys; from busframe_rabbitmq.plugin import plugin; "
        "assert plugin.schemes == ('amqp', 'amqps') and plugin.settings(url='amqps://h'); "
        "sys.exit('pika' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
