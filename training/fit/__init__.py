"""Fitting efficiency models to measured tables."""
