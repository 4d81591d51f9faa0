-- From here on a secret belongs to one project, the one that project_secret says. NOT NULL cannot be added
-- to a column, so the table is built anew; a secret of no project fails here and undoes all of it.
CREATE TABLE secrets_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    name VARCHAR(255),
    secret_type VARCHAR(255) DEFAULT 'opaque',
    expiration DATETIME,
    algorithm VARCHAR(255),
    bit_length INTEGER,
    mode VARCHAR(255),
    creator_id VARCHAR(255),
    project_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT secrets_project_fk FOREIGN KEY(project_id) REFERENCES projects (id)
);
INSERT INTO secrets_new (id, created_at, updated_at, deleted_at, deleted, status,
        name, secret_type, expiration, algorithm, bit_length, mode, creator_id, project_id)
    SELECT old.id, old.created_at, old.updated_at, old.deleted_at, old.deleted, old.status,
        old.name, old.secret_type, old.expiration, old.algorithm, old.bit_length, old.mode, old.creator_id,
        coalesce(old.project_id, (SELECT ps.project_id FROM project_secret AS ps WHERE ps.secret_id = old.id))
    FROM secrets AS old ORDER BY old.rowid;
DROP TABLE secrets;
ALTER TABLE secrets_new RENAME TO secrets;
CREATE INDEX IF NOT EXISTS ix_secrets_project_id ON secrets (project_id);
