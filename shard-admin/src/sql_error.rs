//! What a server's error says to a person: the client library's own text is only "db error".

/// Message, SQLSTATE, detail and hint, or the library's text where no server has spoken.
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(reply) = error.as_db_error() else { return error.to_string() };
    let mut text = format!("{}: {} ({})", reply.severity(), reply.message(), reply.code().code());
    for (label, part) in [("detail", reply.detail()), ("hint", reply.hint())] {
        if let Some(part) = part {
            text.push_str(&format!("\n  {label}: {part}"));
        }
    }
    text
}
