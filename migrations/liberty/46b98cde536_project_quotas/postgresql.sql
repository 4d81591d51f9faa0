--: make table project_quotas
CREATE TABLE project_quotas (
    id VARCHAR(36) NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    secrets INTEGER,
    orders INTEGER,
    containers INTEGER,
    transport_keys INTEGER,
    consumers INTEGER,
    PRIMARY KEY (id),
    CONSTRAINT project_quotas_fk FOREIGN KEY (project_id) REFERENCES projects (id)
);
--: make index ix_project_quotas_project_id project_quotas(project_id)
CREATE INDEX ix_project_quotas_project_id ON project_quotas (project_id);
