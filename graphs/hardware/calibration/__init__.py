"""Calibration: what was measured of a machine, fitted, and asked."""
