--: make table secret_stores
CREATE TABLE secret_stores (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    store_plugin VARCHAR(255) NOT NULL,
    crypto_plugin VARCHAR(255),
    global_default TINYINT(1) NOT NULL,
    name VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_stores_plugin_names_uc UNIQUE (store_plugin, crypto_plugin),
    CONSTRAINT _secret_stores_name_uc UNIQUE (name)
) ENGINE=InnoDB;

-- Barbican's own step adds a unique index on project_id, which the constraint says already. A fresh
-- installation has a plain one beside the constraint. Here: the constraint alone.
--: make table project_secret_store
CREATE TABLE project_secret_store (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_store_id VARCHAR(36) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _project_secret_store_project_uc UNIQUE (project_id),
    KEY ix_project_secret_store_secret_store_id (secret_store_id),
    FOREIGN KEY (secret_store_id) REFERENCES secret_stores (id),
    FOREIGN KEY (project_id) REFERENCES projects (id)
) ENGINE=InnoDB;
--: make index ix_project_secret_store_secret_store_id project_secret_store(secret_store_id)
CREATE INDEX ix_project_secret_store_secret_store_id ON project_secret_store (secret_store_id);
