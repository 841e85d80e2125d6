-- configure --
-- Set many settings of this session in one round trip; none where its server process is not the one that
-- the driver was told of, which is so behind a pooler.
SELECT set_config(setting.name, setting.value, false)
  FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting(name, value)
 WHERE %(pid)s::integer IS NULL
    OR %(pid)s::integer = pg_backend_pid()

-- database_exists --
-- Whether the server has a database of this name.
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s)

-- create_database --
-- Make an empty database. A name cannot be a parameter, so it is put in as a quoted identifier.
CREATE DATABASE {name}
