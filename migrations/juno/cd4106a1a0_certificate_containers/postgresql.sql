-- Only where the table is older than Juno: since then the type has all four values from the start.
-- ADD VALUE cannot be used inside a transaction before PostgreSQL 12, and nowhere the new value in the same
-- one: hence a new type in the place of the old. No line but the last may end in a semicolon.
--: alter column containers.type VARCHAR(11) NULL
DO $$ BEGIN
    ALTER TYPE container_types RENAME TO container_types_before; -- out of the way
    CREATE TYPE container_types AS ENUM ('generic', 'rsa', 'dsa', 'certificate'); -- 'certificate' is 11 long
    ALTER TABLE containers ALTER COLUMN type TYPE container_types USING type::text::container_types; -- by name
    DROP TYPE container_types_before; END $$;
