-- From VARCHAR(255) to TEXT. The type of a column cannot be changed, so both tables are built anew.
CREATE TABLE order_barbican_metadata_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    order_id VARCHAR(36) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(order_id) REFERENCES orders (id)
);
INSERT INTO order_barbican_metadata_new (id, created_at, updated_at, deleted_at, deleted, status, order_id, "key", value)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, order_id, "key", value
    FROM order_barbican_metadata ORDER BY rowid;
DROP TABLE order_barbican_metadata;
ALTER TABLE order_barbican_metadata_new RENAME TO order_barbican_metadata;
CREATE INDEX IF NOT EXISTS ix_order_barbican_metadata_order_id ON order_barbican_metadata (order_id);

CREATE TABLE certificate_authority_metadata_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value TEXT NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _certificate_authority_metadatum_uc UNIQUE (ca_id, "key"),
    FOREIGN KEY(ca_id) REFERENCES certificate_authorities (id)
);
INSERT INTO certificate_authority_metadata_new (id, created_at, updated_at, deleted_at, deleted, status, "key", value, ca_id)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, "key", value, ca_id
    FROM certificate_authority_metadata ORDER BY rowid;
DROP TABLE certificate_authority_metadata;
ALTER TABLE certificate_authority_metadata_new RENAME TO certificate_authority_metadata;
CREATE INDEX IF NOT EXISTS ix_certificate_authority_metadata_ca_id ON certificate_authority_metadata (ca_id);
CREATE INDEX IF NOT EXISTS ix_certificate_authority_metadata_key ON certificate_authority_metadata ("key");
