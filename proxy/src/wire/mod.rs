//! PostgreSQL's frontend/backend protocol 3 at the level of frames.
//!
//! Source: PostgreSQL documentation, "Message Formats". A frame is one tag byte, a length (big-endian `i32` that counts
//! itself but not the tag) and a body. The data path reads headers and the few fields that it needs.

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod reply;
