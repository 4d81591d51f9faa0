-- The longest value tells the type of an enum: up to here it had generic and rsa only.
--: alter column containers.type VARCHAR(11) NULL
ALTER TABLE containers MODIFY type ENUM('generic', 'rsa', 'dsa', 'certificate');
