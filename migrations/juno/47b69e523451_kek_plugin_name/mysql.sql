--: alter column kek_data.plugin_name VARCHAR(255) NOT NULL
ALTER TABLE kek_data MODIFY plugin_name VARCHAR(255) NOT NULL;
