"""Finds or starts a real server for each transport; `python -m tests.brokers NAME` does so by hand.

A new kind of server is one module here, with a subclass of `server.Server` that says when it is ready and a
`BROKER` that says how to get one; its name in `find.BROKERS`, a service in docker-compose.yml, and its fixtures
in `fixtures.py`.
"""
