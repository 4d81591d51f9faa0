-- Barbican's own step gives each column a default, the dates the moment of the migration. Here the dates of
-- a waiting task are those of its order, and no default is left behind: the services always write a value.
--: make column order_retry_tasks.created_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN created_at DATETIME;
--: make column order_retry_tasks.updated_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN updated_at DATETIME;
--: make column order_retry_tasks.deleted_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN deleted_at DATETIME;
--: make column order_retry_tasks.deleted BOOLEAN NULL
ALTER TABLE order_retry_tasks ADD COLUMN deleted TINYINT(1);
--: make column order_retry_tasks.status VARCHAR(20) NULL
ALTER TABLE order_retry_tasks ADD COLUMN status VARCHAR(20);

--: fill order_retry_tasks.created_at from orders.created_at
UPDATE order_retry_tasks SET created_at =
    coalesce((SELECT o.created_at FROM orders AS o WHERE o.id = order_retry_tasks.order_id), retry_at)
WHERE created_at IS NULL;
--: fill order_retry_tasks.updated_at from orders.updated_at
UPDATE order_retry_tasks SET updated_at =
    coalesce((SELECT o.updated_at FROM orders AS o WHERE o.id = order_retry_tasks.order_id), retry_at)
WHERE updated_at IS NULL;
--: fill order_retry_tasks.deleted from order_id
UPDATE order_retry_tasks SET deleted = 0 WHERE deleted IS NULL;
--: fill order_retry_tasks.status from order_id
UPDATE order_retry_tasks SET status = 'PENDING' WHERE status IS NULL;

--: alter column order_retry_tasks.created_at DATETIME NOT NULL
ALTER TABLE order_retry_tasks MODIFY created_at DATETIME NOT NULL;
--: alter column order_retry_tasks.updated_at DATETIME NOT NULL
ALTER TABLE order_retry_tasks MODIFY updated_at DATETIME NOT NULL;
--: alter column order_retry_tasks.deleted BOOLEAN NOT NULL
ALTER TABLE order_retry_tasks MODIFY deleted TINYINT(1) NOT NULL;
--: alter column order_retry_tasks.status VARCHAR(20) NOT NULL
ALTER TABLE order_retry_tasks MODIFY status VARCHAR(20) NOT NULL;
