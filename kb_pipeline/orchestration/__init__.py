"""The Dagster face of the project: thin assets, checks, jobs and sensors over the backfills."""
