-- From here on a secret belongs to one project, the one that project_secret says. A secret of two projects
-- stops the first statement, a secret of none the one that makes the column NOT NULL.
--: fill secrets.project_id from project_secret.project_id
UPDATE secrets SET project_id = (SELECT ps.project_id FROM project_secret AS ps WHERE ps.secret_id = secrets.id)
WHERE project_id IS NULL;
-- MySQL does not let a column under a reference become NOT NULL.
--: drop reference secrets(project_id) projects(id)
ALTER TABLE secrets DROP FOREIGN KEY {name};
--: alter column secrets.project_id VARCHAR(36) NOT NULL
ALTER TABLE secrets MODIFY project_id VARCHAR(36) NOT NULL;
--: make reference secrets_project_fk secrets(project_id) projects(id)
ALTER TABLE secrets ADD CONSTRAINT secrets_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
