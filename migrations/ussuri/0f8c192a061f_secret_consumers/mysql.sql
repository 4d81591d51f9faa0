-- project_id is no reference yet, and NOT NULL: 8c74e2d7f1ff changes both. Tables that the services of Ussuri
-- to Yoga made by themselves have it so already.
--: make table secret_consumer_metadata
CREATE TABLE secret_consumer_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    service VARCHAR(255) NOT NULL,
    resource_type VARCHAR(255) NOT NULL,
    resource_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_consumer_resource_uc UNIQUE (secret_id, resource_id),
    KEY ix_secret_consumer_metadata_secret_id (secret_id),
    KEY ix_secret_consumer_metadata_resource_id (resource_id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;
--: make index ix_secret_consumer_metadata_secret_id secret_consumer_metadata(secret_id)
CREATE INDEX ix_secret_consumer_metadata_secret_id ON secret_consumer_metadata (secret_id);
--: make index ix_secret_consumer_metadata_resource_id secret_consumer_metadata(resource_id)
CREATE INDEX ix_secret_consumer_metadata_resource_id ON secret_consumer_metadata (resource_id);
