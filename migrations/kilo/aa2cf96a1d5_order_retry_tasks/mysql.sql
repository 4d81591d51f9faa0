--: make table order_retry_tasks
CREATE TABLE order_retry_tasks (
    id VARCHAR(36) NOT NULL,
    order_id VARCHAR(36) NOT NULL,
    retry_task TEXT NOT NULL,
    retry_at DATETIME NOT NULL,
    retry_args TEXT NOT NULL,
    retry_kwargs TEXT NOT NULL,
    retry_count INTEGER NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (order_id) REFERENCES orders (id)
) ENGINE=InnoDB;
