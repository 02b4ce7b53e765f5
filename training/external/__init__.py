"""Public measurements of others: importers, baselines, fits and accuracy pages.  Their rows are never committed."""
