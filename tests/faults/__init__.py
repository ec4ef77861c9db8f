"""Processes, servers and connections die here: every run ends in an account of each message."""
