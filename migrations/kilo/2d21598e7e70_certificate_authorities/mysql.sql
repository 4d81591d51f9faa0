-- Barbican's own step makes the keys of the last three of several columns, the services of id alone.
--: make table certificate_authorities
CREATE TABLE certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    plugin_ca_id TEXT NOT NULL,
    expiration DATETIME,
    PRIMARY KEY (id)
) ENGINE=InnoDB;

--: make table project_certificate_authorities
CREATE TABLE project_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id, project_id, ca_id),
    CONSTRAINT _project_certificate_authority_uc UNIQUE (project_id, ca_id),
    FOREIGN KEY (project_id) REFERENCES projects (id),
    FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id)
) ENGINE=InnoDB;

--: make table certificate_authority_metadata
CREATE TABLE certificate_authority_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id, "key", ca_id),
    CONSTRAINT _certificate_authority_metadatum_uc UNIQUE (ca_id, "key"),
    FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id)
) ENGINE=InnoDB;

-- ca_id becomes NOT NULL in 1c0f328bfce0. Barbican makes project_id unique here, and again there: one index
-- is enough, under the name that lasts.
--: make table preferred_certificate_authorities
CREATE TABLE preferred_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36),
    PRIMARY KEY (id, project_id),
    UNIQUE KEY ix_preferred_certificate_authorities_project_id (project_id),
    FOREIGN KEY (project_id) REFERENCES projects (id),
    CONSTRAINT preferred_certificate_authorities_fk FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id)
) ENGINE=InnoDB;
