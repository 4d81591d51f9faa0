-- From VARCHAR(255) to TEXT. Barbican's own step opens both to NULL on the way.
--: alter column order_barbican_metadata.value TEXT NOT NULL
ALTER TABLE order_barbican_metadata MODIFY value TEXT NOT NULL;
--: alter column certificate_authority_metadata.value TEXT NOT NULL
ALTER TABLE certificate_authority_metadata MODIFY value TEXT NOT NULL;
