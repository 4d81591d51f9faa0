//! The rows of Barbican's database which hold keys and secrets.

/// A row of `kek_data`: the key-encryption key of one project under one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KekRow {
    /// Primary key.
    pub id: String,
    /// Module and class of the crypto plugin that wrote the row.
    pub plugin_name: String,
    /// The project (tenant) it belongs to.
    pub project_id: String,
    /// Soft-deleted.
    pub deleted: bool,
    /// The KEK used for new secrets of the project.
    pub active: bool,
    /// The plugin's own text: JSON (p11_crypto) or a Fernet token (simple_crypto).
    pub plugin_meta: Option<String>,
}

/// A row of `encrypted_data`: one payload of one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// `encrypted_data.id`.
    pub id: String,
    /// The secret it belongs to.
    pub secret_id: String,
    /// The KEK it is encrypted under.
    pub kek_id: String,
    /// The datum or its secret is soft-deleted.
    pub deleted: bool,
    /// Base64 of the ciphertext.
    pub cypher_text: Option<String>,
    /// JSON of the p11_crypto plugin; null for simple_crypto.
    pub kek_meta_extended: Option<String>,
}
