-- NULL for the authorities there are: they belong to everybody.
ALTER TABLE certificate_authorities ADD COLUMN creator_id VARCHAR(255);
ALTER TABLE certificate_authorities ADD COLUMN project_id VARCHAR(36) CONSTRAINT cas_project_fk REFERENCES projects (id);
