ALTER TABLE secrets ADD COLUMN project_id VARCHAR(36) CONSTRAINT secrets_project_fk REFERENCES projects (id);
CREATE INDEX IF NOT EXISTS ix_secrets_project_id ON secrets (project_id);
