"""As in ``tests/unit/runtime``: virtual time, a broker with faults, nothing left behind."""

from tests.unit.runtime.conftest import bench, pytest_asyncio_loop_factories

__all__ = ["bench", "pytest_asyncio_loop_factories"]
