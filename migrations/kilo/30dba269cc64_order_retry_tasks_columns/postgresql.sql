-- A task waiting to be tried is pending; its dates are those of its order. (Barbican's own step fills the
-- columns by defaults that it leaves behind: false, PENDING, and for the dates the time it ran, which no later
-- row could have. The services give all four themselves. So: no defaults, as on a fresh installation.)
--: make column order_retry_tasks.created_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN created_at TIMESTAMP;
--: make column order_retry_tasks.deleted BOOLEAN NULL
ALTER TABLE order_retry_tasks ADD COLUMN deleted BOOLEAN;
--: make column order_retry_tasks.deleted_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN deleted_at TIMESTAMP;
--: make column order_retry_tasks.status VARCHAR(20) NULL
ALTER TABLE order_retry_tasks ADD COLUMN status VARCHAR(20);
--: make column order_retry_tasks.updated_at DATETIME NULL
ALTER TABLE order_retry_tasks ADD COLUMN updated_at TIMESTAMP;

--: fill order_retry_tasks.created_at from orders.created_at
UPDATE order_retry_tasks SET created_at = o.created_at
    FROM orders AS o WHERE o.id = order_retry_tasks.order_id AND order_retry_tasks.created_at IS NULL;
--: fill order_retry_tasks.updated_at from orders.updated_at
UPDATE order_retry_tasks SET updated_at = o.updated_at
    FROM orders AS o WHERE o.id = order_retry_tasks.order_id AND order_retry_tasks.updated_at IS NULL;
--: fill order_retry_tasks.deleted from order_retry_tasks.order_id
UPDATE order_retry_tasks SET deleted = false WHERE deleted IS NULL;
--: fill order_retry_tasks.status from order_retry_tasks.order_id
UPDATE order_retry_tasks SET status = 'PENDING' WHERE status IS NULL;

--: alter column order_retry_tasks.created_at DATETIME NOT NULL
ALTER TABLE order_retry_tasks ALTER COLUMN created_at SET NOT NULL;
--: alter column order_retry_tasks.deleted BOOLEAN NOT NULL
ALTER TABLE order_retry_tasks ALTER COLUMN deleted SET NOT NULL;
--: alter column order_retry_tasks.status VARCHAR(20) NOT NULL
ALTER TABLE order_retry_tasks ALTER COLUMN status SET NOT NULL;
--: alter column order_retry_tasks.updated_at DATETIME NOT NULL
ALTER TABLE order_retry_tasks ALTER COLUMN updated_at SET NOT NULL;
