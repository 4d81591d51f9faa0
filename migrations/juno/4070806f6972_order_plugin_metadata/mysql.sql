--: make table order_plugin_metadata
CREATE TABLE order_plugin_metadata (
    id VARCHAR(36) NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    deleted_at DATETIME,
    deleted TINYINT(1) NOT NULL,
    status VARCHAR(20) NOT NULL,
    order_id VARCHAR(36) NOT NULL,
    "key" VARCHAR(255) NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (order_id) REFERENCES orders (id)
) ENGINE=InnoDB;
