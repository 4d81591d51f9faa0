-- What the services of 10.0.0 to 14.0.2 make by themselves on their first start.
DROP TABLE secret_consumer_metadata;
CREATE TABLE secret_consumer_metadata (
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
    CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, resource_id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    FOREIGN KEY(project_id) REFERENCES projects (id)
);
CREATE INDEX ix_secret_consumer_metadata_secret_id ON secret_consumer_metadata (secret_id);
CREATE INDEX ix_secret_consumer_metadata_resource_id ON secret_consumer_metadata (resource_id);
CREATE INDEX ix_secret_consumer_metadata_project_id ON secret_consumer_metadata (project_id);
