-- MySQL cannot index more. The type of a column cannot be changed, so the table is built anew.
CREATE TABLE container_consumer_metadata_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    container_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(36),
    name VARCHAR(36),
    "URL" VARCHAR(255),
    data_hash CHAR(64),
    PRIMARY KEY (id),
    CONSTRAINT _consumer_hashed_container_name_url_uc UNIQUE (data_hash),
    FOREIGN KEY(container_id) REFERENCES containers (id),
    FOREIGN KEY(project_id) REFERENCES projects (id)
);
INSERT INTO container_consumer_metadata_new (id, created_at, updated_at, deleted_at, deleted, status,
        container_id, project_id, name, "URL", data_hash)
    SELECT id, created_at, updated_at, deleted_at, deleted, status,
        container_id, project_id, name, "URL", data_hash
    FROM container_consumer_metadata ORDER BY rowid;
DROP TABLE container_consumer_metadata;
ALTER TABLE container_consumer_metadata_new RENAME TO container_consumer_metadata;
CREATE INDEX IF NOT EXISTS ix_container_consumer_metadata_container_id ON container_consumer_metadata (container_id);
CREATE INDEX IF NOT EXISTS ix_container_consumer_metadata_project_id ON container_consumer_metadata (project_id);
CREATE INDEX IF NOT EXISTS values_index ON container_consumer_metadata (container_id, name, "URL");
