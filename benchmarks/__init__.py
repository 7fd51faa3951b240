"""Measurements, one a file: `python -m benchmarks.<name>`, with `--json` for one JSON object."""
