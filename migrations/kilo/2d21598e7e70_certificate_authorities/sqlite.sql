-- With id alone as the primary key, as the services make them. (Barbican's own migrations make the key of
-- several columns here and say they mend it at 1c0f328bfce0, which they do not.)
CREATE TABLE IF NOT EXISTS certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    plugin_ca_id TEXT NOT NULL,
    expiration DATETIME,
    PRIMARY KEY (id)
);

CREATE TABLE IF NOT EXISTS project_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _project_certificate_authority_uc UNIQUE (project_id, ca_id),
    FOREIGN KEY(project_id) REFERENCES projects (id),
    FOREIGN KEY(ca_id) REFERENCES certificate_authorities (id)
);

CREATE TABLE IF NOT EXISTS certificate_authority_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT _certificate_authority_metadatum_uc UNIQUE (ca_id, "key"),
    FOREIGN KEY(ca_id) REFERENCES certificate_authorities (id)
);

CREATE TABLE IF NOT EXISTS preferred_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(project_id) REFERENCES projects (id),
    CONSTRAINT preferred_certificate_authorities_fk FOREIGN KEY(ca_id) REFERENCES certificate_authorities (id)
);
