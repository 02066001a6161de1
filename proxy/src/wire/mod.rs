//! The wire: frames, startup packets, errors and the byte streams below them.

pub mod error;
pub mod sqlstate;
pub mod startup;
pub mod stream;
pub mod talk;
