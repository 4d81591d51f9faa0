-- Services of 10.0.0 to 14.0.2 made this table with project_id as a reference, indexed, that may be NULL: what
-- 8c74e2d7f1ff wants. Such a table stays as it is.
--: make table secret_consumer_metadata
CREATE TABLE secret_consumer_metadata (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    service VARCHAR(255) NOT NULL,
    resource_type VARCHAR(255) NOT NULL,
    resource_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, resource_id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
);
--: make index ix_secret_consumer_metadata_secret_id secret_consumer_metadata(secret_id)
CREATE INDEX ix_secret_consumer_metadata_secret_id ON secret_consumer_metadata (secret_id);
--: make index ix_secret_consumer_metadata_resource_id secret_consumer_metadata(resource_id)
CREATE INDEX ix_secret_consumer_metadata_resource_id ON secret_consumer_metadata (resource_id);
