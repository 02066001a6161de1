//! End to end: unchanged applications on a sharded cluster of real servers.

mod console;
mod demo;
mod house;
mod life;
mod listen;
mod own_catalog;
mod replicas;
mod routing;
mod session;
mod set_off;
mod spread;
