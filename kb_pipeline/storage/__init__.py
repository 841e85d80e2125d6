"""Every touch of the outside world: Postgres, the embedded server, price files."""
