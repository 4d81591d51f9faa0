-- The tables as they were before the migrations began. MySQL indexes every reference by itself, under the
-- name of its column. Here and in every later table: no CHECK on flags, which SQLAlchemy made before 1.4 only.
--: make table tenants
CREATE TABLE tenants (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    keystone_id VARCHAR(255),
    PRIMARY KEY (id)
) ENGINE=InnoDB;

--: make table secrets
CREATE TABLE secrets (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    expiration DATETIME,
    algorithm VARCHAR(255),
    bit_length INTEGER,
    mode VARCHAR(255),
    PRIMARY KEY (id)
) ENGINE=InnoDB;

-- Who may read a secret: without a key, here and on PostgreSQL, until 1bece815014f drops it.
--: make table tenant_secret
CREATE TABLE tenant_secret (
    tenant_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    CONSTRAINT _tenant_secret_uc UNIQUE (tenant_id, secret_id),
    FOREIGN KEY (tenant_id) REFERENCES tenants (id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;

--: make table containers
CREATE TABLE containers (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    type ENUM('generic', 'rsa', 'dsa', 'certificate'),
    tenant_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (tenant_id) REFERENCES tenants (id)
) ENGINE=InnoDB;

--: make table container_consumer_metadata
CREATE TABLE container_consumer_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    container_id VARCHAR(36) NOT NULL,
    "URL" VARCHAR(255),
    data_hash CHAR(64),
    PRIMARY KEY (id),
    CONSTRAINT _consumer_hashed_container_name_url_uc UNIQUE (data_hash),
    KEY values_index (container_id, name, "URL"),
    FOREIGN KEY (container_id) REFERENCES containers (id)
) ENGINE=InnoDB;
--: make index values_index container_consumer_metadata(container_id, name, URL)
CREATE INDEX values_index ON container_consumer_metadata (container_id, name, "URL");

-- 2ab3f5371bde gives it a key.
--: make table container_secret
CREATE TABLE container_secret (
    name VARCHAR(255),
    container_id VARCHAR(36) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    FOREIGN KEY (container_id) REFERENCES containers (id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id)
) ENGINE=InnoDB;

--: make table kek_data
CREATE TABLE kek_data (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    kek_label VARCHAR(255),
    tenant_id VARCHAR(36) NOT NULL,
    active TINYINT(1) NOT NULL,
    bind_completed TINYINT(1) NOT NULL,
    algorithm VARCHAR(255),
    bit_length INTEGER,
    mode VARCHAR(255),
    plugin_meta TEXT,
    PRIMARY KEY (id),
    FOREIGN KEY (tenant_id) REFERENCES tenants (id)
) ENGINE=InnoDB;

--: make table encrypted_data
CREATE TABLE encrypted_data (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    content_type VARCHAR(255),
    secret_id VARCHAR(36) NOT NULL,
    kek_id VARCHAR(36) NOT NULL,
    cypher_text TEXT,
    kek_meta_extended TEXT,
    PRIMARY KEY (id),
    FOREIGN KEY (secret_id) REFERENCES secrets (id),
    FOREIGN KEY (kek_id) REFERENCES kek_data (id)
) ENGINE=InnoDB;

--: make table orders
CREATE TABLE orders (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
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
    FOREIGN KEY (secret_id) REFERENCES secrets (id),
    FOREIGN KEY (tenant_id) REFERENCES tenants (id)
) ENGINE=InnoDB;

--: make table transport_keys
CREATE TABLE transport_keys (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    transport_key TEXT,
    PRIMARY KEY (id)
) ENGINE=InnoDB;
