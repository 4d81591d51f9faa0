-- A quota that never came into force.
--: drop column project_quotas.transport_keys
ALTER TABLE project_quotas DROP COLUMN transport_keys;
