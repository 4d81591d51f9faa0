-- From here on a secret belongs to one project, the one that project_secret says. A secret of no project, which
-- the precondition names before, fails at NOT NULL and undoes all of it.
--: fill secrets.project_id from project_secret.project_id
UPDATE secrets SET project_id = ps.project_id
    FROM project_secret AS ps WHERE ps.secret_id = secrets.id AND secrets.project_id IS NULL;
--: alter column secrets.project_id VARCHAR(36) NOT NULL
ALTER TABLE secrets ALTER COLUMN project_id SET NOT NULL;
