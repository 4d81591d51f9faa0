--: make table certificate_authorities
CREATE TABLE certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    plugin_name VARCHAR(255) NOT NULL,
    plugin_ca_id TEXT NOT NULL,
    expiration TIMESTAMP,
    PRIMARY KEY (id)
);

-- Barbican's own step makes the keys of the other three of several columns; the services, of id alone.
--: make table project_certificate_authorities
CREATE TABLE project_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id, project_id, ca_id),
    CONSTRAINT _project_certificate_authority_uc UNIQUE (project_id, ca_id),
    FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id),
    FOREIGN KEY (project_id) REFERENCES projects (id)
);

--: make table certificate_authority_metadata
CREATE TABLE certificate_authority_metadata (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    key VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    ca_id VARCHAR(36) NOT NULL,
    PRIMARY KEY (id, key, ca_id),
    CONSTRAINT _certificate_authority_metadatum_uc UNIQUE (ca_id, key),
    FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id)
);

-- ca_id becomes mandatory at 1c0f328bfce0. There Barbican's own step also makes a second reference of it, beside
-- the one made here; ours is the only one and has that one's name.
--: make table preferred_certificate_authorities
CREATE TABLE preferred_certificate_authorities (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    ca_id VARCHAR(36),
    PRIMARY KEY (id, project_id),
    UNIQUE (project_id),
    CONSTRAINT preferred_certificate_authorities_fk FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id),
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
