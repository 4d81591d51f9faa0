-- The last revision of Juno. meta says what these said.
--: drop column orders.secret_mode
ALTER TABLE orders DROP COLUMN secret_mode;
--: drop column orders.secret_algorithm
ALTER TABLE orders DROP COLUMN secret_algorithm;
--: drop column orders.secret_bit_length
ALTER TABLE orders DROP COLUMN secret_bit_length;
--: drop column orders.secret_expiration
ALTER TABLE orders DROP COLUMN secret_expiration;
--: drop column orders.secret_payload_content_type
ALTER TABLE orders DROP COLUMN secret_payload_content_type;
--: drop column orders.secret_name
ALTER TABLE orders DROP COLUMN secret_name;
