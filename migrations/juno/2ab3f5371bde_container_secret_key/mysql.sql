-- The longest value does not tell whether dsa is among the types: Juno's own cd4106a1a0 forgot it, and its
-- 2ab3f5371bde added it. So the type is written again in any case, which changes nothing where it is right.
--: fill containers.type from type
ALTER TABLE containers MODIFY type ENUM('generic', 'rsa', 'dsa', 'certificate');

-- Barbican's own step adds the columns as NOT NULL: on rows, that makes empty ids and dates of 0000-00-00,
-- or fails. Here they are filled first: an id of its own, the dates of the container.
--
-- The key that the services of Icehouse and Juno's own step make is of several columns. The references need
-- an index of their own before it goes.
--: make index ix_container_secret_container_id container_secret(container_id)
CREATE INDEX ix_container_secret_container_id ON container_secret (container_id);
--: make index ix_container_secret_secret_id container_secret(secret_id)
CREATE INDEX ix_container_secret_secret_id ON container_secret (secret_id);
--: drop key container_secret
ALTER TABLE container_secret DROP PRIMARY KEY;
--: make column container_secret.id VARCHAR(36) NULL
ALTER TABLE container_secret ADD COLUMN id VARCHAR(36);
--: make column container_secret.created_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN created_at DATETIME;
--: make column container_secret.updated_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN updated_at DATETIME;
--: make column container_secret.deleted_at DATETIME NULL
ALTER TABLE container_secret ADD COLUMN deleted_at DATETIME;
--: make column container_secret.deleted BOOLEAN NULL
ALTER TABLE container_secret ADD COLUMN deleted TINYINT(1);
--: make column container_secret.status VARCHAR(20) NULL
ALTER TABLE container_secret ADD COLUMN status VARCHAR(20);

-- The empty id is the one that Barbican's own step leaves when it is stopped half way.
--: fill container_secret.id from container_id
UPDATE container_secret SET id = UUID() WHERE id IS NULL OR id = '';
-- IS NULL is true of 0000-00-00 too in a DATETIME that is NOT NULL.
--: fill container_secret.created_at from containers.created_at
UPDATE container_secret SET created_at =
    coalesce((SELECT c.created_at FROM containers AS c WHERE c.id = container_secret.container_id), '1970-01-01 00:00:00')
WHERE created_at IS NULL;
--: fill container_secret.updated_at from containers.updated_at
UPDATE container_secret SET updated_at =
    coalesce((SELECT c.updated_at FROM containers AS c WHERE c.id = container_secret.container_id), '1970-01-01 00:00:00')
WHERE updated_at IS NULL;
--: fill container_secret.deleted_at from containers.deleted_at
UPDATE container_secret SET deleted_at =
    (SELECT c.deleted_at FROM containers AS c WHERE c.id = container_secret.container_id)
WHERE deleted_at IS NULL;
--: fill container_secret.deleted from containers.deleted
UPDATE container_secret SET deleted =
    coalesce((SELECT c.deleted FROM containers AS c WHERE c.id = container_secret.container_id), 0)
WHERE deleted IS NULL;
--: fill container_secret.status from container_id
UPDATE container_secret SET status = 'ACTIVE' WHERE status IS NULL OR status = '';

--: alter column container_secret.id VARCHAR(36) NOT NULL
ALTER TABLE container_secret MODIFY id VARCHAR(36) NOT NULL;
--: alter column container_secret.created_at DATETIME NOT NULL
ALTER TABLE container_secret MODIFY created_at DATETIME NOT NULL;
--: alter column container_secret.updated_at DATETIME NOT NULL
ALTER TABLE container_secret MODIFY updated_at DATETIME NOT NULL;
--: alter column container_secret.deleted BOOLEAN NOT NULL
ALTER TABLE container_secret MODIFY deleted TINYINT(1) NOT NULL;
--: alter column container_secret.status VARCHAR(20) NOT NULL
ALTER TABLE container_secret MODIFY status VARCHAR(20) NOT NULL;

--: make key container_secret(id)
ALTER TABLE container_secret ADD PRIMARY KEY (id);
--: make unique _container_secret_name_uc container_secret(container_id, secret_id, name)
ALTER TABLE container_secret ADD CONSTRAINT _container_secret_name_uc UNIQUE (container_id, secret_id, name);
