"""What scripts/torture.py is made of: how it starts and kills runs, and what it compares."""
