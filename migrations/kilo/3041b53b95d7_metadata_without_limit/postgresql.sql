--: alter column order_barbican_metadata.value TEXT NOT NULL
ALTER TABLE order_barbican_metadata ALTER COLUMN value TYPE TEXT;
--: alter column certificate_authority_metadata.value TEXT NOT NULL
ALTER TABLE certificate_authority_metadata ALTER COLUMN value TYPE TEXT;
