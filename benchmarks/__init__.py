"""Reproducible timings, each against a plain implementation of the same maths in the same run: `python -m benchmarks -h`."""
