-- Barbican's own step shortens the column to 36 characters, which no model ever asked for: here it stays as
-- long as it is. It refuses or cuts a longer value, by sql_mode.
--: rename column projects.keystone_id external_id
ALTER TABLE projects CHANGE keystone_id external_id VARCHAR(255);
