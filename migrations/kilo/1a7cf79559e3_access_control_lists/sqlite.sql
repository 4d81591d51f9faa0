-- creator_only: nobody of the project but the creator may read.
CREATE TABLE IF NOT EXISTS secret_acls (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    creator_only BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_acl_operation_uc UNIQUE (secret_id, operation),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
CREATE INDEX IF NOT EXISTS ix_secret_acls_secret_id ON secret_acls (secret_id);

CREATE TABLE IF NOT EXISTS container_acls (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    container_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    creator_only BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_acl_operation_uc UNIQUE (container_id, operation),
    FOREIGN KEY(container_id) REFERENCES containers (id)
);
CREATE INDEX IF NOT EXISTS ix_container_acls_container_id ON container_acls (container_id);

CREATE TABLE IF NOT EXISTS secret_acl_users (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    acl_id VARCHAR(36) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_acl_user_uc UNIQUE (acl_id, user_id),
    FOREIGN KEY(acl_id) REFERENCES secret_acls (id)
);
CREATE INDEX IF NOT EXISTS ix_secret_acl_users_acl_id ON secret_acl_users (acl_id);

CREATE TABLE IF NOT EXISTS container_acl_users (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    acl_id VARCHAR(36) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_acl_user_uc UNIQUE (acl_id, user_id),
    FOREIGN KEY(acl_id) REFERENCES container_acls (id)
);
CREATE INDEX IF NOT EXISTS ix_container_acl_users_acl_id ON container_acl_users (acl_id);

-- Unknown for what is there already.
ALTER TABLE containers ADD COLUMN creator_id VARCHAR(255);
ALTER TABLE orders ADD COLUMN creator_id VARCHAR(255);
ALTER TABLE secrets ADD COLUMN creator_id VARCHAR(255);
