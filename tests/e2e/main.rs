//! End to end: unchanged applications on a sharded cluster of real servers.

mod console;
mod cursors;
mod demo;
mod house;
mod inserts;
mod key_types;
mod life;
mod listen;
mod own_catalog;
mod replicas;
mod routing;
mod session;
mod set_off;
mod spread;
