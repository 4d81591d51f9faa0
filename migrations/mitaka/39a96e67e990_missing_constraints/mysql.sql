-- Databases made by the services have external_id unique already, under another name. Barbican's own step
-- makes a second unique index on it there; this one does not.
--: make unique uc_projects_external_ids projects(external_id)
ALTER TABLE projects ADD CONSTRAINT uc_projects_external_ids UNIQUE (external_id);

-- 6a4457517a3 of Barbican left both columns open to NULL. They become NOT NULL on the way: a NULL, which the
-- services never write, stops the statement and is left as it is, for what it is to mean is not ours to say.
--: alter column secret_acls.project_access BOOLEAN NOT NULL DEFAULT 1
ALTER TABLE secret_acls MODIFY project_access TINYINT(1) NOT NULL DEFAULT 1;
--: alter column container_acls.project_access BOOLEAN NOT NULL DEFAULT 1
ALTER TABLE container_acls MODIFY project_access TINYINT(1) NOT NULL DEFAULT 1;
