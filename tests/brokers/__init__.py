"""Finds or starts a real server for each transport; `python -m tests.brokers NAME` does so by hand.

A new kind of server is one module here, with a subclass of `server.Server` that says when it is ready and
`BROKERS` that say how to get one; its name in `find.BROKERS`, a service in docker-compose.yml, and its fixtures
in `fixtures.py`. Another version of one is another name, service and fixture.
"""
