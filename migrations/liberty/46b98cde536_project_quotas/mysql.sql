--: make table project_quotas
CREATE TABLE project_quotas (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    project_id VARCHAR(36) NOT NULL,
    secrets INTEGER,
    orders INTEGER,
    containers INTEGER,
    transport_keys INTEGER,
    consumers INTEGER,
    PRIMARY KEY (id),
    KEY ix_project_quotas_project_id (project_id),
    CONSTRAINT project_quotas_fk FOREIGN KEY (project_id) REFERENCES projects (id)
) ENGINE=InnoDB;
--: make index ix_project_quotas_project_id project_quotas(project_id)
CREATE INDEX ix_project_quotas_project_id ON project_quotas (project_id);
