"""Faults put upon real processes of `kb-pipeline` over a real Postgres, and what must hold after each."""
