-- Every secret there is becomes an opaque one, by the default. NOT NULL as Barbican's own step has it; the
-- services make the column open to NULL.
--: make column secrets.secret_type VARCHAR(255) NOT NULL DEFAULT 'opaque'
ALTER TABLE secrets ADD COLUMN secret_type VARCHAR(255) NOT NULL DEFAULT 'opaque';
