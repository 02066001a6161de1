//! Bind messages, true and lying.
