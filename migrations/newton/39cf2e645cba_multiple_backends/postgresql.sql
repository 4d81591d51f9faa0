--: make table secret_stores
CREATE TABLE secret_stores (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    store_plugin VARCHAR(255) NOT NULL,
    crypto_plugin VARCHAR(255),
    global_default BOOLEAN NOT NULL,
    name VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_stores_plugin_names_uc UNIQUE (store_plugin, crypto_plugin),
    CONSTRAINT _secret_stores_name_uc UNIQUE (name)
);

-- Barbican's own step adds a unique index on project_id, which the constraint says already, and none on
-- secret_store_id; a fresh installation has a plain index on each. Here: the constraint alone.
--: make table project_secret_store
CREATE TABLE project_secret_store (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    secret_store_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _project_secret_store_project_uc UNIQUE (project_id),
    FOREIGN KEY (project_id) REFERENCES projects (id),
    FOREIGN KEY (secret_store_id) REFERENCES secret_stores (id)
);
