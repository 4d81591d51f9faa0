-- NOT NULL columns without a default cannot be added to a table, so it is built anew. A task waiting to be
-- tried is pending; its dates are those of its order.
CREATE TABLE order_retry_tasks_new (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted BOOLEAN NOT NULL,
    status VARCHAR(20) NOT NULL,
    order_id VARCHAR(36) NOT NULL,
    retry_task TEXT NOT NULL,
    retry_at DATETIME NOT NULL,
    retry_args TEXT NOT NULL,
    retry_kwargs TEXT NOT NULL,
    retry_count INTEGER NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(order_id) REFERENCES orders (id)
);
INSERT INTO order_retry_tasks_new (id, created_at, updated_at, deleted_at, deleted, status,
        order_id, retry_task, retry_at, retry_args, retry_kwargs, retry_count)
    SELECT old.id, coalesce(o.created_at, old.retry_at), coalesce(o.updated_at, old.retry_at), NULL, 0, 'PENDING',
        old.order_id, old.retry_task, old.retry_at, old.retry_args, old.retry_kwargs, old.retry_count
    FROM order_retry_tasks AS old LEFT JOIN orders AS o ON o.id = old.order_id
    ORDER BY old.rowid;
DROP TABLE order_retry_tasks;
ALTER TABLE order_retry_tasks_new RENAME TO order_retry_tasks;
CREATE INDEX IF NOT EXISTS ix_order_retry_tasks_order_id ON order_retry_tasks (order_id);
