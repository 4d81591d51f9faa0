-- Barbican's own step adds these columns as NOT NULL at once, which fails on a table with rows. So they are
-- filled in between: the dates are the container's, the id comes out of the two ids and the place of the row,
-- for nothing else tells two equal rows apart.
--: make column container_secret.created_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN created_at TIMESTAMP;
--: make column container_secret.deleted BOOLEAN NULL
ALTER TABLE container_secret ADD COLUMN deleted BOOLEAN;
--: make column container_secret.deleted_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN deleted_at TIMESTAMP;
--: make column container_secret.id VARCHAR(36) NULL
ALTER TABLE container_secret ADD COLUMN id VARCHAR(36);
--: make column container_secret.status VARCHAR(20) NULL
ALTER TABLE container_secret ADD COLUMN status VARCHAR(20);
--: make column container_secret.updated_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN updated_at TIMESTAMP;

-- Only where id is NULL still: rows that have one are done.
--: fill container_secret.deleted_at from containers.deleted_at
UPDATE container_secret SET deleted_at = c.deleted_at
    FROM containers AS c WHERE c.id = container_secret.container_id AND container_secret.id IS NULL;
--: fill container_secret.created_at from containers.created_at
UPDATE container_secret SET created_at = c.created_at
    FROM containers AS c WHERE c.id = container_secret.container_id AND container_secret.created_at IS NULL;
--: fill container_secret.updated_at from containers.updated_at
UPDATE container_secret SET updated_at = c.updated_at
    FROM containers AS c WHERE c.id = container_secret.container_id AND container_secret.updated_at IS NULL;
--: fill container_secret.deleted from containers.deleted
UPDATE container_secret SET deleted = c.deleted
    FROM containers AS c WHERE c.id = container_secret.container_id AND container_secret.deleted IS NULL;
--: fill container_secret.status from container_secret.container_id
UPDATE container_secret SET status = 'ACTIVE' WHERE status IS NULL;
--: fill container_secret.id from container_secret.container_id
UPDATE container_secret SET id = md5(container_id || secret_id || ctid::text)::uuid::text WHERE id IS NULL;

--: alter column container_secret.created_at DATETIME NOT NULL
ALTER TABLE container_secret ALTER COLUMN created_at SET NOT NULL;
--: alter column container_secret.deleted BOOLEAN NOT NULL
ALTER TABLE container_secret ALTER COLUMN deleted SET NOT NULL;
--: alter column container_secret.id VARCHAR(36) NOT NULL
ALTER TABLE container_secret ALTER COLUMN id SET NOT NULL;
--: alter column container_secret.status VARCHAR(20) NOT NULL
ALTER TABLE container_secret ALTER COLUMN status SET NOT NULL;
--: alter column container_secret.updated_at DATETIME NOT NULL
ALTER TABLE container_secret ALTER COLUMN updated_at SET NOT NULL;
-- Of id alone, as Barbican's own step makes it since Liberty; tables that the services of Juno made have all
-- three columns in it and keep them.
--: make key container_secret(id)
ALTER TABLE container_secret ADD CONSTRAINT pk_container_secret PRIMARY KEY (id);
--: make unique _container_secret_name_uc container_secret(container_id, secret_id, name)
ALTER TABLE container_secret ADD CONSTRAINT _container_secret_name_uc UNIQUE (container_id, secret_id, name);
