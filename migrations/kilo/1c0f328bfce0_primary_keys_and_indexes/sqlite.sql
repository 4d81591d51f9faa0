-- project_secret and container_secret had a key of three columns. A key cannot be changed, so both are
-- built anew.
CREATE TABLE project_secret_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    role VARCHAR(255),
    project_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _project_secret_uc UNIQUE (project_id, secret_id),
    CONSTRAINT project_secret_project_fk FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT project_secret_secret_fk FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
INSERT INTO project_secret_new (id, created_at, updated_at, deleted_at, deleted, status, role, project_id, secret_id)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, role, project_id, secret_id FROM project_secret ORDER BY rowid;
DROP TABLE project_secret;
ALTER TABLE project_secret_new RENAME TO project_secret;

CREATE TABLE container_secret_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    container_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_secret_name_uc UNIQUE (container_id, secret_id, name),
    FOREIGN KEY(container_id) REFERENCES containers (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
INSERT INTO container_secret_new (id, created_at, updated_at, deleted_at, deleted, status, name, container_id, secret_id)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, name, container_id, secret_id
    FROM container_secret ORDER BY rowid;
DROP TABLE container_secret;
ALTER TABLE container_secret_new RENAME TO container_secret;

-- SQLite does not index references by itself.
CREATE INDEX IF NOT EXISTS ix_certificate_authority_metadata_ca_id ON certificate_authority_metadata (ca_id);
CREATE INDEX IF NOT EXISTS ix_certificate_authority_metadata_key ON certificate_authority_metadata ("key");
CREATE INDEX IF NOT EXISTS ix_container_consumer_metadata_container_id ON container_consumer_metadata (container_id);
CREATE INDEX IF NOT EXISTS ix_container_secret_container_id ON container_secret (container_id);
CREATE INDEX IF NOT EXISTS ix_container_secret_secret_id ON container_secret (secret_id);
CREATE INDEX IF NOT EXISTS ix_containers_project_id ON containers (project_id);
CREATE INDEX IF NOT EXISTS ix_encrypted_data_kek_id ON encrypted_data (kek_id);
CREATE INDEX IF NOT EXISTS ix_encrypted_data_secret_id ON encrypted_data (secret_id);
CREATE INDEX IF NOT EXISTS ix_kek_data_project_id ON kek_data (project_id);
CREATE INDEX IF NOT EXISTS ix_order_barbican_metadata_order_id ON order_barbican_metadata (order_id);
CREATE INDEX IF NOT EXISTS ix_order_plugin_metadata_order_id ON order_plugin_metadata (order_id);
CREATE INDEX IF NOT EXISTS ix_order_retry_tasks_order_id ON order_retry_tasks (order_id);
CREATE INDEX IF NOT EXISTS ix_orders_container_id ON orders (container_id);
CREATE INDEX IF NOT EXISTS ix_orders_project_id ON orders (project_id);
CREATE INDEX IF NOT EXISTS ix_orders_secret_id ON orders (secret_id);
CREATE INDEX IF NOT EXISTS ix_preferred_certificate_authorities_ca_id ON preferred_certificate_authorities (ca_id);
CREATE INDEX IF NOT EXISTS ix_project_certificate_authorities_ca_id ON project_certificate_authorities (ca_id);
CREATE INDEX IF NOT EXISTS ix_project_certificate_authorities_project_id ON project_certificate_authorities (project_id);
CREATE INDEX IF NOT EXISTS ix_project_secret_project_id ON project_secret (project_id);
CREATE INDEX IF NOT EXISTS ix_project_secret_secret_id ON project_secret (secret_id);
CREATE INDEX IF NOT EXISTS ix_secret_store_metadata_secret_id ON secret_store_metadata (secret_id);
-- A project has one preferred authority.
CREATE UNIQUE INDEX IF NOT EXISTS ix_preferred_certificate_authorities_project_id ON preferred_certificate_authorities (project_id);
