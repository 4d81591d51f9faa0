-- PostgreSQL carries new names into every key, index, unique and reference. On the tables that stay, the
-- references are dropped and made again all the same, for they get new names here. They are found by their
-- columns, whatever their names. (Barbican's own step leaves the old ones beside the new: two each on
-- containers, kek_data, orders and project_secret.)
--: drop reference containers(tenant_id) tenants(id)
ALTER TABLE containers DROP CONSTRAINT {name};
--: drop reference kek_data(tenant_id) tenants(id)
ALTER TABLE kek_data DROP CONSTRAINT {name};
--: drop reference orders(tenant_id) tenants(id)
ALTER TABLE orders DROP CONSTRAINT {name};

--: rename table tenants projects
ALTER TABLE tenants RENAME TO projects;
--: rename table tenant_secret project_secret
ALTER TABLE tenant_secret RENAME TO project_secret;
--: rename column project_secret.tenant_id project_id
ALTER TABLE project_secret RENAME COLUMN tenant_id TO project_id;
--: rename column containers.tenant_id project_id
ALTER TABLE containers RENAME COLUMN tenant_id TO project_id;
--: rename column kek_data.tenant_id project_id
ALTER TABLE kek_data RENAME COLUMN tenant_id TO project_id;
--: rename column orders.tenant_id project_id
ALTER TABLE orders RENAME COLUMN tenant_id TO project_id;

--: make reference containers_project_fk containers(project_id) projects(id)
ALTER TABLE containers ADD CONSTRAINT containers_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
--: make reference kek_data_project_fk kek_data(project_id) projects(id)
ALTER TABLE kek_data ADD CONSTRAINT kek_data_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);
--: make reference orders_project_fk orders(project_id) projects(id)
ALTER TABLE orders ADD CONSTRAINT orders_project_fk FOREIGN KEY (project_id) REFERENCES projects (id);

-- Missing up to here where Barbican's own migrations made orders. NULL where the container does not exist:
-- with orphans = refuse there is no such order, or we would not be here.
--: tidy orders
UPDATE orders SET container_id = NULL
    WHERE container_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM containers AS c WHERE c.id = orders.container_id);
--: make reference orders_ibfk_2 orders(container_id) containers(id)
ALTER TABLE orders ADD CONSTRAINT orders_ibfk_2 FOREIGN KEY (container_id) REFERENCES containers (id);
