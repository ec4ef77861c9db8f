"""Decisions without IO, clock or randomness: ``now`` and ``random`` are arguments, answers are values."""
