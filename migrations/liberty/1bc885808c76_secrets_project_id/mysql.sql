--: make column secrets.project_id VARCHAR(36) NULL
ALTER TABLE secrets ADD COLUMN project_id VARCHAR(36);
--: make index ix_secrets_project_id secrets(project_id)
CREATE INDEX ix_secrets_project_id ON secrets (project_id);
--: make reference secrets_project_fk secrets(project_id) projects(id)
ALTER TABLE secrets ADD CONSTRAINT secrets_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
