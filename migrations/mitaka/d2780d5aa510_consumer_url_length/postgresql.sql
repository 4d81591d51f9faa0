-- 500 where the services made the table, 255 from Barbican's own migrations. PostgreSQL refuses a value that
-- is longer; the precondition names such rows before.
--: alter column container_consumer_metadata.URL VARCHAR(255) NULL
ALTER TABLE container_consumer_metadata ALTER COLUMN "URL" TYPE VARCHAR(255);
