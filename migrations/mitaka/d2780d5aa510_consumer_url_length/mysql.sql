-- 500 where the services made the table. A longer URL stops the statement: sql_mode is strict.
--: alter column container_consumer_metadata.URL VARCHAR(255) NULL
ALTER TABLE container_consumer_metadata MODIFY "URL" VARCHAR(255);
