//! Why a statement is not executed, in the words that the application's developer reads.

/// A typed refusal: becomes an ErrorResponse of severity ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE, five characters; `0A000` for statements that cannot be placed.
    pub sqlstate: &'static str,
    /// What cannot be done, naming the table or construct.
    pub message: String,
    /// Why.
    pub detail: Option<String>,
    /// The cure.
    pub hint: Option<String>,
}

impl Refusal {
    /// `0A000`, feature not supported.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { sqlstate: "0A000", message: message.into(), detail: None, hint: Some(hint.into()) }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl std::error::Error for Refusal {}
