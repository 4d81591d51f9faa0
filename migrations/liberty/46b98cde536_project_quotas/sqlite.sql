CREATE TABLE IF NOT EXISTS project_quotas (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    secrets INTEGER,
    orders INTEGER,
    containers INTEGER,
    transport_keys INTEGER,
    consumers INTEGER,
    PRIMARY KEY (id),
    CONSTRAINT project_quotas_fk FOREIGN KEY(project_id) REFERENCES projects (id)
);
CREATE INDEX IF NOT EXISTS ix_project_quotas_project_id ON project_quotas (project_id);
