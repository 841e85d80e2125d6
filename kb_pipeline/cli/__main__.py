"""`python -m kb_pipeline.cli` is `kb-pipeline`."""

from kb_pipeline.cli import main

main()
