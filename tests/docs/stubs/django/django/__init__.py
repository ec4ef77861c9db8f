"""Stands in for Django where it is not installed: what the documents use of it."""
