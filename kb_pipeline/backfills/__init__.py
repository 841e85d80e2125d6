"""The use cases: read, decide, write in batches, report."""
