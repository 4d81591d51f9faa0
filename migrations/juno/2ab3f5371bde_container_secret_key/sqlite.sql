-- A primary key cannot be added to a table, so the table is built anew. The id is made of halves of the two
-- ids and the row number: unique, and the same whenever this is run. The dates are the container's.
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
    PRIMARY KEY (id, container_id, secret_id),
    CONSTRAINT _container_secret_name_uc UNIQUE (container_id, secret_id, name),
    FOREIGN KEY(container_id) REFERENCES containers (id),
    FOREIGN KEY(secret_id) REFERENCES secrets (id)
);
INSERT INTO container_secret_new (id, created_at, updated_at, deleted_at, deleted, status, name, container_id, secret_id)
    SELECT substr(old.container_id, 1, 18) || substr(old.secret_id, 19, 10) || printf('%08x', old.rowid),
           coalesce(c.created_at, '1970-01-01 00:00:00'), coalesce(c.updated_at, '1970-01-01 00:00:00'), c.deleted_at,
           coalesce(c.deleted, 0), 'ACTIVE', old.name, old.container_id, old.secret_id
    FROM container_secret AS old LEFT JOIN containers AS c ON c.id = old.container_id
    ORDER BY old.rowid;
DROP TABLE container_secret;
ALTER TABLE container_secret_new RENAME TO container_secret;
