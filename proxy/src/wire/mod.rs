//! PostgreSQL's frontend/backend protocol 3: frames, startup packets, errors and the byte streams below them.
//!
//! Source: PostgreSQL documentation, "Message Formats". A frame is one tag byte, a length (big-endian `i32` that counts
//! itself but not the tag) and a body. The data path reads headers and the few fields that it needs.

pub mod backend;
pub mod buffers;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod reply;
pub mod sqlstate;
pub mod startup;
pub mod stream;
pub mod talk;
