--: make column orders.container_id VARCHAR(36) NULL
ALTER TABLE orders ADD COLUMN container_id VARCHAR(36);
--: make column orders.meta TEXT NULL
ALTER TABLE orders ADD COLUMN meta TEXT;
--: make column orders.type VARCHAR(255) NULL
ALTER TABLE orders ADD COLUMN type VARCHAR(255);
