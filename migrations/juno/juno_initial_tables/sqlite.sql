-- The tables as they were before the migrations began. IF NOT EXISTS: the services make tables by themselves
-- (db_auto_create), and Juno's own tree did not know this revision at all.
CREATE TABLE IF NOT EXISTS tenants (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    keystone_id VARCHAR(255),
    PRIMARY KEY (id)
);

CREATE TABLE IF NOT EXISTS secrets (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    expiration DATETIME,
    algorithm VARCHAR(255),
    bit_length INTEGER,
    mode VARCHAR(255),
    PRIMARY KEY (id)
);

-- Who may read a secret. The last revision of Juno gives it an id and the other common columns.
CREATE TABLE IF NOT EXISTS tenant_secret (
    tenant_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    FOREIGN KEY(tenant_id) REFERENCES tenants (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    CONSTRAINT _tenant_secret_uc UNIQUE (tenant_id, secret_id)
);

CREATE TABLE IF NOT EXISTS containers (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    type VARCHAR(11),
    tenant_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);

CREATE TABLE IF NOT EXISTS container_consumer_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    container_id VARCHAR(36) NOT NULL,
    "URL" VARCHAR(255),
    data_hash CHAR(64),
    PRIMARY KEY (id),
    FOREIGN KEY(container_id) REFERENCES containers (id),
    CONSTRAINT _consumer_hashed_container_name_url_uc UNIQUE (data_hash)
);
CREATE INDEX IF NOT EXISTS values_index ON container_consumer_metadata (container_id, name, "URL");

CREATE TABLE IF NOT EXISTS container_secret (
    name VARCHAR(255),
    container_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    FOREIGN KEY(container_id) REFERENCES containers (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);

CREATE TABLE IF NOT EXISTS kek_data (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    kek_label VARCHAR(255),
    tenant_id VARCHAR(36) NOT NULL,
    active BOOLEAN NOT NULL,
    bind_completed BOOLEAN NOT NULL,
    algorithm VARCHAR(255),
    bit_length INTEGER,
    mode VARCHAR(255),
    plugin_meta TEXT,
    PRIMARY KEY (id),
    FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);

CREATE TABLE IF NOT EXISTS encrypted_data (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    content_type VARCHAR(255),
    secret_id VARCHAR(36) NOT NULL,
    kek_id VARCHAR(36) NOT NULL,
    cypher_text TEXT,
    kek_meta_extended TEXT,
    PRIMARY KEY (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    FOREIGN KEY(kek_id) REFERENCES kek_data (id)
);

CREATE TABLE IF NOT EXISTS orders (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    tenant_id VARCHAR(36) NOT NULL,
    error_status_code VARCHAR(16),
    error_reason VARCHAR(255),
    secret_id VARCHAR(36),
    secret_mode VARCHAR(255),
    secret_algorithm VARCHAR(255),
    secret_bit_length VARCHAR(255),
    secret_expiration VARCHAR(255),
    secret_payload_content_type VARCHAR(255),
    secret_name VARCHAR(255),
    PRIMARY KEY (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id),
    FOREIGN KEY(tenant_id) REFERENCES tenants (id)
);

CREATE TABLE IF NOT EXISTS transport_keys (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    transport_key TEXT,
    PRIMARY KEY (id)
);
