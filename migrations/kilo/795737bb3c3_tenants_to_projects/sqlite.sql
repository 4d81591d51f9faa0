-- Keystone had begun to call tenants projects. SQLite carries a new name into every index, unique
-- constraint and foreign key that uses the old one, so no table is built anew.
ALTER TABLE tenants RENAME TO projects;
ALTER TABLE tenant_secret RENAME TO project_secret;
ALTER TABLE project_secret RENAME COLUMN tenant_id TO project_id;
ALTER TABLE containers RENAME COLUMN tenant_id TO project_id;
ALTER TABLE kek_data RENAME COLUMN tenant_id TO project_id;
ALTER TABLE orders RENAME COLUMN tenant_id TO project_id;
