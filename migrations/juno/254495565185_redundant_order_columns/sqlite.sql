-- The last revision of Juno. Barbican's own migrations never got this far on SQLite: every database that
-- is in use was made by the services from their models. So this revision ends in the models' shape, and
-- the tables that the first revisions made otherwise are built anew here.

-- orders: the six secret_* columns go, type becomes mandatory (every order of the time before was for a
-- key), container_id becomes a reference.
CREATE TABLE orders_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    type VARCHAR(255) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    error_status_code VARCHAR(16),
    error_reason VARCHAR(255),
    meta TEXT,
    secret_id VARCHAR(36),
    container_id VARCHAR(36),
    sub_status VARCHAR(36),
    sub_status_message VARCHAR(255),
    PRIMARY KEY (id),
    FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    FOREIGN KEY(container_id) REFERENCES containers (id)
);
INSERT INTO orders_new (id, created_at, updated_at, deleted_at, deleted, status, type, tenant_id, error_status_code, error_reason,
        meta, secret_id, container_id, sub_status, sub_status_message)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, coalesce(type, 'key'), tenant_id, error_status_code, error_reason,
        meta, secret_id, container_id, sub_status, sub_status_message
    FROM orders ORDER BY rowid;
DROP TABLE orders;
ALTER TABLE orders_new RENAME TO orders;

-- tenants: one row for each tenant of Keystone.
CREATE TABLE tenants_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    keystone_id VARCHAR(255),
    PRIMARY KEY (id),
    UNIQUE (keystone_id)
);
INSERT INTO tenants_new (id, created_at, updated_at, deleted_at, deleted, status, keystone_id)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, keystone_id FROM tenants ORDER BY rowid;
DROP TABLE tenants;
ALTER TABLE tenants_new RENAME TO tenants;

-- tenant_secret: the id as for container_secret before, the dates the secret's.
CREATE TABLE tenant_secret_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    role VARCHAR(255),
    tenant_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id, tenant_id, secret_id),
    CONSTRAINT _tenant_secret_uc UNIQUE (tenant_id, secret_id),
    FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
INSERT INTO tenant_secret_new (id, created_at, updated_at, deleted_at, deleted, status, role, tenant_id, secret_id)
    SELECT substr(old.tenant_id, 1, 18) || substr(old.secret_id, 19, 10) || printf('%08x', old.rowid),
           coalesce(s.created_at, '1970-01-01 00:00:00'), coalesce(s.updated_at, '1970-01-01 00:00:00'), s.deleted_at,
           coalesce(s.deleted, 0), 'ACTIVE', NULL, old.tenant_id, old.secret_id
    FROM tenant_secret AS old LEFT JOIN secrets AS s ON s.id = old.secret_id
    ORDER BY old.rowid;
DROP TABLE tenant_secret;
ALTER TABLE tenant_secret_new RENAME TO tenant_secret;

-- container_consumer_metadata: shorter names, longer URLs.
CREATE TABLE container_consumer_metadata_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    container_id VARCHAR(36) NOT NULL,
    name VARCHAR(36),
    "URL" VARCHAR(500),
    data_hash CHAR(64),
    PRIMARY KEY (id),
    CONSTRAINT _consumer_hashed_container_name_url_uc UNIQUE (data_hash),
    FOREIGN KEY(container_id) REFERENCES containers (id)
);
INSERT INTO container_consumer_metadata_new (id, created_at, updated_at, deleted_at, deleted, status, container_id, name, "URL", data_hash)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, container_id, name, "URL", data_hash
    FROM container_consumer_metadata ORDER BY rowid;
DROP TABLE container_consumer_metadata;
ALTER TABLE container_consumer_metadata_new RENAME TO container_consumer_metadata;
CREATE INDEX IF NOT EXISTS values_index ON container_consumer_metadata (container_id, name, "URL");

-- transport_keys: the key itself becomes mandatory.
CREATE TABLE transport_keys_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    transport_key TEXT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO transport_keys_new (id, created_at, updated_at, deleted_at, deleted, status, plugin_name, transport_key)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, plugin_name, coalesce(transport_key, '') FROM transport_keys ORDER BY rowid;
DROP TABLE transport_keys;
ALTER TABLE transport_keys_new RENAME TO transport_keys;
