-- claim_tables --
-- Count the tables that another program made among those to be secured.
DELETE FROM kb_adopted_tables

-- missing_guards --
-- The statements that are missing until the workspaces of every table are kept apart, in their order.
SELECT kb_missing_guards()

-- add_guards --
-- Run them.
DO $guards$
DECLARE
    command text;
BEGIN
    FOR command IN SELECT kb_missing_guards() LOOP
        EXECUTE command;
    END LOOP;
END
$guards$
