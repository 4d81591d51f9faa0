-- Every secret there is becomes an opaque one, by the default.
ALTER TABLE secrets ADD COLUMN secret_type VARCHAR(255) DEFAULT 'opaque';
