"""Every query and statement of the project, one .sql file per table."""
