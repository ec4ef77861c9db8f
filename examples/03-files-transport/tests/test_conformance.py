"""The directory of files keeps the contract."""

import tempfile
from collections.abc import Iterator

import pytest

from busframe.conformance import Harness
from busframe.conformance.suite import TransportConformance, started
from busframe_files.conformance import FilesHarness


class TestFiles(TransportConformance):
    """What is not runnable needs a server that can be stopped, frozen or absent, or that forgets what it holds."""

    not_runnable = frozenset({"A8", "F16", "J3", "K3", "M1", "M4", "M5", "S2", "V27"})
    # Users, passwords and limits are the file system's, and there is no connection.
    in_part = frozenset({"M2", "O2", "P1", "T1", "V8"})

    @pytest.fixture(scope="class")
    @classmethod
    def harness(cls) -> Iterator[Harness]:
        """A directory for this run."""
        with tempfile.TemporaryDirectory() as folder:
            yield from started(FilesHarness(f"files://{folder}/bus"))
