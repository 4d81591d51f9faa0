-- Every secret there is becomes an opaque one, by the default. (A table that the services made allows NULL.)
--: make column secrets.secret_type VARCHAR(255) NOT NULL DEFAULT 'opaque'
ALTER TABLE secrets ADD COLUMN secret_type VARCHAR(255) NOT NULL DEFAULT 'opaque';
