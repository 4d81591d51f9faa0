-- Barbican's own step fails on the index and the reference that services of 10.0.0 to 14.0.2 made
-- themselves. They are found by their columns here, whatever their names, and kept.
--: drop unique secret_consumer_metadata(secret_id, resource_id)
ALTER TABLE secret_consumer_metadata DROP CONSTRAINT {name};
--: make unique _secret_consumer_resource_uc secret_consumer_metadata(secret_id, service, resource_type, resource_id)
ALTER TABLE secret_consumer_metadata
    ADD CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, service, resource_type, resource_id);

--: alter column secret_consumer_metadata.project_id VARCHAR(36) NULL
ALTER TABLE secret_consumer_metadata ALTER COLUMN project_id DROP NOT NULL;
--: make index ix_secret_consumer_metadata_project_id secret_consumer_metadata(project_id)
CREATE INDEX ix_secret_consumer_metadata_project_id ON secret_consumer_metadata (project_id);
-- NULL where the project no longer exists. With orphans = refuse there is no such row, or we would not be
-- here.
--: tidy secret_consumer_metadata
UPDATE secret_consumer_metadata SET project_id = NULL
    WHERE project_id IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM projects AS p WHERE p.id = secret_consumer_metadata.project_id);
--: make reference fk_project_id secret_consumer_metadata(project_id) projects(id)
ALTER TABLE secret_consumer_metadata ADD CONSTRAINT fk_project_id FOREIGN KEY (project_id) REFERENCES projects (id);
