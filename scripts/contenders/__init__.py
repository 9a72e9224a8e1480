"""What scripts/benchmark.py measures: each module is a process of its own and writes report.json where it runs."""
