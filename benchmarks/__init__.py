"""Programs that measure, and that write docs; run as `python -m benchmarks.NAME` from the root of a checkout."""
