"""Efficiency models of fused subgraphs, fitted on the public measurements of branes-ai/graphs."""
