//! The admin console: a database that psql connects to.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::frontend::handshake::Login;
use crate::wire::error::Report;
use crate::wire::sqlstate;
use crate::worker::Shared;

/// Serves a login to the console.
pub async fn serve(login: Login, _shared: &Arc<Shared>) {
    let mut login = login;
    Report::fatal(sqlstate::FEATURE_NOT_SUPPORTED, "the admin console is not built yet")
        .write(&mut login.out);
    let _ = login.stream.write_all(&login.out).await;
    let _ = login.stream.flush().await;
}
