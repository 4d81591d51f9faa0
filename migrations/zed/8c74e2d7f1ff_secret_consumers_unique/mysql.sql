-- Barbican's own step fails on tables that the services of Ussuri to Yoga made by themselves, for these have
-- the index and the reference on project_id already, and on rows whose project is gone; both after it has
-- replaced the unique index. Every statement here asks for what it would make, so all of these go on.
--: alter column secret_consumer_metadata.project_id VARCHAR(36) NULL
ALTER TABLE secret_consumer_metadata MODIFY project_id VARCHAR(36);

-- With orphans = refuse there is no such row, or we would not be here.
--: tidy secret_consumer_metadata
UPDATE secret_consumer_metadata SET project_id = NULL
WHERE project_id IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM projects AS p WHERE p.id = secret_consumer_metadata.project_id);

-- The reference on secret_id needs an index of its own before the unique one goes.
--: make index ix_secret_consumer_metadata_secret_id secret_consumer_metadata(secret_id)
CREATE INDEX ix_secret_consumer_metadata_secret_id ON secret_consumer_metadata (secret_id);
--: drop unique secret_consumer_metadata(secret_id, resource_id)
ALTER TABLE secret_consumer_metadata DROP INDEX {name};
--: make unique _secret_consumer_resource_uc secret_consumer_metadata(secret_id, service, resource_type, resource_id)
ALTER TABLE secret_consumer_metadata
    ADD CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, service, resource_type, resource_id);
--: make index ix_secret_consumer_metadata_project_id secret_consumer_metadata(project_id)
CREATE INDEX ix_secret_consumer_metadata_project_id ON secret_consumer_metadata (project_id);
--: make reference fk_project_id secret_consumer_metadata(project_id) projects(id)
ALTER TABLE secret_consumer_metadata
    ADD CONSTRAINT fk_project_id FOREIGN KEY (project_id) REFERENCES projects (id);
