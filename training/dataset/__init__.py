"""Measured tables: schema, storage, import and the held-out splits."""
