-- Unique becomes (secret, service, resource type, resource), project_id becomes a reference and may be NULL.
-- None of this can be changed in place, so the table is built anew; that also levels out the tables that
-- services up to 14.0.2 made by themselves, at which Barbican's own step fails. The project is looked up:
-- NULL where it no longer exists. With orphans = refuse there is no such row, or we would not be here.
CREATE TABLE secret_consumer_metadata_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(36),
    service VARCHAR(255) NOT NULL,
    resource_type VARCHAR(255) NOT NULL,
    resource_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, service, resource_type, resource_id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    CONSTRAINT fk_project_id FOREIGN KEY(project_id) REFERENCES projects (id)
);
INSERT INTO secret_consumer_metadata_new (id, created_at, updated_at, deleted_at, deleted, status,
        secret_id, project_id, service, resource_type, resource_id)
    SELECT old.id, old.created_at, old.updated_at, old.deleted_at, old.deleted, old.status,
        old.secret_id, (SELECT p.id FROM projects AS p WHERE p.id = old.project_id),
        old.service, old.resource_type, old.resource_id
    FROM secret_consumer_metadata AS old ORDER BY old.rowid;
DROP TABLE secret_consumer_metadata;
ALTER TABLE secret_consumer_metadata_new RENAME TO secret_consumer_metadata;
CREATE INDEX IF NOT EXISTS ix_secret_consumer_metadata_secret_id ON secret_consumer_metadata (secret_id);
CREATE INDEX IF NOT EXISTS ix_secret_consumer_metadata_resource_id ON secret_consumer_metadata (resource_id);
CREATE INDEX IF NOT EXISTS ix_secret_consumer_metadata_project_id ON secret_consumer_metadata (project_id);
