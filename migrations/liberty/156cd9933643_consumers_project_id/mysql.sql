-- Unknown, so NULL, for the consumers there are. Barbican leaves the name of the reference to MySQL.
--: make column container_consumer_metadata.project_id VARCHAR(36) NULL
ALTER TABLE container_consumer_metadata ADD COLUMN project_id VARCHAR(36);
--: make index ix_container_consumer_metadata_project_id container_consumer_metadata(project_id)
CREATE INDEX ix_container_consumer_metadata_project_id ON container_consumer_metadata (project_id);
--: make reference container_consumer_metadata_project_fk container_consumer_metadata(project_id) projects(id)
ALTER TABLE container_consumer_metadata
    ADD CONSTRAINT container_consumer_metadata_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
