-- Up to here Barbican's own migrations run on SQLite; at the next revision they stop and leave the file so.
ALTER TABLE orders ADD COLUMN container_id VARCHAR(36);
ALTER TABLE orders ADD COLUMN meta TEXT;
ALTER TABLE orders ADD COLUMN type VARCHAR(255);
