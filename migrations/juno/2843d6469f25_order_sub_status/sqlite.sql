ALTER TABLE orders ADD COLUMN sub_status VARCHAR(36);
ALTER TABLE orders ADD COLUMN sub_status_message VARCHAR(255);
