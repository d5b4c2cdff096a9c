"""Measure, against a named baseline, and report (`python -m benchmarks.encoders --help`)."""
