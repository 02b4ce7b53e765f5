"""Accuracy on rows that the model did not see, beside honest baselines."""
