-- Found by its column: a database that the services made has had this unique since Juno, as
-- projects_external_id_key or tenants_keystone_id_key, and keeps it. (Barbican's own step gives such a
-- database a second one on the same column.)
--: make unique uc_projects_external_ids projects(external_id)
ALTER TABLE projects ADD CONSTRAINT uc_projects_external_ids UNIQUE (external_id);

--: alter column secret_acls.project_access BOOLEAN NOT NULL DEFAULT 1
ALTER TABLE secret_acls ALTER COLUMN project_access SET DEFAULT true;
--: alter column container_acls.project_access BOOLEAN NOT NULL DEFAULT 1
ALTER TABLE container_acls ALTER COLUMN project_access SET DEFAULT true;
