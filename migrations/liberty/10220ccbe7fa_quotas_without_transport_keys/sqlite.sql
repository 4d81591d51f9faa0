-- A quota that never came into force.
ALTER TABLE project_quotas DROP COLUMN transport_keys;
