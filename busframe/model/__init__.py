"""Frozen values, standard library only: what the rest of busframe talks about."""
