--: make column project_quotas.cas INTEGER NULL
ALTER TABLE project_quotas ADD COLUMN cas INTEGER;
