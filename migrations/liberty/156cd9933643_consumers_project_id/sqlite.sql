-- Unknown, so NULL, for the consumers there are.
ALTER TABLE container_consumer_metadata ADD COLUMN project_id VARCHAR(36) REFERENCES projects (id);
CREATE INDEX IF NOT EXISTS ix_container_consumer_metadata_project_id ON container_consumer_metadata (project_id);
