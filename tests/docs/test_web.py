"""The programs of the web pages answer requests, with FastAPI and Django or with what stands in for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, environment

pytestmark = pytest.mark.slow

FASTAPI = """
import asyncio
from api import app, bus, create, lifespan, ready
from shop import Order

async def main():
    print((await ready()).status_code)
    async with lifespan(app):
        print((await ready()).status_code)
        print(sorted(await create(Order(order_id=1, total=2.0))))
        await asyncio.sleep(0.2)
    print((await ready()).status_code)
    try:
        await create(Order(order_id=2, total=2.0))
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
"""

DJANGO = """
import shop
shop.bus.override({"url": "memory://"})
import views

class Request:
    body = b'{"order_id": 1, "total": 2}'

try:
    from django.conf import settings
    settings.configure(DEFAULT_CHARSET="utf-8")
except ImportError:
    pass
print(views.create_order(Request()).status_code)
"""


def run(page: str, program: str, folder: Path) -> str:
    """Write the files of a page into a folder, run a program beside them, and return what it prints."""
    for block in blocks(ROOT / "docs" / "how-to" / page):
        if block.file:
            (folder / block.file).write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fastapi_program_publishes_and_handles(tmp_path: Path) -> None:
    """It is ready within its lifespan only, and an order that is posted is handled."""
    printed = run("fastapi.md", FASTAPI, tmp_path)
    assert printed.splitlines() == ["503", "200", "['message_id']", "order 1 is paid", "503", "ClosedError"]


def test_the_django_view_publishes(tmp_path: Path) -> None:
    """A view answers when its order is confirmed."""
    assert run("publish-from-scripts-and-django.md", DJANGO, tmp_path) == "202\n"
