"""Measurements, never run as tests: ratios within one run, because machines are noisy."""
