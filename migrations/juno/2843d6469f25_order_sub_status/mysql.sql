--: make column orders.sub_status VARCHAR(36) NULL
ALTER TABLE orders ADD COLUMN sub_status VARCHAR(36);
--: make column orders.sub_status_message VARCHAR(255) NULL
ALTER TABLE orders ADD COLUMN sub_status_message VARCHAR(255);
