"""Measuring a machine: what to measure, with which timer, for how long, and where the rows go."""
