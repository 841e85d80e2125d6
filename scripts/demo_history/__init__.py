"""The demo history: what is tried, how it is run and the rows it becomes. See build_demo.py."""
