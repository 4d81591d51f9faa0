-- Keystone had begun to call tenants projects. MySQL carries the new name of a table into every reference to
-- it, but that of a column only since 5.6, and not in every case. So the references on tenant_id go before
-- their column gets its new name, and are made again after it.
--
-- Barbican's own step drops them by the names that MySQL has given them. Those depend on how the table was
-- made, so the trees of 3.0.0 to 10.0.0 drop the reference of an order to its secret on databases that the
-- services of Juno have made, and keep the one to its tenant. Here they are told by their columns. That step
-- also opens project_id to NULL, which this one does not. The unique on project_secret, and the indexes that
-- MySQL made for the references, keep their old names.
--: rename table tenants projects
RENAME TABLE tenants TO projects;
--: rename table tenant_secret project_secret
RENAME TABLE tenant_secret TO project_secret;

--: drop reference project_secret(tenant_id) projects(id)
ALTER TABLE project_secret DROP FOREIGN KEY {name};
--: rename column project_secret.tenant_id project_id
ALTER TABLE project_secret CHANGE tenant_id project_id VARCHAR(36) NOT NULL;
--: make unique _project_secret_uc project_secret(project_id, secret_id)
ALTER TABLE project_secret ADD CONSTRAINT _project_secret_uc UNIQUE (project_id, secret_id);
--: make reference project_secret_project_fk project_secret(project_id) projects(id)
ALTER TABLE project_secret ADD CONSTRAINT project_secret_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
--: make reference project_secret_secret_fk project_secret(secret_id) secrets(id)
ALTER TABLE project_secret ADD CONSTRAINT project_secret_secret_fk FOREIGN KEY (secret_id) REFERENCES secrets (id);

--: drop reference containers(tenant_id) projects(id)
ALTER TABLE containers DROP FOREIGN KEY {name};
--: rename column containers.tenant_id project_id
ALTER TABLE containers CHANGE tenant_id project_id VARCHAR(36) NOT NULL;
--: make reference containers_project_fk containers(project_id) projects(id)
ALTER TABLE containers ADD CONSTRAINT containers_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);

--: drop reference kek_data(tenant_id) projects(id)
ALTER TABLE kek_data DROP FOREIGN KEY {name};
--: rename column kek_data.tenant_id project_id
ALTER TABLE kek_data CHANGE tenant_id project_id VARCHAR(36) NOT NULL;
--: make reference kek_data_project_fk kek_data(project_id) projects(id)
ALTER TABLE kek_data ADD CONSTRAINT kek_data_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);

--: drop reference orders(tenant_id) projects(id)
ALTER TABLE orders DROP FOREIGN KEY {name};
--: rename column orders.tenant_id project_id
ALTER TABLE orders CHANGE tenant_id project_id VARCHAR(36) NOT NULL;
--: make reference orders_project_fk orders(project_id) projects(id)
ALTER TABLE orders ADD CONSTRAINT orders_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
-- There already, unless a step of Barbican that was stopped half way has dropped it.
--: make reference orders_secret_fk orders(secret_id) secrets(id)
ALTER TABLE orders ADD CONSTRAINT orders_secret_fk FOREIGN KEY (secret_id) REFERENCES secrets (id);
-- The services of Juno make the reference to the container, Barbican's own migrations up to here do not. NULL
-- where it does not exist: with orphans = refuse there is no such order, or we would not be here.
--: tidy orders
UPDATE orders SET container_id = NULL
WHERE container_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM containers AS c WHERE c.id = orders.container_id);
--: make reference orders_container_fk orders(container_id) containers(id)
ALTER TABLE orders ADD CONSTRAINT orders_container_fk FOREIGN KEY (container_id) REFERENCES containers (id);
