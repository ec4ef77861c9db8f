"""What all tests share, those of the plugins too; pytest wants the line in the conftest of the root."""

pytest_plugins = ["tests.brokers.fixtures"]
