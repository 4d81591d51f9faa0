-- What Barbican's own migration makes of a Mitaka database.
DROP INDEX ix_project_secret_store_project_id;
DROP INDEX ix_project_secret_store_secret_store_id;
CREATE UNIQUE INDEX ix_project_secret_store_project_id ON project_secret_store (project_id);
