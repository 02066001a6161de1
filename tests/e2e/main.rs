//! End to end: unchanged applications on a sharded cluster of real servers.

mod demo;
mod routing;
mod session;
