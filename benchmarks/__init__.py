"""Experiments beside the library, not part of the wheel: ``python -m benchmarks.NAME``."""
