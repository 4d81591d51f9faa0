-- MySQL does not let a column under a reference become NOT NULL.
--: drop reference preferred_certificate_authorities(ca_id) certificate_authorities(id)
ALTER TABLE preferred_certificate_authorities DROP FOREIGN KEY {name};
--: alter column preferred_certificate_authorities.ca_id VARCHAR(36) NOT NULL
ALTER TABLE preferred_certificate_authorities MODIFY ca_id VARCHAR(36) NOT NULL;
--: make reference preferred_certificate_authorities_fk preferred_certificate_authorities(ca_id) certificate_authorities(id)
ALTER TABLE preferred_certificate_authorities
    ADD CONSTRAINT preferred_certificate_authorities_fk FOREIGN KEY (ca_id) REFERENCES certificate_authorities (id);
-- A project has one preferred authority.
--: make unique ix_preferred_certificate_authorities_project_id preferred_certificate_authorities(project_id)
CREATE UNIQUE INDEX ix_preferred_certificate_authorities_project_id ON preferred_certificate_authorities (project_id);

-- Where MySQL has indexed a reference by itself, that index is kept: it keeps the name of its column, where
-- Barbican's own step replaces it by one of these.
--: make index ix_certificate_authority_metadata_ca_id certificate_authority_metadata(ca_id)
CREATE INDEX ix_certificate_authority_metadata_ca_id ON certificate_authority_metadata (ca_id);
--: make index ix_certificate_authority_metadata_key certificate_authority_metadata(key)
CREATE INDEX ix_certificate_authority_metadata_key ON certificate_authority_metadata ("key");
--: make index ix_container_consumer_metadata_container_id container_consumer_metadata(container_id)
CREATE INDEX ix_container_consumer_metadata_container_id ON container_consumer_metadata (container_id);
--: make index ix_container_secret_container_id container_secret(container_id)
CREATE INDEX ix_container_secret_container_id ON container_secret (container_id);
--: make index ix_container_secret_secret_id container_secret(secret_id)
CREATE INDEX ix_container_secret_secret_id ON container_secret (secret_id);
--: make index ix_containers_project_id containers(project_id)
CREATE INDEX ix_containers_project_id ON containers (project_id);
--: make index ix_encrypted_data_kek_id encrypted_data(kek_id)
CREATE INDEX ix_encrypted_data_kek_id ON encrypted_data (kek_id);
--: make index ix_encrypted_data_secret_id encrypted_data(secret_id)
CREATE INDEX ix_encrypted_data_secret_id ON encrypted_data (secret_id);
--: make index ix_kek_data_project_id kek_data(project_id)
CREATE INDEX ix_kek_data_project_id ON kek_data (project_id);
--: make index ix_order_barbican_metadata_order_id order_barbican_metadata(order_id)
CREATE INDEX ix_order_barbican_metadata_order_id ON order_barbican_metadata (order_id);
--: make index ix_order_plugin_metadata_order_id order_plugin_metadata(order_id)
CREATE INDEX ix_order_plugin_metadata_order_id ON order_plugin_metadata (order_id);
--: make index ix_order_retry_tasks_order_id order_retry_tasks(order_id)
CREATE INDEX ix_order_retry_tasks_order_id ON order_retry_tasks (order_id);
--: make index ix_orders_container_id orders(container_id)
CREATE INDEX ix_orders_container_id ON orders (container_id);
--: make index ix_orders_project_id orders(project_id)
CREATE INDEX ix_orders_project_id ON orders (project_id);
--: make index ix_orders_secret_id orders(secret_id)
CREATE INDEX ix_orders_secret_id ON orders (secret_id);
--: make index ix_preferred_certificate_authorities_ca_id preferred_certificate_authorities(ca_id)
CREATE INDEX ix_preferred_certificate_authorities_ca_id ON preferred_certificate_authorities (ca_id);
--: make index ix_project_certificate_authorities_ca_id project_certificate_authorities(ca_id)
CREATE INDEX ix_project_certificate_authorities_ca_id ON project_certificate_authorities (ca_id);
--: make index ix_project_certificate_authorities_project_id project_certificate_authorities(project_id)
CREATE INDEX ix_project_certificate_authorities_project_id ON project_certificate_authorities (project_id);
--: make index ix_project_secret_project_id project_secret(project_id)
CREATE INDEX ix_project_secret_project_id ON project_secret (project_id);
--: make index ix_project_secret_secret_id project_secret(secret_id)
CREATE INDEX ix_project_secret_secret_id ON project_secret (secret_id);
--: make index ix_secret_store_metadata_secret_id secret_store_metadata(secret_id)
CREATE INDEX ix_secret_store_metadata_secret_id ON secret_store_metadata (secret_id);
