"""Athanor: the craft of training image classifiers, as things you can run."""
