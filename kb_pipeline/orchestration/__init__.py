"""The Dagster surface, thin over `backfills`; one file per Dagster concept."""
