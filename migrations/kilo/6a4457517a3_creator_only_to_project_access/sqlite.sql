-- creator_only = 1 becomes project_access = 0. Inverted twice, it would publish private secrets. So the new
-- column is filled from the old one, in a new table, and no statement reads what it writes: run again,
-- each of these fails and changes nothing.
CREATE TABLE secret_acls_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    secret_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    project_access BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _secret_acl_operation_uc UNIQUE (secret_id, operation),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
INSERT INTO secret_acls_new (id, created_at, updated_at, deleted_at, deleted, status, secret_id, operation, project_access)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, secret_id, operation, NOT creator_only
    FROM secret_acls ORDER BY rowid;
DROP TABLE secret_acls;
ALTER TABLE secret_acls_new RENAME TO secret_acls;
CREATE INDEX IF NOT EXISTS ix_secret_acls_secret_id ON secret_acls (secret_id);

CREATE TABLE container_acls_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    container_id VARCHAR(36) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    project_access BOOLEAN NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _container_acl_operation_uc UNIQUE (container_id, operation),
    FOREIGN KEY(container_id) REFERENCES containers (id)
);
INSERT INTO container_acls_new (id, created_at, updated_at, deleted_at, deleted, status, container_id, operation, project_access)
    SELECT id, created_at, updated_at, deleted_at, deleted, status, container_id, operation, NOT creator_only
    FROM container_acls ORDER BY rowid;
DROP TABLE container_acls;
ALTER TABLE container_acls_new RENAME TO container_acls;
CREATE INDEX IF NOT EXISTS ix_container_acls_container_id ON container_acls (container_id);
