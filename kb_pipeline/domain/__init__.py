"""Pure rules and arithmetic: arrays, frames and dataclasses in and out.

No Dagster, no Postgres, no files and no clock in here.
"""
